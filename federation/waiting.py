"""The wait for an attempt: its events as they come, until it has ended. Nothing polls: the broker feeds it.

What came before, or was missed, is read from the records; a silent node is asked; and a run that is past its
deadline is cancelled, then LOST, so that every wait ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from uuid import UUID

from fdn_worker.brokers import Delivery
from fdn_worker.protocol import Heartbeat, State, TaskEvent, advance, decode, now
from fdn_worker.protocol.states import IllegalTransition
from federation.centre import Centre, Submission
from storage.records import AttemptRow

log = logging.getLogger(__name__)

#: Seconds between two heartbeats of a node that never said so itself.
HEARTBEAT = 10.0
#: Seconds after the deadline in which a node may say that it ended the run by itself, before it is asked to cancel it.
LENIENCE = 3.0
#: States in which the computation is over: the deadline of the release counts, no more that of the execution.
COMPUTED = frozenset({State.STAGING_OUT, State.AWAITING_RELEASE})


class Fold:
    """Puts an attempt's events into the order of their numbers, each once, and folds its state."""

    def __init__(self) -> None:
        self.state = State.QUEUED
        self._next = 1
        self._early: dict[int, TaskEvent] = {}

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


async def events(centre: Centre, submission: Submission, *, follower: str = "wait") -> AsyncIterator[TaskEvent]:
    """The attempt's events in order, from the first on, until its last one."""
    loop, inbox = asyncio.get_running_loop(), asyncio.Queue[TaskEvent]()

    def heard(delivery: Delivery) -> None:
        event = decode(delivery.body)
        if isinstance(event, TaskEvent) and event.run == submission.run and event.attempt == submission.attempt:
            loop.call_soon_threadsafe(inbox.put_nowait, event)
        delivery.ack()

    queue = await asyncio.to_thread(centre.listen, submission.execution, follower)
    subscription = await asyncio.to_thread(centre.broker.consume, queue, heard)
    try:
        fold, cancelled = Fold(), False
        silence = 3 * await _interval(centre, submission.node)
        compute_ends = (await asyncio.to_thread(centre.order, submission.run, submission.attempt)).deadline
        for event in await _recorded(centre, submission, fold):
            yield event
        while not fold.state.terminal:
            deadline = compute_ends + timedelta(seconds=centre.settings.release if fold.state in COMPUTED else LENIENCE)
            left = (deadline - now()).total_seconds() + (centre.settings.patience if cancelled else 0.0)
            try:
                due = fold.add(await asyncio.wait_for(inbox.get(), timeout=max(0.05, min(silence, left))))
            except TimeoutError:
                silence = 3 * await _interval(centre, submission.node)
                due = await _recorded(centre, submission, fold)
                row = await _row(centre, submission)
                if not due and not fold.state.terminal and State(row.state).terminal:
                    return  # decided by the centre itself: LOST, or cancelled before it was sent
                if not fold.state.terminal:
                    cancelled = await _mind(centre, submission, past=now() >= deadline, cancelled=cancelled, left=left)
            for event in due:
                yield event
    finally:
        subscription.cancel()


async def _recorded(centre: Centre, submission: Submission, fold: Fold) -> list[TaskEvent]:
    due = []
    for event in await asyncio.to_thread(centre.records.events_of, str(submission.run), submission.attempt):
        due += fold.add(event)
    return due + fold.skip_gaps()


async def _row(centre: Centre, submission: Submission) -> AttemptRow:
    return await asyncio.to_thread(centre.attempt, submission.run, submission.attempt)


async def _interval(centre: Centre, node: str) -> float:
    beat = await asyncio.to_thread(_last_beat, centre, node)
    return beat.interval if beat else HEARTBEAT


def _last_beat(centre: Centre, node: str) -> Heartbeat | None:
    row = centre.records.node(node)
    return Heartbeat.model_validate_json(row.heartbeat) if row and row.heartbeat else None


async def _mind(centre: Centre, submission: Submission, *, past: bool, cancelled: bool, left: float) -> bool:
    """After a silence: ask a node that does not speak of the run, cancel past the deadline, and at last give it up."""
    if past and not cancelled:
        await asyncio.to_thread(centre.control, submission.run, submission.attempt, "cancel", "the deadline has passed")
        return True
    if past and left <= 0:
        await asyncio.to_thread(centre.lose, submission, f"node {submission.node} did not answer by the deadline")
        return True
    if not past and not await asyncio.to_thread(_speaks_of, centre, submission.node, submission.run):
        await asyncio.to_thread(centre.control, submission.run, submission.attempt, "report", "silent for three heartbeats")
    return cancelled


def _speaks_of(centre: Centre, node: str, run: UUID) -> bool:
    """Whether the node's heartbeats are fresh and name the run."""
    row, beat = centre.records.node(node), _last_beat(centre, node)
    if row is None or beat is None or row.last_seen is None:
        return False
    fresh = (now() - row.last_seen).total_seconds() < 3 * beat.interval
    return fresh and any(present.run == run for present in beat.present)
