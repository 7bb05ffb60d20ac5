"""What the records give of federated learning: one frozen dataclass a table, its fields the columns, and the states' names."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, TypedDict

SessionState = Literal["CREATED", "RUNNING", "PAUSED", "FINISHED", "STOPPED", "FAILED"]
RoundState = Literal["OPEN", "DONE", "FAILED"]
#: What a person asked of a session.
Wish = Literal["run", "pause", "stop"]
#: CARRIED: of an earlier round, and counted in this one. LATE: came after its round had ended. LOST: nothing came.
Outcome = Literal["COUNTED", "REFUSED", "LATE", "LOST", "CARRIED"]
Phase = Literal["train", "validate"]
#: States that a session does not leave.
ENDED: frozenset[SessionState] = frozenset({"FINISHED", "STOPPED", "FAILED"})


@dataclass(frozen=True)
class SessionRow:
    """One session. `configuration` is its JSON text, `package` the checksum of its client package, `round` the latest one that was opened."""

    id: str
    name: str
    user: str
    project: str
    key: str
    configuration: str
    package: str
    state: SessionState
    wanted: Wish
    #: Why it stands so, for people.
    reason: str
    round: int
    #: The Prefect flow run that drives it.
    flow_run: str | None
    created: datetime
    changed: datetime
    ended: datetime | None


@dataclass(frozen=True)
class RoundRow:
    """A round of a session. `requested` are the clients that were asked, `model` is what came of it."""

    session: str
    number: int
    state: RoundState
    began: datetime
    ended: datetime | None
    model: str | None
    reason: str
    requested: list[str]


@dataclass(frozen=True)
class UpdateRow:
    """What one client did in a round. `outcome` is None until it is known."""

    session: str
    round: int
    client: str
    #: Who folded it; "" where the centre did.
    combiner: str
    #: The run that made it.
    run: str | None
    outcome: Outcome | None
    reason: str
    examples: float | None
    metrics: dict[str, float]
    began: datetime
    ended: datetime | None
    #: Metrics of the round's model on this client's data, with the `examples` they are of.
    validated: dict[str, float] | None
    validation_began: datetime | None
    validation_ended: datetime | None


class UpdateFields(TypedDict, total=False):
    """What `put_update` writes of an UpdateRow."""

    combiner: str
    run: str | None
    outcome: Outcome | None
    reason: str
    examples: float | None
    metrics: dict[str, float]
    began: datetime
    ended: datetime | None
    validated: dict[str, float] | None
    validation_began: datetime | None
    validation_ended: datetime | None


@dataclass(frozen=True)
class ModelRow:
    """A model. A seed has round 0; its `parent` is None, or a model of another session that this one goes on from."""

    id: str
    session: str
    round: int
    parent: str | None
    created: datetime
    #: Key of its file in the object store.
    where_: str
    size: int
    sha256: str
    #: Examples that it was trained on in its round.
    examples: float | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    #: Clients whose updates were counted.
    participants: int = 0
    #: Since when its file is gone; the row stays.
    deleted: datetime | None = None
    released: datetime | None = None
    released_by: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class MeasureRow:
    """A number that a client told while it worked. `step` (below 2**63) is its own count; `value` may be NaN."""

    session: str
    round: int
    client: str
    phase: Phase
    step: int
    name: str
    value: float
    at: datetime
