"""Start, stop and drain of the worker, as processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdn_worker.protocol import State
from fdn_worker.protocol.names import command_queue
from federation.centre import Submission
from federation.local import LocalFederation
from tests.support.rig import Rig, name_of, rig
from tests.support.waiting import SOON

NODES = ("stopped", "idle", "drained", "left", "empty", "two", "unsigned")
#: Counts its executions in $1, and waits for $2.
TASK = 'echo x >> "$1"; echo begun; until [ -e "$2" ]; do sleep 0.02; done; echo ended'


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(LocalFederation(tmp_path_factory.mktemp("life"), NODES)) as made:
        yield made


def begin(house: Rig, node: str, folder: Path) -> Submission:
    submission = house.send(node, "/bin/sh", "-c", TASK, "sh", str(folder / "count"), str(folder / "go"))
    house.line(submission, "begun")
    return submission


def finish(house: Rig, submission: Submission, folder: Path) -> None:
    (folder / "go").touch()
    assert house.result(submission).state is State.SUCCEEDED
    assert (folder / "count").read_text() == "x\n"
    house.check_told_once(submission)
    house.check_clean(submission.node)


def test_sigterm_leaves_the_task_running_and_the_next_start_takes_it_up(house: Rig, tmp_path: Path) -> None:
    house.start("stopped")
    submission = begin(house, "stopped", tmp_path)
    assert house.stop("stopped") == 0
    assert name_of(submission) in house.launcher("stopped").names("stopped")
    house.start("stopped")
    finish(house, submission, tmp_path)


def test_a_task_that_ends_while_no_worker_is_there(house: Rig, tmp_path: Path) -> None:
    house.start("idle")
    submission = begin(house, "idle", tmp_path)
    assert house.stop("idle") == 0
    (tmp_path / "go").touch()
    assert house.follow(submission).code == 0
    house.start("idle")
    finish(house, submission, tmp_path)


def test_drain_finishes_what_is_here_and_takes_nothing_in(house: Rig, tmp_path: Path) -> None:
    (tmp_path / "second").mkdir()
    house.start("drained")
    first = begin(house, "drained", tmp_path)
    drained = house.command("drained", "drain")
    assert (drained.returncode, drained.stdout) == (0, "draining; 1 attempts to finish\n")
    depth = house.centre.broker.depth(command_queue("drained"))
    assert depth is not None
    assert depth.consumers == 0, "it is in force once the command has ended"
    second = house.send("drained", "/bin/sh", "-c", TASK, "sh", str(tmp_path / "second/count"), str(tmp_path / "second/go"))
    (tmp_path / "go").touch()
    assert house.result(first).state is State.SUCCEEDED
    status = json.loads(house.command("drained", "status", "--json").stdout)
    assert (status["alive"], status["draining"], status["unfinished"]) == (True, True, 0)
    assert house.history(second) == []

    assert house.command("drained", "drain", "--undo").stdout == "orders are taken again\n"
    finish(house, second, tmp_path / "second")


def test_drain_exit_ends_the_worker_once_all_is_told(house: Rig, tmp_path: Path) -> None:
    house.start("left")
    submission = begin(house, "left", tmp_path)
    assert house.command("left", "drain", "--exit").returncode == 0
    (tmp_path / "go").touch()
    assert house.federation.workers.pop("left").wait(SOON) == 0
    finish(house, submission, tmp_path)
    status = json.loads(house.command("left", "status", "--json").stdout)
    assert (status["alive"], status["events_to_send"]) == (False, 0)
    assert house.command("left", "drain").returncode == 0, "no worker is there to be waited for"


def test_an_idle_worker_ends_at_once_when_drained(house: Rig) -> None:
    house.start("empty")
    assert house.command("empty", "drain", "--exit").returncode == 0
    assert house.federation.workers.pop("empty").wait(SOON) == 0


def test_a_second_worker_on_one_journal_is_refused(house: Rig) -> None:
    house.start("two")
    second = house.command("two", "start")
    assert second.returncode == 2
    assert second.stderr.count("\n") == 1
    assert "another worker has the state folder" in second.stderr


def test_an_embedded_federation_says_that_nothing_is_signed(house: Rig) -> None:
    house.start("unsigned")
    assert "nothing is signed, and whoever can write to its broker has this node run what they like" in house.log("unsigned")
