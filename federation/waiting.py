"""The wait for attempts: their events as they come, until all have ended. Nothing polls: the broker feeds it.

What came before, or was missed, is read from the records; a silent node is asked; and a run that is past its
deadline is cancelled, then LOST, so that every wait ends. One queue serves all runs of an execution.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from uuid import UUID

from fdn_worker.brokers import Delivery, Subscription
from fdn_worker.protocol import Heartbeat, State, TaskEvent, advance, decode, now
from fdn_worker.protocol.states import IllegalTransition
from federation.centre import Centre, Submission
from storage.records import AttemptRow

log = logging.getLogger(__name__)

#: Seconds between two heartbeats of a node that never said so itself.
HEARTBEAT = 10.0
#: Seconds after a deadline in which a node may say that it ended the run by itself, before it is asked to cancel it.
LENIENCE = 3.0
#: States in which the computation is over: the deadline of the release counts, no more that of the execution.
COMPUTED = frozenset({State.STAGING_OUT, State.AWAITING_RELEASE})
#: A node that is gone for days is not asked each half minute: its control queue would fill.
MOST_DOUBLINGS = 7
#: Seconds between two looks at the clock at least.
SHORTEST = 0.05


class Fold:
    """Puts an attempt's events into the order of their numbers, each once, and folds its state."""

    def __init__(self) -> None:
        self.state = State.QUEUED
        self._next = 1
        self._early: dict[int, TaskEvent] = {}

    @property
    def last(self) -> int:
        """Number of the last event that was due."""
        return self._next - 1

    def add(self, event: TaskEvent) -> list[TaskEvent]:
        """The events that are now due, in order."""
        if event.number >= self._next:
            self._early[event.number] = event
        due = []
        while self._next in self._early:
            due.append(self._take(self._next))
        return due

    def skip_gaps(self) -> list[TaskEvent]:
        """All that has come, whether or not something before it is missing."""
        return [self._take(number) for number in sorted(self._early)]

    def _take(self, number: int) -> TaskEvent:
        event = self._early.pop(number)
        self._next = number + 1
        if event.state is not None:
            try:
                self.state = advance(self.state, event.state)
            except IllegalTransition as error:
                log.warning("event %s: %s", event.message_id, error, extra={"action": "illegal-transition"})
        return event


@dataclass(eq=False)
class Followed:
    """An attempt that is waited for."""

    submission: Submission
    #: When its computation must have ended.
    deadline: datetime
    #: Seconds without a word after which its node is asked.
    silence: float
    fold: Fold = field(default_factory=Fold)
    #: Whether its order was sent.
    sent: bool = True
    #: Monotonic moment of the last word, or of the last look for one.
    heard: float = field(default_factory=time.monotonic)
    cancelled: bool = False
    #: How often the node was asked since its last word; each time the silence is borne twice as long.
    asked: int = 0
    #: Ended by the centre itself: LOST, or cancelled before it was sent.
    decided: State | None = None

    @property
    def state(self) -> State:
        """As far as it is known here."""
        return self.decided or self.fold.state

    @property
    def ended(self) -> bool:
        return self.decided is not None or self.fold.state.terminal

    def ends_by(self, release: float) -> datetime:
        """The deadline that counts in its present state."""
        return self.deadline + timedelta(seconds=LENIENCE + (release if self.fold.state in COMPUTED else 0.0))

    def patience(self, centre: Centre) -> float:
        """Seconds until something is to be done about it."""
        left = (self.ends_by(centre.settings.release) - now()).total_seconds() + (centre.settings.patience if self.cancelled else 0.0)
        return min(self.heard + self.silence * 2.0 ** min(self.asked, MOST_DOUBLINGS) - time.monotonic(), left)


