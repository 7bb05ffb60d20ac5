"""Which flow run of Prefect's wants which execution: what the reconciler goes over, and what was suspended."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import select, update

from fdn_worker.protocol import TERMINAL, State, now
from storage.database import Database
from storage.rows import OPEN, ExecutionRow
from storage.schema import executions, runs

#: The computation is over, and what it left is still of use.
LEAVING = frozenset({State.STAGING_OUT, State.AWAITING_RELEASE})


class Wanted:
    """Part of the records: `records.wanted`."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def suspend(self, execution: str, flow_run: str) -> bool:
        """This flow run lets go of its process. False when it is not the one on record, which then is another's to resume."""
        mine = (executions.c.id == execution) & (executions.c.flow_run == flow_run)
        with self._db.write() as db:
            return bool(db.execute(update(executions).where(mine).values(suspended=now())).rowcount)

    def wake(self, execution: str) -> None:
        """It is suspended no longer."""
        with self._db.write() as db:
            db.execute(update(executions).where(executions.c.id == execution).values(suspended=None))

    def suspended(self, among: Sequence[str]) -> list[ExecutionRow]:
        """Those of these executions that are open, and suspended."""
        wanted = executions.c.id.in_(among) & executions.c.suspended.is_not(None) & (executions.c.state == OPEN)
        with self._db.read() as db:
            return [ExecutionRow(**row._mapping) for row in db.execute(select(executions).where(wanted))]

    def page(self, after: str | None, size: int) -> list[ExecutionRow]:
        """Open executions that name a flow run, by id; those whose id comes after `after`."""
        wanted = (executions.c.state == OPEN) & executions.c.flow_run.is_not(None)
        if after is not None:
            wanted &= executions.c.id > after
        with self._db.read() as db:
            rows = db.execute(select(executions).where(wanted).order_by(executions.c.id).limit(size))
            return [ExecutionRow(**row._mapping) for row in rows]

    def closed_but_running(self, since: datetime, limit: int) -> list[str]:
        """Executions made since that are closed, though a run of theirs computes: one that was lost, and is back."""
        running = runs.c.state.not_in(TERMINAL | LEAVING) & (runs.c.attempt > 0)
        wanted = (executions.c.created >= since) & executions.c.closed.is_not(None) & running
        with self._db.read() as db:
            join = runs.c.execution == executions.c.id
            return list(db.scalars(select(executions.c.id).join_from(executions, runs, join).where(wanted).distinct().limit(limit)))
