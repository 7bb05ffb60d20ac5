"""The keeper of an attempt as the worker sees it: not its child, known by its claim, waited for through a pidfd."""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fdn_worker.errors import LauncherUnavailable
from fdn_worker.launchers.shim import Process, process, processes, send

#: Seconds between two looks at a tree that is being stopped, for what it has started meanwhile.
_TICK = 0.1
#: Seconds that a killed tree may take to go.
_PATIENCE = 10.0


def _over(seconds: float) -> bool:  # noqa: ARG001
    return True


@dataclass(frozen=True)
class Keeper:
    """A claim: pid and start time, since the pid alone may be another's by now; and its second line, once it is there."""

    home: Path
    pid: int
    started: int
    node: str
    exit: dict[str, Any] | None

    @classmethod
    def of(cls, home: Path) -> Keeper | None:
        """The keeper that claimed the attempt; None when none has."""
        try:
            first, *more = (home / "claim").read_text().splitlines()
        except FileNotFoundError:
            return None
        claim = json.loads(first)
        return cls(home, claim["pid"], claim["started"], claim["node"], json.loads(more[0]) if more else None)

    @contextmanager
    def watch(self) -> Iterator[Callable[[float], bool]]:
        """Gives a function that waits up to so many seconds, and tells whether the keeper has ended."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            yield _over
            return
        try:
            found = process(self.pid)
            if found is None or found.started != self.started:
                yield _over
                return
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            yield lambda seconds: bool(poll.poll(seconds * 1000))
        finally:
            os.close(handle)

    def stop(self, grace: float) -> None:
        """TERM to the whole tree, `grace` seconds, KILL. Returns when the keeper has ended, which reaps the tree."""
        if self.exit is not None:
            return
        with self.watch() as ended:
            deadline = time.monotonic() + grace
            told: set[Process] = set()
            while not ended(0) and (left := deadline - time.monotonic()) > 0:
                new = set(self._tree()) - told
                for member in new:
                    send(member.pid, signal.SIGTERM)
                told |= new
                ended(min(left, _TICK))
            until = time.monotonic() + _PATIENCE
            while not ended(0):
                for member in self._tree():
                    send(member.pid, signal.SIGKILL)
                if ended(_TICK) or time.monotonic() < until:
                    continue
                raise LauncherUnavailable(f"process {self.pid} and what it keeps do not end, even when killed")
        # None, unless the keeper itself was killed from outside.
        for member in self._tree():
            send(member.pid, signal.SIGKILL)

    def _tree(self) -> list[Process]:
        """What descends from the keeper, or is of its session and younger; not the keeper itself."""
        known = {found.pid: found for found in processes()}
        if self.pid in known and known[self.pid].started != self.started:
            return []
        own = {found.pid for found in known.values() if found.session == self.pid and found.started >= self.started}
        grown = True
        while grown:
            more = {found.pid for found in known.values() if found.parent in own and found.pid not in own}
            own, grown = own | more, bool(more)
        return [known[pid] for pid in own - {self.pid}]
