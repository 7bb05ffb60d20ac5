"""TaskEvent: what a node says of an attempt: a state, log lines, or both, under one running number."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from fdn_worker.errors import Fault
from fdn_worker.protocol.base import ByteCount, Id, Message, Moment, Part, Sha256
from fdn_worker.protocol.order import TcpPort
from fdn_worker.protocol.states import State


class Reason(Part):
    """Why an attempt ended otherwise than in success. No traceback ever stands here."""

    code: str
    fault: Fault
    message: str


class Usage(Part):
    """What an attempt used. `estimated` marks what could not be read from its own cgroup."""

    cpu_seconds: Annotated[float, Field(ge=0)] = 0.0
    peak_memory: ByteCount = 0
    estimated: bool = False


class Release(Part):
    """The site's word on letting an attempt's files leave. It names none that stays."""

    verdict: Literal["released", "partly", "denied"]
    #: The site's rules that let files go, and the person who decided about the others.
    rules: tuple[str, ...] = ()
    person: str = ""
    at: Moment
    why: Annotated[str, StringConstraints(max_length=1000)] = ""
    #: How many files stay at the site.
    withheld: ByteCount = 0


class Report(Part):
    """The account of an attempt, with its last event."""

    launcher: str | None = None
    image_digest: str | None = None
    exit_code: int | None = None
    usage: Usage = Usage()
    bytes_in: ByteCount = 0
    bytes_out: ByteCount = 0
    #: Log lines that the caps kept from being sent or kept.
    lines_dropped: ByteCount = 0
    #: Of the manifest object; None when nothing was staged out.
    manifest_sha256: Sha256 | None = None
    #: None when the attempt left nothing to decide about (since 1.1).
    release: Release | None = None


class Endpoint(Part):
    """A port of the task that takes connections: `port` of the container is reached at `host`:`published`."""

    port: TcpPort
    host: str
    published: TcpPort


class TaskEvent(Message):
    """One thing said of an attempt. Numbers of an attempt run 1, 2, 3 without a gap; they may arrive in any order."""

    kind: ClassVar[str] = "task-event"

    execution: UUID
    task: Id
    node: Id
    run: UUID
    attempt: Annotated[int, Field(ge=1)]
    number: Annotated[int, Field(ge=1)]
    at: Moment
    state: State | None = None
    lines: tuple[str, ...] = ()
    reason: Reason | None = None
    report: Report | None = None
    #: All ports of the order, once all are open (since 1.1).
    listening: tuple[Endpoint, ...] = ()

    @property
    def message_id(self) -> str:
        return f"{self.run}.{self.attempt}.{self.number}"
