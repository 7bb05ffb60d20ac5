"""The reconciler: it ends at the nodes what no live flow run wants, and wakes suspended executions whose wake-up was lost.

The last of three layers of a cancel: the flow's process does it first, then the flow's hook in another process; this one
holds when neither could. A pass may be made at any time, by several at once: all that it does is done once, or again
without harm. It knows no Prefect: how flow runs stand is told to it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from fdn_worker.errors import FdnError, SystemFault
from fdn_worker.protocol import State, now
from federation import execution
from federation.centre import Centre, Submission
from federation.results import stage_out
from federation.suspension import Pairs, due, ends_by, job_of
from storage.records import ExecutionRow

log = logging.getLogger(__name__)

#: Executions that are looked at together: one question to Prefect.
PAGE = 200
#: Seconds after its flow run's end in which a retry may take up an execution.
GRACE = 600.0
#: Seconds in which a cancel is asked for again at each pass; then it waits in the node's queue for sure.
INSIST = 3600.0
#: Age beyond which a closed execution is not looked at any more.
OLDEST = timedelta(days=30)


class Life(StrEnum):
    """How far a flow run wants what it has started."""

    LIVE = "live"
    SUSPENDED = "suspended"
    CANCELLED = "cancelled"
    #: Crashed, failed, completed, or not known to Prefect.
    OVER = "over"


class FlowRunLife(NamedTuple):
    """`since` is None where Prefect does not know; `state` is its word for people."""

    life: Life
    since: datetime | None
    state: str


UNKNOWN = FlowRunLife(Life.OVER, None, "unknown to Prefect")

#: Flow run ids -> how each stands; one that is missing is unknown.
Lives = Callable[[Sequence[str]], Mapping[str, FlowRunLife]]
#: Resumes a flow run; False when it was not suspended any more.
Resume = Callable[[ExecutionRow], bool]


@dataclass
class Reconciled:
    """What a pass did: ids of executions."""

    looked: int = 0
    cancelled: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    #: Could not be dealt with: the next pass tries again.
    left: list[str] = field(default_factory=list)

    def explain(self) -> str:
        """One line for people."""
        done = {name: getattr(self, name) for name in ("cancelled", "closed", "resumed", "left")}
        return f"{self.looked} open executions; " + ", ".join(f"{len(ids)} {name}" for name, ids in done.items())


def reconcile(centre: Centre, lives: Lives, resume: Resume, *, grace: float = GRACE) -> Reconciled:
    """One pass. Raises what Prefect's absence raises in `lives`; a fault with one execution leaves it to the next pass."""
    done, at = Reconciled(), now()
    # Where no service is the relay, a cancel is confirmed through this process.
    centre.ensure_relay()
    after: str | None = None
    while page := centre.records.wanted.page(after, PAGE):
        after = page[-1].id
        done.looked += len(page)
        found = lives([str(row.flow_run) for row in page])
        for row in page:
            _settle(centre, row, found.get(str(row.flow_run), UNKNOWN), at, grace, resume, done)
    for closed in centre.records.wanted.closed_but_running(at - OLDEST, PAGE):
        if _asked(centre, UUID(closed), centre.records.current_attempts(closed), at, "its execution is closed"):
            done.cancelled.append(closed)
    return done


def unwanted(row: ExecutionRow, flow_run: FlowRunLife, at: datetime, grace: float) -> str:
    """Why an execution is to end; "" while it is wanted, or a retry may still want it."""
    why = f"its flow run is {flow_run.state}"
    if flow_run.life is Life.CANCELLED:
        return why
    over = flow_run.life is Life.OVER and (at - (flow_run.since or row.created)).total_seconds() > grace
    return why if over else ""


def _settle(centre: Centre, row: ExecutionRow, flow_run: FlowRunLife, at: datetime, grace: float, resume: Resume, done: Reconciled) -> None:
    try:
        if why := unwanted(row, flow_run, at, grace):
            _end(centre, row, flow_run.life is Life.CANCELLED, why, at, done)
        elif flow_run.life is Life.SUSPENDED and due(centre, row, at) and resume(row):
            done.resumed.append(row.id)
    except FdnError as error:
        log.error("execution %s: %s", row.id, error, extra={"action": "reconcile-left"})
        done.left.append(row.id)


def _end(centre: Centre, row: ExecutionRow, cancelled: bool, why: str, at: datetime, done: Reconciled) -> None:
    """Have the nodes end it; once they have, write its verdict."""
    pairs = centre.records.current_attempts(row.id)
    if _asked(centre, UUID(row.id), pairs, at, why):
        done.cancelled.append(row.id)
    for run, attempt in pairs:
        overdue = at - ends_by(attempt, centre.settings.release)
        if not State(attempt.state).terminal and overdue.total_seconds() > centre.settings.patience:
            submission = Submission(UUID(row.id), UUID(run.id), run.task, run.node, attempt.attempt)
            centre.lose(submission, f"node {run.node} did not answer by the deadline")
    if row.suspended is not None:
        # What a person retries is not what was suspended.
        centre.records.wanted.wake(row.id)
    if all(State(attempt.state).terminal for _, attempt in centre.records.current_attempts(row.id)):
        _close(centre, row, cancelled)
        done.closed.append(row.id)


def _asked(centre: Centre, execution_id: UUID, pairs: Pairs, at: datetime, why: str) -> bool:
    """Ask the nodes to end what is live, unless that was asked long enough; whether it was asked now."""
    live = [attempt for _, attempt in pairs if not State(attempt.state).terminal]
    asked = [attempt.cancel_requested for attempt in live]
    if all(moment is not None and (at - moment).total_seconds() > INSIST for moment in asked):
        return False
    log.info("execution %s is ended: %s", execution_id, why, extra={"action": "reconcile-cancel"})
    centre.cancel(execution_id, why)
    return True


def _close(centre: Centre, row: ExecutionRow, cancelled: bool) -> None:
    """As its flow would have done."""
    try:
        if row.document is not None:
            _close_tool(centre, row, cancelled)
            return
        for one in centre.submissions(UUID(row.id)):
            if one.attempt:
                stage_out(centre, one)
            else:
                centre.records.close_execution(row.id, State.CANCELLED, "it was never sent")
    except FdnError as error:
        if isinstance(error, SystemFault) and error.retryable:
            raise
        centre.records.close_execution(row.id, State.FAILED, str(error))


def _close_tool(centre: Centre, row: ExecutionRow, cancelled: bool) -> None:
    job = job_of(row)
    job.cancelled = cancelled
    # What was never ordered was ended before it began.
    job.states = {(role.task, node): State.CANCELLED for role in job.roles for node in role.nodes}
    results = [result for role in job.roles for result in execution.stage_out(centre, job, role)]
    execution.close(centre, job, results)