class Watch:
    """Waits for attempts of one execution. Use as an asynchronous context; `add` what is to be followed, then take `next`."""

    def __init__(self, centre: Centre, execution: UUID, follower: str = "wait") -> None:
        self._centre, self._execution, self._follower = centre, execution, follower
        self._loop = asyncio.get_running_loop()
        self._inbox: asyncio.Queue[TaskEvent | None] = asyncio.Queue()
        self._subscription: Subscription | None = None
        self._early: list[TaskEvent] = []
        #: Monotonic moment before which nothing is to be done about any attempt: a word of one only puts it off.
        self._look_at = 0.0
        self.runs: dict[UUID, Followed] = {}

    async def __aenter__(self) -> Watch:
        queue = await asyncio.to_thread(self._centre.listen, self._execution, self._follower)
        self._subscription = await asyncio.to_thread(self._centre.broker.consume, queue, self._hear, prefetch=256)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._subscription is not None:
            self._subscription.cancel()

    def _hear(self, delivery: Delivery) -> None:
        event = decode(delivery.body)
        if isinstance(event, TaskEvent):
            self._loop.call_soon_threadsafe(self._inbox.put_nowait, event)
        delivery.ack()

    async def look(self) -> None:
        """Take from the records what the centre itself has decided: `next` then returns soon."""
        rows = {row.run: row for _, row in await asyncio.to_thread(self._centre.records.current_attempts, str(self._execution))}
        for one in self.open:
            row = rows.get(str(one.submission.run))
            if row is not None:
                one.decided = _decided(row, one.submission)
        self._look_at = 0.0
        self._inbox.put_nowait(None)

    async def add(self, submissions: Sequence[Submission]) -> None:
        """Follow these too; an attempt takes the place of an earlier one of its run. What was said before comes with `next`."""
        added = await asyncio.to_thread(self._described, submissions)
        self.runs |= {one.submission.run: one for one in added}
        self._look_at = 0.0
        self._early += await self._recorded(added)

    def _described(self, submissions: Sequence[Submission]) -> list[Followed]:
        rows = {row.run: row for _, row in self._centre.records.current_attempts(str(self._execution))}
        silence = self._silences({one.node for one in submissions})
        found = []
        for one in submissions:
            row = rows.get(str(one.run)) or self._centre.attempt(one.run, one.attempt)
            found.append(Followed(one, row.deadline, silence[one.node], sent=row.dispatched is not None, decided=_decided(row, one)))
        return found

    def _silences(self, nodes: set[str]) -> dict[str, float]:
        """Node -> three of its heartbeats, in seconds."""
        beats = _beats(self._centre, nodes)
        return {node: 3 * (beats[node][1].interval if node in beats else HEARTBEAT) for node in nodes}

    @property
    def open(self) -> list[Followed]:
        """Those that have not ended."""
        return [one for one in self.runs.values() if not one.ended]

    async def next(self, within: float | None = None) -> list[TaskEvent]:
        """What is due next, in order for each attempt; maybe nothing, when time has passed or an attempt was given up.

        Returns after `within` seconds at the latest, and at once when nothing is left to wait for.
        """
        due, self._early = self._early, []
        if due or not (still := self.open):
            return due
        if (moment := time.monotonic()) >= self._look_at:
            self._look_at = moment + max(SHORTEST, min(one.patience(self._centre) for one in still))
        wait = self._look_at - moment
        try:
            came = [await asyncio.wait_for(self._inbox.get(), timeout=wait if within is None else min(wait, max(within, 0.0)))]
        except TimeoutError:
            came = []
        while not self._inbox.empty():
            came.append(self._inbox.get_nowait())
        for event in came:
            one = self.runs.get(event.run) if event is not None else None
            if event is not None and one is not None and event.attempt == one.submission.attempt:
                one.heard, one.asked = time.monotonic(), 0
                due += one.fold.add(event)
        # Those that were silent, or are past their deadline, whatever the others said meanwhile.
        if time.monotonic() < self._look_at:
            return due
        late = [one for one in still if not one.ended and one.patience(self._centre) <= 0]
        return due + (await self._mind(late) if late else [])

    async def _recorded(self, which: Iterable[Followed]) -> list[TaskEvent]:
        """What the records have of these beyond what came, whether or not something before it is missing."""
        of = {(str(one.submission.run), one.submission.attempt): one for one in which}
        due = []
        for event in await asyncio.to_thread(self._centre.records.events_after, {place: one.fold.last for place, one in of.items()}):
            due += of[str(event.run), event.attempt].fold.add(event)
        for one in of.values():
            due += one.fold.skip_gaps()
        return due

    async def _mind(self, late: Sequence[Followed]) -> list[TaskEvent]:
        """After a silence: look into the records, ask nodes that do not speak of the run, cancel past the deadline, and at last give up."""
        due = await self._recorded(late)
        told = {event.run for event in due}
        rows = {row.run: row for _, row in await asyncio.to_thread(self._centre.records.current_attempts, str(self._execution))}
        silences = await asyncio.to_thread(self._silences, {one.submission.node for one in late})
        asked = []
        for one in late:
            # A silence begins anew; what is past its deadline is minded at the next turn all the same.
            one.heard, one.silence = time.monotonic(), silences[one.submission.node]
            row = rows.get(str(one.submission.run))
            if one.ended or one.submission.run in told or row is None:
                continue
            if row.attempt > one.submission.attempt:
                one.decided = State.LOST  # fenced off by a newer attempt, which somebody else waits for
                continue
            if State(row.state).terminal:
                one.decided = State(row.state)
                continue
            past = now() - one.ends_by(self._centre.settings.release)
            if past < timedelta(0):
                if row.dispatched is not None:
                    asked.append(one)
            elif not one.cancelled:
                one.cancelled = True
                await self._ask(one, "cancel", "the deadline has passed")
            elif past.total_seconds() >= self._centre.settings.patience:
                message = f"node {one.submission.node} did not answer by the deadline"
                await asyncio.to_thread(self._centre.lose, one.submission, message)
        for one in await asyncio.to_thread(self._unspoken, asked):
            one.asked += 1
            await self._ask(one, "report", "silent for three heartbeats")
        return due

    async def _ask(self, one: Followed, action: str, why: str) -> None:
        await asyncio.to_thread(self._centre.control, one.submission.run, one.submission.attempt, action, why)

    def _unspoken(self, which: Sequence[Followed]) -> list[Followed]:
        """Those that no fresh heartbeat of their node names."""
        beats = _beats(self._centre, {one.submission.node for one in which})
        found = []
        for one in which:
            seen, beat = beats.get(one.submission.node, (None, None))
            fresh = seen is not None and beat is not None and (now() - seen).total_seconds() < 3 * beat.interval
            if not fresh or beat is None or all(present.run != one.submission.run for present in beat.present):
                found.append(one)
        return found


def _decided(row: AttemptRow, submission: Submission) -> State | None:
    """How the centre itself ended an attempt that was never sent: of such a one no event comes."""
    # A node may be heard before the mark of its order stands.
    unsent = row.dispatched is None and row.last_number == 0 and row.attempt == submission.attempt
    return State(row.state) if unsent and State(row.state).terminal else None


def _beats(centre: Centre, nodes: set[str]) -> dict[str, tuple[datetime, Heartbeat]]:
    """Node -> when it was last heard, and what it said."""
    if not nodes:
        return {}
    rows = [centre.records.node(next(iter(nodes)))] if len(nodes) == 1 else centre.records.nodes()
    return {
        row.name: (row.last_seen, Heartbeat.model_validate_json(row.heartbeat))
        for row in rows
        if row is not None and row.name in nodes and row.heartbeat and row.last_seen
    }


async def events(centre: Centre, submission: Submission, *, follower: str = "wait") -> AsyncIterator[TaskEvent]:
    """One attempt's events in order, from the first on, until its last one."""
    async with Watch(centre, submission.execution, follower) as watch:
        await watch.add([submission])
        while True:
            due = await watch.next()
            for event in due:
                yield event
            if not due and not watch.open:
                return
