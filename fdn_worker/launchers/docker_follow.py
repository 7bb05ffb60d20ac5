"""Following a container to its end: after any break in stream or daemon it is looked at before anything is concluded."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TypeVar

from fdn_worker.errors import LauncherUnavailable, RunVanished, TaskFailed
from fdn_worker.launchers import LogLine
from fdn_worker.launchers.docker_engine import IDLE, ContainerState, Engine, StreamIdle

#: What Docker's init says when there is nothing to execute; it then ends with 126 or 127.
_NO_COMMAND = re.compile(r"^\[FATAL tini \(\d+\)\] exec (?P<command>.*) failed: (?P<why>.*)$")
#: How often the log of an ended container is asked for, while the stream breaks.
_LAST_READS = 3
#: Seconds between two tries to reach the daemon.
_PAUSE = 0.5
#: Exit codes of a container that its daemon took along: TERM and KILL.
_TAKEN_ALONG = (137, 143)
T = TypeVar("T")


class Follow:
    """One container being followed."""

    def __init__(self, engine: Engine, name: str, on_line: Callable[[LogLine], None], after: str, patience: float) -> None:
        self._engine, self._name, self._on_line, self._cursor, self._patience = engine, name, on_line, after, patience
        self._daemon_left = False
        self._last = ""

    def reach_daemon(self) -> None:
        """Return once it answers: a worker that takes up a container may be back before its Docker is. Raises LauncherUnavailable."""
        self._asked(self._engine.facts)

    def run(self) -> ContainerState:
        """Hand over the lines; how the container ended.

        Raises RunVanished when it is gone or its daemon took it along, TaskFailed (command-not-found) when the image
        holds no such command, LauncherUnavailable when the daemon stays away.
        """
        state = self._until_ended()
        # A stream that was opened before the end may lack the last line: one that is opened after it has all.
        for _ in range(_LAST_READS):
            if self._read():
                break
        return self._judged(state)

    def _until_ended(self) -> ContainerState:
        while True:
            whole = self._read()
            state = self._look()
            if whole and not state.ended:
                # The stream ends a moment before the state says so.
                self._engine.wait(self._name, IDLE)
                state = self._look()
            if state.status == "created":
                raise RunVanished(f"container {self._name} was created and never started")
            if state.ended:
                return state

    def _read(self) -> bool:
        """Whether the stream came to an end of its own."""
        try:
            for line in self._engine.follow(self._name, self._cursor):
                self._on_line(line)
                self._cursor, self._last = line.cursor, line.text
        except StreamIdle:
            return False
        except LauncherUnavailable:
            self._daemon_left = True
            time.sleep(_PAUSE)
            return False
        return True

    def _look(self) -> ContainerState:
        return self._asked(lambda: self._engine.state(self._name))

    def _asked(self, ask: Callable[[], T]) -> T:
        """The answer, once the daemon gives one: one that has just come back may break a connection that it had before."""
        until = time.monotonic() + self._patience
        while True:
            try:
                return ask()
            except LauncherUnavailable:
                self._daemon_left = True
                if time.monotonic() > until:
                    raise
                time.sleep(_PAUSE)

    def _judged(self, state: ContainerState) -> ContainerState:
        if (
            self._daemon_left
            and state.code in _TAKEN_ALONG
            and not state.out_of_memory
            and not self._asked(self._engine.facts).live_restore
        ):
            raise RunVanished(
                f"the Docker daemon went down and took container {self._name} along", remedy='set "live-restore": true in its daemon.json'
            )
        missing = _NO_COMMAND.match(self._last) if state.code in (126, 127) else None
        if missing:
            raise no_command(missing["command"], missing["why"])
        return state


def no_command(command: str, why: str) -> TaskFailed:
    """The error of a command that cannot be executed."""
    return TaskFailed(
        f"command {command!r} cannot be started: {why}", code="command-not-found", remedy="name a program that the image holds"
    )
