"""Executions as they are followed: one reader for each that somebody follows, however many do; no thread and no query for a follower.

It looks into the records, which all gateways share, and not at the broker: there is no queue to leave behind, and nothing is
missed where a follower goes on at another gateway. A follower that does not keep up is let go, and goes on where it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field

from fdn_worker.errors import FdnError
from fdn_worker.protocol import TaskEvent
from federation.request import BadRequest
from storage.listing import heads, lines_after
from storage.records import OPEN, ExecutionRow, Records
from storage.schema import LARGEST_NUMBER

log = logging.getLogger(__name__)

#: Seconds between two looks, and until a follower hears that there is nothing.
EVERY, BEAT = 1.0, 15.0
#: Events that are read at a time, and such batches that wait for a follower.
PAGE, WAITING = 500, 8
#: Run -> attempt and number of an event: it and those before it were told.
Position = Mapping[str, tuple[int, int]]


@dataclass(frozen=True)
class Batch:
    """What came: events, each run's in order; the execution, where it stands otherwise than before; `last` when it is closed."""

    events: Sequence[TaskEvent] = ()
    row: ExecutionRow | None = None
    last: bool = False


def id_of(order: Sequence[str], position: Position) -> str:
    """The position as one word: ATTEMPT:NUMBER of each run, in the order of the execution's runs."""
    return ",".join("{}:{}".format(*position[run]) if run in position else "" for run in order)


def position_of(order: Sequence[str], id_: str) -> dict[str, tuple[int, int]]:
    """The position that such a word means; BadRequest if it is none of this execution's."""
    parts = id_.split(",") if id_ else [""] * len(order)
    try:
        return {run: _place(part) for run, part in zip(order, parts, strict=True) if part}
    except ValueError as error:
        raise BadRequest("Last-Event-ID is no event of this execution", remedy="hand back the id of the last event, or none") from error


def _place(part: str) -> tuple[int, int]:
    attempt, number = (int(one) for one in part.split(":"))
    if not (0 < attempt <= LARGEST_NUMBER and 0 <= number <= LARGEST_NUMBER):
        raise ValueError(part)
    return attempt, number


@dataclass
class _Feed:
    """One execution as its reader has it. The position is replaced by each look, never changed."""

    row: ExecutionRow
    position: Position
    followers: set[asyncio.Queue[Batch]] = field(default_factory=set)
    reader: asyncio.Task[None] | None = None

    def tell(self, batch: Batch) -> None:
        """Hand it to each follower; one with no room for it gets nothing more, which ends it."""
        for waiting in list(self.followers):
            try:
                waiting.put_nowait(batch)
            except asyncio.QueueFull:
                self.followers.discard(waiting)
                log.warning("a follower that does not keep up is let go", extra={"action": "follower-stalled"})


class Feeds:
    """Of one event loop. Whether somebody may follow is decided before."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._feeds: dict[str, _Feed] = {}

    async def follow(self, row: ExecutionRow, after: Position) -> AsyncGenerator[Batch]:
        """The execution as it stands, what came after the position, then what comes; ends once it is closed.

        An empty batch says now and then that all is well. What two gateways tell may overlap: the follower knows what it has.
        """
        feed = self._feeds.get(row.id)
        if feed is None:
            begun = await asyncio.to_thread(self._begin, row.id)
            # Somebody else may have been as quick.
            feed = self._feeds.setdefault(row.id, begun)
            feed.reader = feed.reader or asyncio.create_task(self._read(feed))
        waiting: asyncio.Queue[Batch] = asyncio.Queue(WAITING)
        feed.followers.add(waiting)
        try:
            stands, upto = feed.row, feed.position
            yield Batch(row=stands)
            async for batch in self._missed(after, upto):
                yield batch
            if stands.state != OPEN:
                yield Batch(last=True)
                return
            while waiting in feed.followers or not waiting.empty():
                try:
                    async with asyncio.timeout(BEAT):
                        batch = await waiting.get()
                except TimeoutError:
                    batch = Batch()
                yield batch
                if batch.last:
                    return
        finally:
            feed.followers.discard(waiting)
            if not feed.followers:
                self._end(feed)

    async def close(self) -> None:
        """End all readers."""
        for feed in list(self._feeds.values()):
            self._end(feed)

    def _end(self, feed: _Feed) -> None:
        if feed.reader is not None:
            feed.reader.cancel()
        if self._feeds.get(feed.row.id) is feed:
            del self._feeds[feed.row.id]

    def _begin(self, execution: str) -> _Feed:
        # The execution first: once it is closed, all that its runs said is there.
        row = self._records.execution(execution)
        assert row is not None, "it was revealed to whoever follows"
        standing = heads(self._records.database, execution)
        return _Feed(row, {head.run: (head.attempt, head.last) for head in standing})

    async def _missed(self, after: Position, upto: Position) -> AsyncGenerator[Batch]:
        for run, (attempt, last) in upto.items():
            number = _since(after, run, attempt)
            while number < last:
                found = await asyncio.to_thread(lines_after, self._records.database, run, attempt, number, min(PAGE, last - number))
                here = [event for event in found if event.number <= last]
                if not here:
                    break
                yield Batch(here)
                number = here[-1].number

    async def _read(self, feed: _Feed) -> None:
        try:
            while feed.row.state == OPEN:
                await asyncio.sleep(EVERY)
                more = True
                while more:
                    row, events, position, more = await asyncio.to_thread(self._look, feed)
                    changed = row if row.state != feed.row.state else None
                    feed.row, feed.position = (feed.row if more else row), position
                    if events or (changed and not more):
                        feed.tell(Batch(events, None if more else changed))
        except FdnError as error:
            # Each follower asks again, and is told which part is down.
            log.warning("a feed ends: %s", error, extra={"action": "feed-fault"})
        finally:
            if self._feeds.get(feed.row.id) is feed:
                del self._feeds[feed.row.id]
            feed.tell(Batch(last=True))

    def _look(self, feed: _Feed) -> tuple[ExecutionRow, list[TaskEvent], Position, bool]:
        """The execution, what came since, up to where, and whether there is more of it."""
        row = self._records.execution(feed.row.id)
        if row is None:  # deleted by retention meanwhile
            return feed.row, [], feed.position, False
        found: list[TaskEvent] = []
        position = dict(feed.position)
        for head in heads(self._records.database, row.id):
            number = _since(position, head.run, head.attempt)
            if head.last <= number:
                continue
            if len(found) >= PAGE:
                return row, found, position, True
            read = lines_after(self._records.database, head.run, head.attempt, number, PAGE)
            # Events may arrive in any order: behind a gap nothing is told until it is filled, or nothing more is to come.
            whole = [event for place, event in enumerate(read, number + 1) if event.number == place or row.state != OPEN]
            found += whole
            if whole:
                position[head.run] = (head.attempt, whole[-1].number)
            if len(whole) == PAGE:
                return row, found, position, True
        return row, found, position, False


def _since(position: Position, run: str, attempt: int) -> int:
    """Number of the last event of this attempt that was told."""
    told, number = position.get(run, (0, 0))
    return number if told == attempt else 0
