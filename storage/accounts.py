"""Accounts: what each ended attempt used, one row an attempt. Written in the transaction that ends it, and kept when all else is deleted.

A node's figures are its own word, so none is believed beyond what is possible: no stage is longer than the centre has
known of the attempt, and no processor time exceeds that of the largest node. What had to be cut is marked as estimated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, and_, bindparam, delete, select
from sqlalchemy.dialects import postgresql, sqlite

from fdn_worker.errors import Fault
from fdn_worker.protocol import Reason, Report, State, now
from storage.schema import accounts, attempts, events, executions, runs

if TYPE_CHECKING:
    from storage.database import Database

#: Processors of the largest order.
MOST_CPUS = 4096
#: Bytes beyond which no figure is believed: a pebibyte.
MOST_BYTES = 2**50
#: Characters kept of a text that a node gives.
MOST_TEXT = 500
#: Column -> the state that begins it; `waiting` is from the order until then.
STAGES = {
    "staging_in": State.STAGING_IN, "running": State.RUNNING, "staging_out": State.STAGING_OUT, "releasing": State.AWAITING_RELEASE,
}  # fmt: skip

# Made once, as in `folding`. One row for each state that the node told of, or one alone if it told of none.
_STORY = (
    select(
        executions.c.id, executions.c.user, executions.c.project, executions.c.tool, runs.c.task, runs.c.node, attempts.c.issued,
        events.c.state, events.c.at,
    )
    .join_from(attempts, runs)
    .join(executions)
    .outerjoin(events, and_(events.c.run == attempts.c.run, events.c.attempt == attempts.c.attempt, events.c.state.is_not(None)))
    .where(attempts.c.run == bindparam("of_run"), attempts.c.attempt == bindparam("of_attempt"))
)  # fmt: skip
_TAKE_BACK = delete(accounts).where(accounts.c.run == bindparam("of_run"), accounts.c.attempt == bindparam("of_attempt"))
_KEY = ("run", "attempt")


def _upsert(insert: Any) -> Any:
    statement = insert(accounts)
    values = {column.name: statement.excluded[column.name] for column in accounts.c if column.name not in _KEY}
    return statement.on_conflict_do_update(index_elements=_KEY, set_=values)


_WRITE = {"sqlite": _upsert(sqlite.insert), "postgresql": _upsert(postgresql.insert)}


def write(db: Connection, run: str, attempt: int, state: State, at: datetime, reason: Reason | None, report: Report | None) -> None:
    """The account of an attempt that ended `at` in `state`; one that stood before is replaced, as a late word replaces LOST."""
    told = db.execute(_STORY, {"of_run": run, "of_attempt": attempt}).all()
    execution, user, project, tool, task, node, issued, _, _ = told[0]
    known = max(0.0, (now() - issued).total_seconds())
    report = report or Report()
    cpu = min(report.usage.cpu_seconds, MOST_CPUS * known)
    sizes = {"peak_memory": report.usage.peak_memory, "bytes_in": report.bytes_in, "bytes_out": report.bytes_out}
    possible = {name: min(size, MOST_BYTES) for name, size in sizes.items()}
    code = report.exit_code if report.exit_code is not None and abs(report.exit_code) < 2**31 else None
    db.execute(
        _WRITE[db.dialect.name],
        {
            "run": run, "attempt": attempt, "execution": execution, "user": user, "project": project, "tool": tool, "task": task, "node": node,
            "state": state, "reason_code": _short(reason.code) if reason else None, "reason_fault": reason.fault.value if reason else None,
            "launcher": _short(report.launcher), "image_digest": _short(report.image_digest), "exit_code": code, "cpu_seconds": cpu, **possible,
            "estimated": report.usage.estimated or cpu < report.usage.cpu_seconds or possible != sizes,
            "issued": issued, "ended": min(max(at, issued), max(now(), issued)),
            **stages(issued, {row.state: row.at for row in told if row.state is not None}, at, known),
        },
    )  # fmt: skip


def take_back(db: Connection, run: str, attempt: int) -> None:
    """The attempt has not ended after all: its node said so after the centre gave it up."""
    db.execute(_TAKE_BACK, {"of_run": run, "of_attempt": attempt})


def stages(issued: datetime, began: Mapping[State, datetime], ended: datetime, most: float) -> dict[str, float]:
    """Seconds of each stage, each at most `most`; 0 for one that was not reached.

    `issued` is by the centre's clock and the rest by the node's, so a difference between the two falls to `waiting` alone.
    """
    seconds = dict.fromkeys(("waiting", *STAGES), 0.0)
    stage, since = "waiting", issued
    for name, state in STAGES.items():
        if state in began:
            seconds[stage] = (began[state] - since).total_seconds()
            stage, since = name, began[state]
    seconds[stage] = (ended - since).total_seconds()
    return {name: min(max(0.0, value), most) for name, value in seconds.items()}


@dataclass(frozen=True)
class Account:
    """What one attempt used. Seconds for each stage, bytes for sizes."""

    run: str
    attempt: int
    exit_code: int | None
    cpu_seconds: float
    peak_memory: int
    bytes_in: int
    bytes_out: int
    estimated: bool
    launcher: str | None
    image_digest: str | None
    issued: datetime
    ended: datetime
    waiting: float
    staging_in: float
    running: float
    staging_out: float
    releasing: float


def of_execution(database: Database, execution: str) -> dict[str, Account]:
    """Run -> the account of the attempt that counts now, where that has ended."""
    columns = [accounts.c[name] for name in Account.__dataclass_fields__]
    current = and_(runs.c.id == accounts.c.run, runs.c.attempt == accounts.c.attempt)
    with database.read() as db:
        rows = db.execute(select(*columns).join_from(accounts, runs, current).where(runs.c.execution == execution))
        return {row.run: Account(**row._mapping) for row in rows}


def fill(db: Connection) -> None:
    """Write the accounts of all attempts that ended before there were any."""
    ended = select(
        attempts.c.run, attempts.c.attempt, attempts.c.state, attempts.c.state_at, attempts.c.reason_code, attempts.c.reason_fault, attempts.c.report
    ).where(attempts.c.state.in_([state for state in State if state.terminal]))  # fmt: skip
    for row in db.execute(ended).all():
        reason = Reason(code=row.reason_code, fault=Fault(row.reason_fault), message="") if row.reason_code and row.reason_fault else None
        report = Report.model_validate_json(row.report) if row.report else None
        write(db, row.run, row.attempt, row.state, row.state_at, reason, report)


def without_nul(words: str) -> str:
    """PostgreSQL takes no NUL in a text, and one from a node must not stop all events."""
    return words.replace("\0", "\N{REPLACEMENT CHARACTER}")


def _short(words: str | None) -> str | None:
    return None if words is None else without_nul(words)[:MOST_TEXT]
