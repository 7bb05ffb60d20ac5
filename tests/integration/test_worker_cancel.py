"""Cancel: before, during and at the end of a task. The node has one slot and a grace of one second."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from fdn_worker.protocol import State, now
from federation.centre import Submission
from federation.local import LocalFederation
from tests.support.rig import Rig, Tap, rig
from tests.support.waiting import eventually

TASK = 'echo begun; until [ -e "$1" ]; do sleep 0.01; done; echo ended'


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    options = {"slots": 1, "grace": 1.0}
    with rig(LocalFederation(tmp_path_factory.mktemp("cancel"), ("site",), options=options)) as made:
        made.start("site")
        yield made


def begin(house: Rig, script: str, *words: str) -> Submission:
    submission = house.send("site", "/bin/sh", "-c", script, "sh", *words)
    house.line(submission, "begun")
    return submission


def check_cancelled(house: Rig, submission: Submission) -> None:
    result = house.result(submission)
    assert (result.state, result.reason, result.outputs) == (State.CANCELLED, None, ())
    house.check_told_once(submission)
    house.check_clean("site")


def test_a_running_task_may_save_what_it_has(house: Rig, tmp_path: Path) -> None:
    script = "trap 'echo saved > \"$1\"; exit 5' TERM; echo begun; while :; do sleep 0.05; done"
    submission = begin(house, script, str(tmp_path / "saved"))
    house.centre.cancel(submission.execution, "a test")
    check_cancelled(house, submission)
    assert (tmp_path / "saved").read_text() == "saved\n"
    assert house.result(submission).report.exit_code == 5
    assert "begun" in house.result(submission).tail


def test_a_tree_that_ignores_term_is_killed(house: Rig) -> None:
    script = "trap '' TERM; (sh -c 'while :; do sleep 0.1; done' &); sh -c 'while :; do sleep 0.1; done' & echo begun; while :; do sleep 0.1; done"
    submission = begin(house, script)
    began = time.monotonic()
    house.centre.cancel(submission.execution, "a test")
    check_cancelled(house, submission)
    assert time.monotonic() - began > 0.9
    assert house.result(submission).report.exit_code == 137


def test_before_its_order(house: Rig, tmp_path: Path) -> None:
    submission = house.prepare("site", "/usr/bin/touch", str(tmp_path / "ran"))
    house.centre.control(submission.run, submission.attempt, "cancel", "a test")
    eventually("the tombstone is told of", lambda: house.history(submission))
    house.centre.dispatch(submission)
    check_cancelled(house, submission)
    assert not (tmp_path / "ran").exists()


def test_while_it_waits_for_a_slot(house: Rig, tmp_path: Path) -> None:
    first = begin(house, TASK, str(tmp_path / "go"))
    second = house.send("site", "/usr/bin/touch", str(tmp_path / "ran"))
    third = house.send("site", "/bin/true")
    house.reach(second, State.ACCEPTED)
    house.centre.cancel(second.execution, "a test")
    result = house.result(second)
    assert (result.state, result.report.exit_code) == (State.CANCELLED, None)
    assert house.centre.attempt(first.run, 1).state is State.RUNNING
    (tmp_path / "go").touch()
    # The slot was neither given away twice nor lost.
    assert [house.result(submission).state for submission in (first, third)] == [State.SUCCEEDED, State.SUCCEEDED]
    assert not (tmp_path / "ran").exists()
    assert State.RUNNING not in [event.state for event in house.history(second)]
    house.check_clean("site")


def test_the_deadline_passes_while_it_waits_for_a_slot(house: Rig, tmp_path: Path) -> None:
    first = begin(house, TASK, str(tmp_path / "go"))
    second = house.send("site", "/usr/bin/touch", str(tmp_path / "ran"), deadline=now() + timedelta(seconds=4))
    result = house.result(second)
    assert (result.state, result.reason and result.reason.code) == (State.FAILED, "deadline")
    (tmp_path / "go").touch()
    assert house.result(first).state is State.SUCCEEDED
    assert not (tmp_path / "ran").exists()
    house.check_clean("site")


@pytest.mark.parametrize("later", range(0, 60, 12))
def test_at_the_moment_of_its_end(house: Rig, tmp_path: Path, later: int) -> None:
    """`later` milliseconds after the task is let go."""
    submission = begin(house, TASK, str(tmp_path / "go"))
    tap = Tap(house.centre, "site")
    (tmp_path / "go").touch()
    time.sleep(later / 1000)
    house.centre.control(submission.run, 1, "cancel", "a test")
    house.hear(submission, lambda event: event.state is not None and event.state.terminal)
    house.check_told_once(submission)
    house.check_clean("site")
    assert len({state for state in tap.states(submission) if state.terminal}) == 1
    assert house.result(submission).state in (State.SUCCEEDED, State.CANCELLED)


def test_after_its_end(house: Rig) -> None:
    submission = house.send("site", "/bin/true")
    assert house.result(submission).state is State.SUCCEEDED
    tap = Tap(house.centre, "site")
    house.centre.control(submission.run, 1, "cancel", "a test")
    eventually("its state is sent again", lambda: tap.states(submission))
    assert tap.states(submission) == [State.SUCCEEDED]
    assert house.centre.attempt(submission.run, 1).state is State.SUCCEEDED
    house.check_told_once(submission)
