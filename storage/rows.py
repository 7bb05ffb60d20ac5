"""What the records give: one frozen dataclass a table, its fields the columns. Times are aware, in UTC; ids are strings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from fdn_worker.errors import Fault, FdnError
from fdn_worker.protocol import Reason, State

#: State of an execution that is not closed.
OPEN = "OPEN"


class RecordsRefused(FdnError):
    """What was asked of the records does not fit what stands in them; `code` says how."""

    code = "records"
    fault = Fault.USER


@dataclass(frozen=True)
class ExecutionRow:
    """One submission. `request` is its JSON text; `state` is OPEN until it is closed with another."""

    id: str
    user: str
    project: str
    tool: str
    key: str
    request: str
    created: datetime
    closed: datetime | None
    state: str
    #: What came of it, for people; None before it was closed.
    outcome: str | None = None
    #: JSON text of the tool as it was when it was submitted; None for a single task.
    document: str | None = None
    #: The Prefect flow run that wants it.
    flow_run: str | None = None
    #: Since when that flow run holds no process.
    suspended: datetime | None = None
    #: Since when the objects of the attempts issued before are gone, by retention.
    cleaned: datetime | None = None
    #: Since when the store has none of them left; None after `cleaned` means that there may be some.
    swept: datetime | None = None


@dataclass(frozen=True)
class RunRow:
    """One task at one node. `attempt` is the current one, 0 before the first; `state` is that attempt's."""

    id: str
    execution: str
    task: str
    node: str
    attempt: int
    state: State


@dataclass(frozen=True)
class AttemptRow:
    """One try of a run."""

    run: str
    attempt: int
    #: The sealed order exactly as it was or will be sent.
    order_body: bytes
    issued: datetime
    deadline: datetime
    #: When the broker confirmed the order.
    dispatched: datetime | None
    state: State
    state_at: datetime
    #: Highest number of an event that was heard, 0 before the first.
    last_number: int
    reason_code: str | None
    reason_fault: str | None
    reason_message: str | None
    #: JSON text of the Report that came with the last event.
    report: str | None
    cancel_requested: datetime | None

    @property
    def reason(self) -> Reason | None:
        """Why it ended otherwise than in success."""
        if self.reason_code is None or self.reason_fault is None:
            return None
        return Reason(code=self.reason_code, fault=Fault(self.reason_fault), message=self.reason_message or "")


@dataclass(frozen=True)
class NodeRow:
    """A site. `last_seen` is by the centre's clock; `heartbeat` the JSON text of the last one."""

    name: str
    display_name: str
    public_key: str
    enrolled: datetime
    retired: datetime | None
    last_seen: datetime | None
    heartbeat: str | None
    #: JSON text of its catalogue entry, where there is one.
    document: str | None = None
    #: Since when the centre has had it take no orders.
    paused: datetime | None = None


class LogLine(NamedTuple):
    """A line of a task's log, with the number of the event that brought it."""

    node: str
    number: int
    at: datetime
    line: str
