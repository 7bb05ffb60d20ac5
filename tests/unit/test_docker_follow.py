"""Following a container through faults of the daemon, on an engine that plays them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from fdn_worker.errors import FdnError, LauncherUnavailable, RunVanished, TaskFailed
from fdn_worker.launchers import LogLine, docker_follow
from fdn_worker.launchers.docker_engine import ContainerState, Facts, StreamIdle
from fdn_worker.launchers.docker_follow import Follow

A, B = LogLine("a", "1"), LogLine("b", "2")
AWAY = LauncherUnavailable("away")


def state(status: str, code: int = 0, *, oom: bool = False) -> ContainerState:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    return ContainerState(status, code, oom, moment, moment)


class PlayedEngine:
    """Streams and states come in the order given, empty streams after those; an error among them is raised."""

    def __init__(self, streams: list[list[Any]], states: list[Any], *, live_restore: bool = False) -> None:
        self.streams, self.states = streams, states
        self.after: list[str] = []
        self._facts = Facts("cgroupfs", rootless=False, live_restore=live_restore)
        #: How often the daemon is away when it is asked for its facts.
        self.away = 0

    def follow(self, name: str, after: str) -> Iterator[LogLine]:
        self.after.append(after)
        for item in self.streams.pop(0) if self.streams else ():
            if isinstance(item, FdnError):
                raise item
            yield item

    def state(self, name: str) -> ContainerState:
        item: ContainerState | FdnError = self.states.pop(0)
        if isinstance(item, FdnError):
            raise item
        return item

    def wait(self, name: str, seconds: float) -> None:
        return

    def facts(self) -> Facts:
        self.away -= 1
        if self.away >= 0:
            raise AWAY
        return self._facts


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_follow, "_PAUSE", 0.0)


def follow(engine: PlayedEngine, patience: float = 60) -> tuple[ContainerState, list[str]]:
    lines: list[str] = []
    ended = Follow(engine, "n", lambda line: lines.append(line.text), "", patience).run()  # type: ignore[arg-type]
    return ended, lines


def test_a_broken_stream_is_taken_up_at_its_cursor() -> None:
    engine = PlayedEngine([[A, AWAY], [B]], [state("running"), state("exited", 3)])
    ended, lines = follow(engine)
    assert (ended.code, lines, engine.after) == (3, ["a", "b"], ["", "1", "2"])


def test_a_stream_that_broke_at_the_end_is_read_to_its_end() -> None:
    engine = PlayedEngine([[A, AWAY], [B]], [state("exited")])
    assert follow(engine)[1] == ["a", "b"]


def test_a_line_that_the_stream_lacked_when_it_ended_is_read_after_the_end() -> None:
    engine = PlayedEngine([[A], [B]], [state("running"), state("exited")])
    assert follow(engine)[1] == ["a", "b"]


def test_an_idle_stream_is_no_sign_of_a_daemon_that_left() -> None:
    engine = PlayedEngine([[StreamIdle("idle")], [A]], [state("running"), state("exited", 137)])
    assert follow(engine)[0].code == 137


def test_a_daemon_that_comes_back_is_waited_for() -> None:
    engine = PlayedEngine([[A, AWAY], [B]], [AWAY, AWAY, state("running"), state("exited", 1)])
    assert follow(engine)[0].code == 1


def test_a_daemon_that_stays_away_is_given_up() -> None:
    with pytest.raises(LauncherUnavailable):
        follow(PlayedEngine([[A, AWAY]], [AWAY]), patience=-1)


@pytest.mark.parametrize("code", [137, 143])
def test_what_the_daemon_took_along_is_not_the_users_failure(code: int) -> None:
    with pytest.raises(RunVanished, match="live-restore"):
        follow(PlayedEngine([[A, AWAY], [B]], [state("exited", code)]))


def test_with_live_restore_the_code_is_right() -> None:
    engine = PlayedEngine([[A, AWAY], [B]], [state("exited", 137)], live_restore=True)
    assert follow(engine)[0].code == 137


def test_out_of_memory_stays_the_users() -> None:
    engine = PlayedEngine([[AWAY], [B]], [state("exited", 137, oom=True)])
    assert follow(engine)[0].out_of_memory


def test_a_log_that_cannot_be_read_does_not_keep_the_exit_back() -> None:
    engine = PlayedEngine([[AWAY]] * 4, [state("exited", 2)])
    assert follow(engine)[0].code == 2


def test_created_and_never_started() -> None:
    with pytest.raises(RunVanished, match="never started"):
        follow(PlayedEngine([[]], [state("created"), state("created")]))


def test_a_command_that_inits_exec_does_not_find() -> None:
    said = LogLine("[FATAL tini (7)] exec nope failed: No such file or directory", "1")
    with pytest.raises(TaskFailed, match="'nope'") as caught:
        follow(PlayedEngine([[said]], [state("exited", 127)]))
    assert caught.value.code == "command-not-found"


def test_a_daemon_that_comes_back_later_than_its_worker_is_waited_for() -> None:
    engine = PlayedEngine([], [])
    engine.away = 3
    Follow(engine, "n", lambda _: None, "", 60).reach_daemon()  # type: ignore[arg-type]
    assert engine.away < 0


def test_a_daemon_that_stays_away_is_not_waited_for_without_end() -> None:
    engine = PlayedEngine([], [])
    engine.away = 3
    with pytest.raises(LauncherUnavailable):
        Follow(engine, "n", lambda _: None, "", -1).reach_daemon()  # type: ignore[arg-type]


def test_a_daemon_that_breaks_off_while_it_is_asked_what_it_is_like_is_asked_again() -> None:
    engine = PlayedEngine([[AWAY]], [state("exited", 137)])
    engine.away = 2
    with pytest.raises(RunVanished, match="took container n along"):
        follow(engine)
