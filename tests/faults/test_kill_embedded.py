"""The worker killed at every point of an attempt's way, on the embedded broker with the process launcher.

For each attempt: executed once, one end, events 1 to n without a gap, outputs right, nothing left behind.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from fdn_worker.protocol import State
from fdn_worker.protocol.states import TERMINAL
from federation.centre import Submission
from federation.local import LocalFederation
from tests.support.rig import Rig, rig
from tests.support.waiting import SOON, eventually

#: Counts its executions in $1, waits for $2, copies its input, and leaves one output of several parts.
TASK = (
    'echo x >> "$1"; echo begun; until [ -e "$2" ]; do sleep 0.02; done; cp "$INPUT_PATH/in.txt" out.txt; '
    "mkdir more; head -c 12000000 /dev/zero > more/big; echo ended"
)
#: What the journal is told of an attempt, in order.
WRITES = ("accepted", "STAGING_IN", "bytes_in", "started", "lines", "exited", "uploaded", "done")
POINTS = (
    "before:receive", "after:receive", "before:ack:task-order", "after:ack:task-order",
    *(f"{when}:record:{write}" for write in WRITES for when in ("before", "after")),
    "after:make-folder", "before:get", "after:get",
    "before:start", "after:start", "after:follow",
    "before:put:*:1", "after:put:*:1", "after:put:*:3", "after:part-done:*:2", "before:complete", "after:complete", "after:put:*:5",
    "after:publish:task-event ACCEPTED", "before:publish:task-event RUNNING", "before:sent:*:2",
    "before:publish:task-event SUCCEEDED", "after:publish:task-event SUCCEEDED",
    "before:remove", "after:remove", "before:remove-folder", "after:remove-folder",
)  # fmt: skip
#: Here the task may go on while no worker is there.
RUNNING = ("after:start", "before:record:started", "after:record:started", "before:record:lines", "after:record:lines")
#: The start at which the worker dies a second time, having taken up what the first left.
TWICE = ("after:start", "after:record:started", "after:follow", "after:record:exited", "after:part-done:*:2", "before:record:done")
#: The way of a cancel.
CANCELLED = ("before:record:stop", "after:record:stop", "after:follow", "before:record:exited", "after:record:exited", "after:record:done")


def node_of(kind: str, point: str) -> str:
    """A node of the test's own."""
    return f"{kind}-" + "".join(character if character.isalnum() else "-" for character in point.lower()).replace("--", "-")


@dataclass(frozen=True)
class Case:
    """One task, and the two files by which a test sees and steers it."""

    submission: Submission
    count: Path
    go: Path


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    nodes = [node_of("ended", point) for point in POINTS] + [node_of("runs", point) for point in RUNNING]
    nodes += [node_of("twice", point) for point in TWICE] + ["storm", "refusal", "tombstone", "cancel-away"]
    nodes += [node_of("cancel", point) for point in CANCELLED]
    home = tmp_path_factory.mktemp("kill")
    with rig(LocalFederation(home, tuple(nodes), options={"transfer": {"part_size": 5 * 1024**2}})) as made:
        yield made


def send(house: Rig, node: str, folder: Path, script: str = TASK) -> Case:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "in.txt").write_text("data\n")
    argv = ("/bin/sh", "-c", script, "sh", str(folder / "count"), str(folder / "go"))
    submission = house.send(node, *argv, inputs=(str(folder / "in.txt"),), outputs=("out.txt", "more/**"))
    return Case(submission, folder / "count", folder / "go")


def die(house: Rig, node: str, point: str) -> None:
    """A worker lives, and dies at that point."""
    assert house.start_dying(node, point).wait(SOON) == -signal.SIGKILL


def check(house: Rig, case: Case) -> None:
    result = house.result(case.submission)
    assert result.state is State.SUCCEEDED, result.explain()
    assert case.count.read_text() == "x\n"
    house.check_told_once(case.submission)
    assert [line for event in house.history(case.submission) for line in event.lines] == ["begun", "ended"]
    assert house.output(result, "outputs/out.txt") == b"data\n"
    assert house.output(result, "logs/run.log") == b"begun\nended\n"
    assert [(file.path, file.size) for file in result.outputs] == [("outputs/more/big", 12_000_000), ("outputs/out.txt", 5)]
    house.check_clean(case.submission.node)


