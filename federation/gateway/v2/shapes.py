"""What the clean interface answers with."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from fdn_worker.protocol import Reason, State
from federation.gateway.problems import Problem
from storage.accounts import Account
from storage.learning import ModelRow, RoundRow, SessionRow, UpdateRow
from storage.listing import Listed

Item = TypeVar("Item")

#: Every error, for the interface's description.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": told, "content": {"application/problem+json": {"schema": Problem.model_json_schema()}}}
    for status, told in {
        400: "What was asked for is wrong", 401: "Not signed in", 403: "Not the caller's to do", 404: "No such thing, or not the caller's",
        405: "Not with this verb", 408: "The body came too slowly", 409: "It does not fit what is there", 410: "Deleted by retention",
        413: "The body is too large", 422: "It cannot be read, or is refused", 429: "Too much at once", 500: "Out of order",
        503: "Broker, store or records cannot be reached",
    }.items()
}  # fmt: skip
#: Of what is downloaded.
BYTES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}}}, 206: {"description": "The range of it that was asked for"},
    304: {"description": "As the client has it"}, 416: {**PROBLEMS[400], "description": "The file has no such range"},
}  # fmt: skip


class Page(BaseModel, Generic[Item]):
    """A part of a list, the newest first."""

    items: list[Item]
    #: To be handed back as `cursor` for the next page; null at the end.
    next: str | None = None


class Run(BaseModel):
    """One task at one node."""

    id: str
    task: str
    node: str
    #: 0 before the first.
    attempt: int
    state: State
    reason: Reason | None = None
    issued: datetime | None = None
    #: Since when it has stood so.
    since: datetime | None = None
    #: Of the attempt that counts: each state, and since when by the node's clock.
    stages: list[Stage] = Field(default_factory=list)
    #: What it used, once it has ended.
    used: Account | None = None


class Stage(BaseModel):
    """A state that a run was in."""

    state: State
    at: datetime


class Execution(BaseModel):
    """One submission, with its runs."""

    id: str
    user: str
    project: str
    tool: str
    #: OPEN until it is closed.
    state: str
    #: What came of it, for people.
    outcome: str | None
    created: datetime
    closed: datetime | None
    #: Since when its files are gone, by retention.
    cleaned: datetime | None
    #: Its flow run in Prefect's UI.
    flow_run: str | None
    #: As it was submitted.
    request: dict[str, Any]
    runs: list[Run]


class Submitted(BaseModel):
    """Taken; what comes of it is told by the execution."""

    id: str


class Asked(BaseModel):
    """What was asked for is under way."""

    id: str
    asked: Literal["cancel", "retry"]


class File(BaseModel):
    """A file that a run has left."""

    task: str
    node: str
    path: str
    size: int
    sha256: str


class Files(BaseModel):
    """What has come back so far; of nodes whose files are damaged, why there are none."""

    files: list[File]
    troubles: dict[str, str]


class Tool(BaseModel):
    """A tool of the catalogue."""

    name: str
    title: str
    version: str
    author: str
    description: str
    #: As it stands in the catalogue.
    document: dict[str, Any]


class Queue(BaseModel):
    """A queue of a node; the counts are null where the broker has none of that name."""

    name: str
    what: str
    messages: int | None
    consumers: int | None


class Session(BaseModel):
    """A session of federated learning."""

    session: SessionRow
    rounds: list[RoundRow]
    updates: list[UpdateRow]


class Measure(BaseModel):
    """A number that a client told while it worked; null is not a number."""

    round: int
    client: str
    phase: str
    name: str
    step: int
    value: float | None
    at: datetime


class Model(BaseModel):
    """A model, with what it came of and what came of it, the nearest first; of sessions alone that one may see."""

    model: ModelRow
    ancestors: list[ModelRow]
    descendants: list[ModelRow]


class Simulation(BaseModel):
    """Results of a simulation, or of a sweep, and since when they are there."""

    name: str
    at: datetime


class SimulationResults(BaseModel):
    """What came of it: the variants' configurations, a row of the summary for each, and a row of each round."""

    name: str
    configurations: dict[str, dict[str, Any]]
    summary: list[dict[str, Any]]
    rounds: list[dict[str, Any]]


Run.model_rebuild()
ExecutionPage = Page[Listed]
SessionPage = Page[SessionRow]
