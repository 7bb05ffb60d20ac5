"""How attempts end at a real worker: each bad input and each fault with its state, code and message; and bad messages."""

from __future__ import annotations

import json
import os
import signal
import time
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.errors import Fault
from fdn_worker.protocol import Heartbeat, Message, Signer, State, TaskOrder, decode, now, pack
from fdn_worker.protocol.envelope import payload_of
from fdn_worker.protocol.names import command_queue, control_queue, dead_letter_queue
from federation.centre import Submission
from federation.local import LocalFederation
from federation.results import TaskResult
from storage.keys import input_key
from tests.support.rig import Rig, Tap, name_of, rig
from tests.support.waiting import eventually

TASK = 'echo x >> "$1"; echo begun; until [ -e "$2" ]; do sleep 0.01; done; echo ended'


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home = tmp_path_factory.mktemp("ends")
    (home / "data/cohort").mkdir(parents=True)
    (home / "elsewhere").mkdir()
    (home / "data/astray").symlink_to(home / "elsewhere")
    datasets = {"site": {"cohort": home / "data/cohort", "astray": home / "data/astray", "gone": home / "data/gone"}}
    with rig(LocalFederation(home, ("site", "other"), datasets, options={"grace": 0.5})) as made:
        made.start("site")
        yield made


def end(house: Rig, submission: Submission) -> TaskResult:
    result = house.result(submission)
    house.check_told_once(submission)
    house.check_clean("site")
    return result


def check(result: TaskResult, state: State, code: str, fault: Fault, *words: str) -> None:
    """It ended so, and the message is one line that holds these words."""
    assert result.reason is not None, result.state
    assert (result.state, result.reason.code, result.reason.fault) == (state, code, fault)
    assert "\n" not in result.reason.message
    assert [word for word in words if word not in result.reason.message] == []
    assert result.outputs == ()


