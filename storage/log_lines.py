"""The log lines of an execution's runs as one stream in order of time, whatever its length: a merge over the runs' own streams."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import chain

from sqlalchemy import select

from fdn_worker.protocol import TaskEvent
from storage.database import Database
from storage.schema import events

#: Events that are held in memory at once, of all runs together, and of each run at least.
HELD, LEAST = 4000, 4


def merged(database: Database, attempts: Sequence[tuple[str, int]]) -> Iterator[TaskEvent]:
    """The events of these attempts (run, number) that bring log lines, by time; each attempt's own in order.

    Clocks of nodes differ, and one may be set back: an attempt's lines are never put out of their own order for that.
    """
    page = max(LEAST, HELD // max(1, len(attempts)))
    for _, _, event in heapq.merge(*(_in_time(database, run, attempt, page) for run, attempt in attempts)):
        yield event


def _in_time(database: Database, run: str, attempt: int, page: int) -> Iterator[tuple[datetime, tuple[str, int], TaskEvent]]:
    latest: datetime | None = None
    for event in chain.from_iterable(_pages(database, run, attempt, page)):
        latest = event.at if latest is None else max(latest, event.at)
        if event.lines:
            yield latest, (run, event.number), event


def _pages(database: Database, run: str, attempt: int, size: int) -> Iterator[list[TaskEvent]]:
    """Each page in a transaction of its own: a slow reader holds nothing up."""
    after = 0
    while True:
        of = (events.c.run == run, events.c.attempt == attempt, events.c.number > after)
        with database.read() as db:
            found = db.execute(select(events.c.number, events.c.body).where(*of).order_by(events.c.number).limit(size)).all()
        yield [TaskEvent.model_validate_json(row.body) for row in found]
        if len(found) < size:
            return
        after = found[-1].number
