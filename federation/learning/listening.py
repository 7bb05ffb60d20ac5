"""The phases that a session has under way, and their clients' ends as they come, in one line for the session's loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection

from fdn_worker.protocol import TaskEvent
from federation import following
from federation.centre import Centre
from federation.learning.package import Entry
from federation.learning.phases import Ended, Phase


class Listening:
    """Each phase is followed in the background to its last client's end, also beyond its round. `heard` is told of each event."""

    def __init__(self, centre: Centre, heard: Callable[[Phase, TaskEvent], Awaitable[None]]) -> None:
        self._centre, self._heard = centre, heard
        self._under_way: dict[Phase, asyncio.Task[None]] = {}
        self._arrived: deque[Ended] = deque()
        self._news = asyncio.Event()

    def find(self, number: int, entry: Entry) -> Phase | None:
        """That phase, if it is followed."""
        return next((phase for phase in self._under_way if (phase.number, phase.entry) == (number, entry)), None)

    def begin(self, phase: Phase) -> None:
        """Follow it from now on."""
        task = asyncio.create_task(phase.follow(self._centre, self._heard, self._arrive))
        task.add_done_callback(lambda _: self._news.set())
        self._under_way[phase] = task

    def _arrive(self, ended: Ended) -> None:
        self._arrived.append(ended)
        self._news.set()

    async def ends(self, phases: Collection[Phase], seconds: float) -> AsyncGenerator[Ended]:
        """The ends of their clients as they come, until all have ended or the time is over. Who has been told is not `open` any more."""
        until = asyncio.get_running_loop().time() + seconds
        # What has ended and was asked for by nobody is followed anew by whoever asks for it yet.
        self._arrived = deque(one for one in self._arrived if one.phase in phases or one.phase in self._under_way)
        while any(phase.open for phase in phases):
            self._news.clear()
            self._sweep()
            # What is of other phases stays for whoever asks for those.
            while (ended := next((one for one in self._arrived if one.phase in phases), None)) is not None:
                self._arrived.remove(ended)
                if ended.client in ended.phase.open:
                    ended.phase.open.remove(ended.client)
                    yield ended
            if any(phase.open for phase in phases):
                try:
                    async with asyncio.timeout_at(until):
                        await self._news.wait()
                except TimeoutError:
                    return

    def _sweep(self) -> None:
        """Let go of what has ended; what went wrong with it is raised."""
        for phase, task in list(self._under_way.items()):
            if task.done():
                del self._under_way[phase]
                task.result()

    async def cut(self, phase: Phase, why: str) -> None:
        """End at its nodes what is still open; nobody waits for their word."""
        if phase.open:
            await following.end(self._centre, phase.job, why)

    async def drop(self, phase: Phase, why: str) -> None:
        """End it at its nodes, and listen to it no longer: its nodes may never say a word."""
        await self.cut(phase, why)
        if (task := self._under_way.pop(phase, None)) is not None:
            await _end([task])

    async def settle(self, why: str, seconds: float) -> None:
        """End all that is under way, and wait a while for the nodes' word."""
        for phase in list(self._under_way):
            await self.cut(phase, why)
        if self._under_way:
            await asyncio.wait(self._under_way.values(), timeout=seconds)

    async def leave(self) -> None:
        """Listen no longer; what runs goes on. It can be begun again."""
        await _end(self._under_way.values())
        self._under_way.clear()
        self._arrived.clear()


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    """Cancel them, as often as it takes: until Python 3.12 a `wait_for` that gets what it waits for loses the cancellation that comes with it."""
    while any(not task.done() for task in tasks):
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks, timeout=1.0)
    await asyncio.gather(*tasks, return_exceptions=True)
