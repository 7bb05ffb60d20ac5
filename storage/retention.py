"""Retention: the objects of executions that closed long ago, and if so wished their records, are deleted; accounts stay.

An execution is marked as cleaned before the first of its objects goes, and as swept after the last: so no record promises
what is not there, and what an interruption leaves is found and deleted by the next call.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, and_, delete, func, or_, select, true, update

from fdn_worker.protocol import now
from storage.keys import execution_prefix
from storage.objects import ObjectStore
from storage.records import Records
from storage.schema import attempts, events, executions, runs

#: Executions looked up at a time.
PAGE = 200


@dataclass(frozen=True)
class Old:
    """An execution that closed long ago, and what it holds: objects with their bytes, events in the records."""

    id: str
    user: str
    project: str
    tool: str
    closed: datetime
    objects: int
    bytes: int
    events: int


def old(records: Records, store: ObjectStore, before: datetime, *, project: str | None = None, whole: bool = False) -> Iterator[Old]:
    """The executions that closed before that moment, the oldest first: with `whole` all of them, else those with objects to delete."""
    wanted: ColumnElement[bool] = executions.c.closed < before
    wanted &= true() if project is None else executions.c.project == project
    # one that was opened again and closed has new objects
    wanted &= true() if whole else or_(executions.c.swept.is_(None), executions.c.swept < executions.c.closed)
    after: ColumnElement[bool] = true()
    while True:
        with records.database.read() as db:
            page = db.execute(
                select(
                    executions.c.id, executions.c.user, executions.c.project, executions.c.tool, executions.c.closed,
                    select(func.count()).select_from(events).join(runs, runs.c.id == events.c.run)
                    .where(runs.c.execution == executions.c.id).scalar_subquery(),
                ).where(wanted, after).order_by(executions.c.closed, executions.c.id).limit(PAGE)
            ).all()  # fmt: skip
        for id_, user, of, tool, closed, said in page:
            sizes = [info.size for info in store.list(execution_prefix(UUID(id_)))]
            yield Old(id_, user, of, tool, closed, len(sizes), sum(sizes), said)
        if len(page) < PAGE:
            return
        last = page[-1]
        after = or_(executions.c.closed > last.closed, and_(executions.c.closed == last.closed, executions.c.id > last.id))


def delete_objects(records: Records, store: ObjectStore, execution: str, before: datetime) -> bool:
    """Delete inputs, outputs and logs; False if it was opened again in between. Interrupted, it is to be called again."""
    is_old = (executions.c.id == execution, executions.c.closed < before)
    with records.database.write() as db:
        marked = db.execute(update(executions).where(*is_old).values(cleaned=now(), swept=None).returning(executions.c.id)).first()
        if marked is not None:
            records.audit.append(db, "cleaned", execution=execution)
    if marked is None:
        return False
    keys = [info.key for info in store.list(execution_prefix(UUID(execution)))]
    with records.database.read() as db:
        # what was listed is of old attempts only if there was no new one until now
        if db.execute(select(executions.c.id).where(*is_old)).first() is None:
            return False
    store.delete(keys)
    with records.database.write() as db:
        db.execute(update(executions).where(*is_old).values(swept=now()))
    return True


def delete_records(records: Records, execution: str, before: datetime) -> bool:
    """Delete an execution with its runs, attempts, events and log lines; False unless it is old, and its objects are gone."""
    its_runs = select(runs.c.id).where(runs.c.execution == execution)
    with records.database.write() as db:
        gone = (executions.c.id == execution, executions.c.closed < before, executions.c.swept >= executions.c.closed)
        if db.execute(select(executions.c.id).where(*gone).with_for_update()).first() is None:
            return False
        for table in (events, attempts):
            db.execute(delete(table).where(table.c.run.in_(its_runs)))
        db.execute(delete(runs).where(runs.c.execution == execution))
        db.execute(delete(executions).where(executions.c.id == execution))
        records.audit.append(db, "records-deleted", execution=execution)
    return True