REFUSED: dict[str, tuple[dict[str, Any], str, tuple[str, ...]]] = {
    "dataset-unknown": ({"datasets": ("lacking",)}, "dataset-unknown", ("site", "'lacking'", "it offers astray, cohort, gone")),
    "dataset-gone": ({"datasets": ("gone",)}, "dataset-unavailable", ("'gone'", "tell the site")),
    "dataset-astray": ({"datasets": ("astray",)}, "dataset-refused", ("'astray'", "data roots")),
    "launcher": ({"launcher": "docker", "image": "any"}, "launcher-refused", ("'docker'", "it allows process")),
    "network": ({"network": True}, "network-refused", ("network",)),
    "cpus": ({"cpus": 4000}, "resources", ("4,000 cpus", "ask for less")),
    "memory": ({"memory": 2**50}, "resources", ("bytes of memory", "ask for less")),
    "source": ({"repository": "file:///tmp/repository", "commit": "0" * 40}, "source-refused", ("https://",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_by_the_site(house: Rig, tmp_path: Path, name: str) -> None:
    request, code, words = REFUSED[name]
    submission = house.send("site", "/usr/bin/touch", str(tmp_path / "ran"), **request)
    check(end(house, submission), State.REJECTED, code, Fault.POLICY, *words)
    assert not (tmp_path / "ran").exists()


FAILED: dict[str, tuple[str, dict[str, Any], str, tuple[str, ...]]] = {
    "exit-code": ("echo so far; exit 7", {}, "exit-code", ("exit code 7",)),
    "killed": ("echo so far; kill -SEGV $$", {}, "exit-code", ("exit code 139",)),
    "timeout": ("echo so far; sleep 600", {"timeout": 0.4}, "timeout", ("timeout",)),
    "timeout-ignoring-term": ("trap '' TERM; echo so far; while :; do sleep 0.1; done", {"timeout": 0.4}, "timeout", ("timeout",)),
    "nothing-matches": ("echo so far; echo 1 > a.csv", {"outputs": ("*.csv", "table/*.txt")}, "output-missing", ("'table/*.txt'",)),
    "symlink": ("echo so far; ln -s /etc/passwd stolen", {"outputs": ("stolen",)}, "output-refused", ("'stolen'", "links")),
    "symlinked-folder": ("echo so far; ln -s /etc etc", {"outputs": ("etc/passwd",)}, "output-missing", ("'etc/passwd'",)),
    "hard-link": ("echo so far; echo 1 > a; ln a b", {"outputs": ("b",)}, "output-refused", ("'b'",)),
    "pipe": ("echo so far; mkfifo pipe", {"outputs": ("pip*",)}, "output-refused", ("'pipe'",)),
}


@pytest.mark.parametrize("name", FAILED)
def test_failed_by_the_task(house: Rig, name: str) -> None:
    script, request, code, words = FAILED[name]
    result = end(house, house.send("site", "/bin/sh", "-c", script, **request))
    check(result, State.FAILED, code, Fault.USER, *words)
    assert house.output(result, "logs/run.log") == b"so far\n"


def test_no_such_command(house: Rig) -> None:
    result = end(house, house.send("site", "no-such-command"))
    check(result, State.FAILED, "command-not-found", Fault.USER, "'no-such-command'")


def test_the_deadline_passes_while_it_runs(house: Rig) -> None:
    submission = house.send("site", "/bin/sh", "-c", "sleep 600", deadline=now() + timedelta(seconds=4))
    check(end(house, submission), State.FAILED, "deadline", Fault.USER, "deadline")


def test_an_order_that_comes_after_its_deadline(house: Rig, tmp_path: Path) -> None:
    deadline = now() + timedelta(seconds=2)
    submission = house.prepare("site", "/usr/bin/touch", str(tmp_path / "ran"), deadline=deadline)
    time.sleep((deadline - now()).total_seconds() + 0.1)
    house.centre.dispatch(submission)
    check(end(house, submission), State.REJECTED, "expired", Fault.POLICY, "deadline", "submit it again")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("change", ["missing", "changed"])
def test_an_input_that_the_store_lost_or_changed(house: Rig, tmp_path: Path, change: str) -> None:
    (tmp_path / "in.txt").write_text("data\n")
    submission = house.prepare("site", "/usr/bin/touch", str(tmp_path / "ran"), inputs=(str(tmp_path / "in.txt"),))
    key = input_key(submission.execution, submission.task, "in.txt")
    house.centre.store.delete([key])
    if change == "changed":
        (tmp_path / "other").write_text("date\n")
        with (tmp_path / "other").open("rb") as other:
            house.centre.store.put(key, other, 5)
    house.centre.dispatch(submission)
    fault = Fault.INFRASTRUCTURE if change == "missing" else Fault.USER
    check(end(house, submission), State.FAILED, f"input-{change}", fault, "submit it again")
    assert not (tmp_path / "ran").exists()


def test_a_task_that_is_gone_is_lost(house: Rig) -> None:
    submission = house.send("site", "/bin/sh", "-c", "echo begun; sleep 600")
    house.line(submission, "begun")
    # Its keeper, and with that its exit status.
    claim = house.state_dir("site") / "process" / name_of(submission) / "claim"
    os.kill(json.loads(claim.read_text())["pid"], signal.SIGKILL)
    check(end(house, submission), State.LOST, "vanished", Fault.INFRASTRUCTURE)


def test_a_flood_of_lines_harms_nobody(house: Rig) -> None:
    submission = house.send("site", "/bin/sh", "-c", "yes 0123456789 | head -n 40000; echo last")
    result = end(house, submission)
    assert result.state is State.SUCCEEDED
    lines = [line for event in house.history(submission) for line in event.lines]
    assert result.report.lines_dropped > 0
    assert lines[-1].endswith("lines were dropped: the node's caps on log lines and bytes]")
    # The note is a line, too.
    assert len(lines) - 1 + result.report.lines_dropped == 40001
    assert house.output(result, "logs/run.log") == b"0123456789\n" * 40000 + b"last\n"


# Messages


def publish(house: Rig, body: bytes, queue: str) -> None:
    house.centre.broker.publish(body, key=queue, message_id="of-a-test")


def dead_letters(house: Rig, count: int) -> None:
    """Wait until that many are there, and take them away."""

    def there() -> bool:
        depth = house.centre.broker.depth(dead_letter_queue("site"))
        return depth is not None and depth.messages == count

    eventually(f"{count} dead letters", there)
    subscription = house.centre.broker.consume(dead_letter_queue("site"), lambda delivery: delivery.ack())
    eventually("they are taken away", lambda: not house.left("site"))
    subscription.cancel()


def beat() -> Message:
    return Heartbeat(
        node="site", session=uuid.uuid4(), number=1, at=now(), interval=1, worker_version="0", slots=1, slots_free=1, cpus=1, memory=1,
        disk_free=1, accepting=True,
    )  # fmt: skip


def test_what_cannot_be_read_goes_to_the_dead_letters_and_the_worker_lives(house: Rig) -> None:
    order = decode(payload_of(house.centre.attempt((good := house.prepare("site", "/bin/true")).run, 1).order_body))
    assert isinstance(order, TaskOrder)
    bad = [
        b"", b"\xff\x00", b"[]", b'{"version": 1}', Signer().seal(b"{}"), Signer().seal(b"not json"), Signer().seal(b'{"kind": "nonsense"}'),
        pack(order.model_copy(update={"version": "9.0"}), Signer()), b"[" * 100_000,
        pack(order, Signer()).replace(str(order.run).encode(), str(order.execution).encode()),
        pack(beat(), Signer()),
    ]  # fmt: skip
    for body in bad:
        for queue in (command_queue("site"), control_queue("site")):
            publish(house, body, queue)
    dead_letters(house, 2 * len(bad))
    house.centre.dispatch(good)
    assert end(house, good).state is State.SUCCEEDED


def test_an_order_for_another_node(house: Rig, tmp_path: Path) -> None:
    submission = house.prepare("other", "/usr/bin/touch", str(tmp_path / "ran"))
    publish(house, house.centre.attempt(submission.run, 1).order_body, command_queue("site"))
    dead_letters(house, 1)
    assert not (tmp_path / "ran").exists()
    assert house.history(submission) == []


def test_an_order_that_comes_twice(house: Rig, tmp_path: Path) -> None:
    submission = house.send("site", "/bin/sh", "-c", TASK, "sh", str(tmp_path / "count"), str(tmp_path / "go"))
    body = house.centre.attempt(submission.run, 1).order_body
    house.line(submission, "begun")
    tap = Tap(house.centre, "site")
    publish(house, body, command_queue("site"))
    eventually("its state is sent again", lambda: tap.states(submission))
    assert tap.states(submission) == [State.RUNNING]
    (tmp_path / "go").touch()
    assert end(house, submission).state is State.SUCCEEDED

    last = Tap(house.centre, "site")
    publish(house, body, command_queue("site"))
    eventually("its state is sent again", lambda: last.states(submission))
    assert last.states(submission) == [State.SUCCEEDED]
    assert last.heard[-1] == house.history(submission)[-1]
    assert (tmp_path / "count").read_text() == "x\n"
    house.check_told_once(submission)
    house.check_clean("site")


def test_a_report_is_asked_for(house: Rig, tmp_path: Path) -> None:
    submission = house.send("site", "/bin/sh", "-c", TASK, "sh", str(tmp_path / "count"), str(tmp_path / "go"))
    house.line(submission, "begun")
    tap = Tap(house.centre, "site")
    house.centre.control(submission.run, 1, "report")
    eventually("its state is sent again", lambda: tap.states(submission))
    (tmp_path / "go").touch()
    assert end(house, submission).state is State.SUCCEEDED
    assert tap.states(submission)[0] is State.RUNNING


def test_an_old_order_at_a_node_that_has_forgotten_it(house: Rig, tmp_path: Path) -> None:
    """Its journal is gone, or has let the attempt go: then the order's own expiry refuses the replay."""
    house.start("other")
    deadline = now() + timedelta(seconds=8)
    submission = house.send("other", "/bin/sh", "-c", TASK, "sh", str(tmp_path / "count"), "/dev/null", deadline=deadline)
    assert house.result(submission).state is State.SUCCEEDED
    house.check_clean("other")
    assert house.stop("other") == 0
    for path in house.state_dir("other").glob("journal.db*"):
        path.unlink()
    time.sleep(max(0.0, (deadline - now()).total_seconds()))
    house.start("other")
    tap = Tap(house.centre, "other")
    publish(house, house.centre.attempt(submission.run, 1).order_body, command_queue("other"))
    eventually("it is refused", lambda: tap.states(submission))
    assert tap.states(submission) == [State.REJECTED]
    assert tap.heard[-1].reason is not None
    assert tap.heard[-1].reason.code == "expired"
    assert (tmp_path / "count").read_text() == "x\n"
    # What was known of its end stands.
    assert house.result(submission).state is State.SUCCEEDED
