"""The worker killed at every point of the airlock: the task ran once, it waits until somebody has spoken, and what leaves leaves whole."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdn_worker.protocol import State
from federation.centre import Submission
from federation.local import LocalFederation
from storage.keys import attempt_prefix
from tests.support.rig import Rig, name_of, rig
from tests.support.waiting import SOON, eventually

TASK = 'echo x >> "$1"; echo said; echo result > out.txt'
#: On the way into the wait, and on the way out after a word.
INTO = ("after:record:exited", "before:remove", "before:record:held", "after:record:held",
        "before:publish:task-event AWAITING_RELEASE", "after:publish:task-event AWAITING_RELEASE")  # fmt: skip
OUT = (
    "before:put:*:1",
    "after:put:*:2",
    "before:record:uploaded",
    "after:record:uploaded",
    "before:record:done",
    "after:record:done",
    "after:remove-folder",
)
#: The same after a denial, and after a cancel.
DENIED = ("before:record:uploaded", "before:record:done", "after:record:done")
CANCELLED = ("before:record:stop", "after:record:stop", "before:record:done")


def node_of(kind: str, number: int) -> str:
    return f"{kind}-{number}"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    points = {"into": INTO, "out": OUT, "denied": DENIED, "cancelled": CANCELLED}
    nodes = tuple(node_of(kind, number) for kind, of in points.items() for number in range(len(of)))
    options = {"logs": "after-release", "release": {"default": "person"}}
    with rig(LocalFederation(tmp_path_factory.mktemp("release"), nodes, options=options)) as made:
        yield made


def send(house: Rig, node: str, count: Path) -> Submission:
    return house.send(node, "/bin/sh", "-c", TASK, "sh", str(count), outputs=("out.txt",))


def die(house: Rig, node: str, point: str) -> None:
    assert house.start_dying(node, point).wait(SOON) == -signal.SIGKILL


def say(house: Rig, submission: Submission, word: str) -> None:
    done = house.command(submission.node, "release", str(submission.run), word)
    assert done.returncode == 0, done.stderr


def in_store(house: Rig, submission: Submission) -> list[str]:
    prefix = attempt_prefix(submission.execution, submission.task, submission.node, submission.attempt)
    return sorted(info.key.removeprefix(prefix) for info in house.centre.store.list(prefix))


def held(house: Rig, node: str, count: Path) -> Submission:
    """A submission that waits, with no worker."""
    submission = send(house, node, count)
    house.start(node)
    house.reach(submission, State.AWAITING_RELEASE)
    house.kill(node)
    return submission


def check(house: Rig, submission: Submission, count: Path, state: State, left: list[str]) -> None:
    result = house.result(submission)
    assert result.state is state, result.explain()
    assert count.read_text() == "x\n"
    house.check_told_once(submission)
    assert in_store(house, submission) == left
    house.check_clean(submission.node)
    house.kill(submission.node)


ALL = ["logs/run.log", "manifest.json", "outputs/out.txt"]


@pytest.mark.parametrize("point", INTO)
def test_killed_on_the_way_into_the_wait(house: Rig, tmp_path: Path, point: str) -> None:
    node, count = node_of("into", INTO.index(point)), tmp_path / "count"
    submission = send(house, node, count)
    die(house, node, point)
    house.start(node)
    house.reach(submission, State.AWAITING_RELEASE)
    assert in_store(house, submission) == []
    assert house.folder(submission).is_dir()
    eventually("the launcher has let go of it", lambda: name_of(submission) not in house.launcher(node).names(node))
    say(house, submission, "--yes")
    check(house, submission, count, State.SUCCEEDED, ALL)


@pytest.mark.parametrize(("word", "point"), [*(("--yes", point) for point in OUT), *(("--deny", point) for point in DENIED)])
def test_killed_after_a_word(house: Rig, tmp_path: Path, word: str, point: str) -> None:
    kind, points = ("out", OUT) if word == "--yes" else ("denied", DENIED)
    node, count = node_of(kind, points.index(point)), tmp_path / "count"
    submission = held(house, node, count)
    say(house, submission, word)
    die(house, node, point)
    house.start(node)
    check(house, submission, count, *((State.SUCCEEDED, ALL) if word == "--yes" else (State.FAILED, [])))


@pytest.mark.parametrize("point", CANCELLED)
def test_killed_while_what_waits_is_cancelled(house: Rig, tmp_path: Path, point: str) -> None:
    node, count = node_of("cancelled", CANCELLED.index(point)), tmp_path / "count"
    submission = held(house, node, count)
    house.centre.cancel(submission.execution, "a test")
    die(house, node, point)
    house.start(node)
    check(house, submission, count, State.CANCELLED, [])