@pytest.mark.parametrize("point", POINTS)
def test_killed(house: Rig, tmp_path: Path, point: str) -> None:
    node = node_of("ended", point)
    case = send(house, node, tmp_path)
    case.go.touch()
    die(house, node, point)
    house.start(node)
    check(house, case)
    house.kill(node)


@pytest.mark.parametrize("point", RUNNING)
def test_killed_while_the_task_goes_on(house: Rig, tmp_path: Path, point: str) -> None:
    node = node_of("runs", point)
    case = send(house, node, tmp_path)
    die(house, node, point)
    house.start(node)
    house.reach(case.submission, State.RUNNING)
    case.go.touch()
    check(house, case)
    house.kill(node)


@pytest.mark.parametrize("point", TWICE)
def test_killed_twice(house: Rig, tmp_path: Path, point: str) -> None:
    node = node_of("twice", point)
    case = send(house, node, tmp_path)
    die(house, node, "after:start")
    case.go.touch()
    house.follow(case.submission)
    die(house, node, point)
    house.start(node)
    check(house, case)
    house.kill(node)


@pytest.mark.parametrize("point", CANCELLED)
def test_killed_while_it_cancels(house: Rig, tmp_path: Path, point: str) -> None:
    node = node_of("cancel", point)
    dying = house.start_dying(node, point)
    case = send(house, node, tmp_path)
    eventually("the task runs", lambda: case.count.exists() and case.count.read_text())
    house.centre.cancel(case.submission.execution, "a test")
    assert dying.wait(SOON) == -signal.SIGKILL
    house.start(node)
    check_cancelled(house, case)
    house.kill(node)


def test_a_cancel_that_came_while_no_worker_was_there(house: Rig, tmp_path: Path) -> None:
    house.start("cancel-away")
    case = send(house, "cancel-away", tmp_path)
    eventually("the task runs", lambda: case.count.exists() and case.count.read_text())
    house.kill("cancel-away")
    house.centre.cancel(case.submission.execution, "a test")
    house.start("cancel-away")
    check_cancelled(house, case)


def check_cancelled(house: Rig, case: Case) -> None:
    result = house.result(case.submission)
    assert (result.state, result.outputs) == (State.CANCELLED, ())
    assert case.count.read_text() == "x\n"
    house.check_told_once(case.submission)
    house.check_clean(case.submission.node)


@pytest.mark.parametrize("point", ["before:record:done", "after:record:done"])
def test_killed_while_it_refuses(house: Rig, point: str) -> None:
    submission = house.send("refusal", "/bin/true", datasets=("missing",))
    die(house, "refusal", point)
    house.start("refusal")
    result = house.result(submission)
    assert (result.state, result.reason and result.reason.code) == (State.REJECTED, "dataset-unknown")
    house.check_told_once(submission)
    house.check_clean("refusal")
    house.kill("refusal")


@pytest.mark.parametrize("point", ["before:bury", "after:bury"])
def test_killed_while_it_cancels_what_has_not_come(house: Rig, tmp_path: Path, point: str) -> None:
    submission = house.prepare("tombstone", "/usr/bin/touch", str(tmp_path / "ran"))
    house.centre.control(submission.run, submission.attempt, "cancel")
    die(house, "tombstone", point)
    house.start("tombstone")
    # The request comes again, but not at once: an order that overtook it would be started, and cancelled then.
    eventually("the tombstone is told of", lambda: house.history(submission))
    house.centre.dispatch(submission)
    assert house.result(submission).state is State.CANCELLED
    house.check_told_once(submission)
    house.check_clean("tombstone")
    assert not (tmp_path / "ran").exists()
    house.kill("tombstone")


def test_killed_again_and_again(house: Rig, tmp_path: Path) -> None:
    """Six tasks, and a worker that dies at each twelfth journal write."""
    cases = [send(house, "storm", tmp_path / str(number)) for number in range(6)]
    for case in cases:
        case.go.touch()
    lives = 0
    while any(house.centre.attempt(case.submission.run, 1).state not in TERMINAL for case in cases):
        dying = house.start_dying("storm", "after:record:*:12")
        lives += 1
        while dying.poll() is None and any(house.centre.attempt(case.submission.run, 1).state not in TERMINAL for case in cases):
            time.sleep(0.02)
        dying.kill()
        dying.wait()
    assert lives > 2
    house.start("storm")
    for case in cases:
        check(house, case)
    house.kill("storm")
