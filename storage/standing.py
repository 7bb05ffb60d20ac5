"""How much of what there is in the records, for metrics: counts alone, by indexed columns."""

from __future__ import annotations

from sqlalchemy import func, select

from fdn_worker.protocol import State
from storage.database import Database
from storage.rows import OPEN
from storage.schema import executions, runs


def executions_by_state(database: Database) -> dict[str, int]:
    """Executions, of which an open one counts as such."""
    with database.read() as db:
        found = db.execute(select(executions.c.state, func.count()).group_by(executions.c.state))
        return {row[0]: row[1] for row in found}


def open_runs_by_state(database: Database) -> dict[State, int]:
    """Runs of open executions."""
    of_open = select(runs.c.state, func.count()).join(executions, runs.c.execution == executions.c.id).where(executions.c.state == OPEN)
    with database.read() as db:
        found = db.execute(of_open.group_by(runs.c.state))
        return {row[0]: row[1] for row in found}
