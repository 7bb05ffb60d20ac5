"""Looking on: the events of a whole execution that some other process runs, new attempts included, over one queue."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from uuid import UUID

from fdn_worker.errors import Fault
from fdn_worker.protocol import TaskEvent
from federation.centre import Centre, Submission
from federation.waiting import Watch
from storage.records import OPEN

#: Seconds between two looks for attempts that were made meanwhile, and for which a new one is waited for after the last has ended.
LOOK, LINGER = 2.0, 6.0


async def look_on(centre: Centre, execution: UUID, wanted: Callable[[Submission], bool], follower: str) -> AsyncIterator[list[TaskEvent]]:
    """What comes due, by time, from the first event on; ends when the execution is closed, or nothing more is to be expected."""
    known: dict[UUID, int] = {}
    looked = ended = 0.0
    async with Watch(centre, execution, follower) as watch:
        while True:
            if time.monotonic() - looked >= LOOK or not watch.open:
                looked = time.monotonic()
                found = [one for one in await asyncio.to_thread(centre.submissions, execution) if wanted(one)]
                if fresh := [one for one in found if one.attempt > known.get(one.run, 0)]:
                    await watch.add(fresh)
                    known |= {one.run: one.attempt for one in fresh}
                    ended = 0.0
            if due := await watch.next(LOOK):
                yield sorted(due, key=lambda event: event.at)
            elif not watch.open:
                ended = ended or time.monotonic()
                if not await asyncio.to_thread(_goes_on, centre, execution, wanted, time.monotonic() - ended):
                    return
                await asyncio.sleep(LOOK / 4)


def _goes_on(centre: Centre, execution: UUID, wanted: Callable[[Submission], bool], ended: float) -> bool:
    """Whether an attempt may still be made: the first one of a run, or, for a while, another after a fault of the infrastructure."""
    row = centre.records.execution(str(execution))
    if row is None or row.state != OPEN:
        return False
    if any(one.attempt == 0 for one in centre.submissions(execution) if wanted(one)):
        return True
    faults = {attempt.reason_fault for _, attempt in centre.records.current_attempts(str(execution))}
    return ended < LINGER and Fault.INFRASTRUCTURE in faults
