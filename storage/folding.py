"""How events and the centre's own word change the state of an attempt, and with it of its run. Inside one transaction."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, select, update

from fdn_worker.protocol import IllegalTransition, Reason, Report, State, TaskEvent, advance
from storage import accounts
from storage.accounts import without_nul
from storage.schema import LARGEST_NUMBER, attempts, runs

log = logging.getLogger(__name__)

# Made once: to build a statement costs more than to execute it, and these are executed for every event.
_OF_ATTEMPT = (attempts.c.run == bindparam("of_run"), attempts.c.attempt == bindparam("of_attempt"))
_SET_ATTEMPT = update(attempts).where(*_OF_ATTEMPT).values(
    {name: bindparam(name) for name in ("state", "state_at", "last_number", "reason_code", "reason_fault", "reason_message", "report")}
)  # fmt: skip
_SET_LAST_NUMBER = update(attempts).where(*_OF_ATTEMPT).values(last_number=bindparam("last_number"))
_SET_RUN = update(runs).where(runs.c.id == bindparam("of_run")).values(state=bindparam("state"))
_STANDING = (
    select(
        attempts.c.run, attempts.c.attempt, attempts.c.state, attempts.c.dispatched, attempts.c.last_number,
        runs.c.attempt, runs.c.execution, runs.c.task, runs.c.node,
    )
    .join_from(attempts, runs)
    .where(attempts.c.run.in_(bindparam("of_runs", expanding=True)))
    .order_by(attempts.c.run)
    .with_for_update(of=runs)
)  # fmt: skip


@dataclass(frozen=True)
class Standing:
    """How an attempt stands, with the `current` attempt of its run and whose run that is."""

    run: str
    attempt: int
    state: State
    dispatched: datetime | None
    last_number: int
    current: int
    execution: str
    task: str
    node: str


def standing(db: Connection, of: Iterable[str]) -> dict[tuple[str, int], Standing]:
    """The attempts of these runs. Their runs are locked, always in the same order, until the transaction ends."""
    found = db.execute(_STANDING, {"of_runs": list(of)})
    return {(row.run, row.attempt): row for row in (Standing(*row) for row in found)}


def is_of(row: Standing | None, event: TaskEvent) -> bool:
    """Whether the event is of this attempt, and not of another's run under the same id."""
    if row is None or event.number > LARGEST_NUMBER:
        return False
    return (row.execution, row.task, row.node) == (str(event.execution), event.task, event.node)


def fold(db: Connection, row: Standing, events: Sequence[TaskEvent]) -> None:
    """Take new events, in the order of their numbers, into the state of their attempt.

    What arrives late is stale by `advance`, and an end stays the end, so the order of arrival does not matter. LOST is
    the centre's guess: any later word supersedes it, but not once a newer attempt was issued.
    """
    state = row.state
    decisive: TaskEvent | None = None
    for event in events:
        if event.state is None or (state is State.LOST and row.attempt != row.current):
            continue
        try:
            after = advance(state, event.state)
        except IllegalTransition as error:
            log.warning("event %s is kept, but changes nothing: %s", event.message_id, error, extra={"action": "illegal-transition"})
            continue
        if after is not state:
            state, decisive = after, event
    last_number = max(row.last_number, events[-1].number)
    if decisive is not None:
        set_state(db, row, state, decisive.at, decisive.reason, decisive.report, last_number)
    elif last_number > row.last_number:
        db.execute(_SET_LAST_NUMBER, {"of_run": row.run, "of_attempt": row.attempt, "last_number": last_number})


def set_state(
    db: Connection, row: Standing, state: State, at: datetime, reason: Reason | None, report: Report | None, last_number: int
) -> None:
    """Write an attempt's new state, and its account if that is an end; the run has it too if this is its current attempt."""
    db.execute(
        _SET_ATTEMPT,
        {
            "of_run": row.run, "of_attempt": row.attempt, "state": state, "state_at": at, "last_number": last_number,
            "reason_code": without_nul(reason.code) if reason else None,
            "reason_fault": reason.fault.value if reason else None,
            "reason_message": without_nul(reason.message) if reason else None,
            "report": report.model_dump_json() if report else None,
        },
    )  # fmt: skip
    if row.attempt == row.current:
        db.execute(_SET_RUN, {"of_run": row.run, "state": state})
    if state.terminal:
        accounts.write(db, row.run, row.attempt, state, at, reason, report)
    elif row.state is State.LOST:
        accounts.take_back(db, row.run, row.attempt)
