"""The worker killed around the writes of its audit log: the log stays whole, and each thing stands in it once."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from fdn_worker.protocol import State
from fdn_worker.protocol.chain import check, read
from federation.centre import Submission
from federation.local import LocalFederation
from federation.presence import NodePresence, presence
from tests.support.rig import Rig, eventually, rig

POINTS = (
    "before:audit",
    "after:audit",
    "before:audit:*:2",
    "after:audit:*:2",
    "after:record:started",
    "before:record:done",
    "after:record:done",
)
KILLS = 3


def node_of(point: str) -> str:
    return point.replace(":", "-").replace("*", "x")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with rig(LocalFederation(tmp_path_factory.mktemp("audit"), (*map(node_of, POINTS), "storm", "torn", "full"))) as made:
        yield made


def lines(house: Rig, node: str) -> list[tuple[str, str]]:
    paths = sorted((house.state_dir(node) / "audit").glob("*.jsonl"))
    return [(path.name, line) for path in paths for line in path.read_text().splitlines()]


def check_whole(house: Rig, node: str, runs: int) -> None:
    """Once the worker has ended, all of it is written: one way from order to end for each run."""
    house.stop(node)
    found = lines(house, node)
    assert check(found, {}).findings == []
    told = Counter((entry.kind, entry.what.get("run")) for entry in (read(text) for _, text in found) if "run" in entry.what)
    assert set(told.values()) == {1}
    assert Counter(kind for kind, _ in told) == Counter(dict.fromkeys(("received", "accepted", "started", "ended"), runs))


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_write(house: Rig, point: str) -> None:
    node = node_of(point)
    dying = house.start_dying(node, point)
    sent = [house.send(node, "/bin/true")]

    def dead() -> bool:
        # All entries of a run may go in one write: the second is then that of another run.
        if dying.poll() is None and any(event.state is State.SUCCEEDED for event in house.history(sent[-1])):
            sent.append(house.send(node, "/bin/true"))
        return dying.poll() is not None

    eventually("it died", dead)
    assert dying.returncode == -signal.SIGKILL
    house.start(node)
    assert {house.result(one).state for one in sent} == {State.SUCCEEDED}
    check_whole(house, node, len(sent))


def test_killed_again_and_again_while_runs_come(house: Rig) -> None:
    sent: list[Submission] = []
    for number in range(KILLS):
        house.start("storm")
        new = [house.send("storm", "/bin/true") for _ in range(4)]
        sent += new
        # Some of them have ended, some have not, and the log's thread is anywhere.
        eventually("one has begun", lambda new=new: any(house.history(one) for one in new))
        time.sleep(0.1 * number)
        house.kill("storm")
    house.start("storm")
    assert [house.result(one).state for one in sent] == [State.SUCCEEDED] * len(sent)
    check_whole(house, "storm", len(sent))


def test_a_line_that_was_cut_off_is_written_again(house: Rig) -> None:
    """A kill in the middle of a write leaves the beginning of a line."""
    house.start("torn")
    house.result(house.send("torn", "/bin/true"))
    house.stop("torn")
    (path,) = (house.state_dir("torn") / "audit").glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"number":99,"at":"20')
    house.start("torn")
    house.stop("torn")
    found = lines(house, "torn")
    assert check(found, {}).findings == []
    assert [read(text).what for _, text in found if read(text).kind == "mended"] == [{"file": path.name, "bytes": 21}]


def test_no_order_is_taken_while_the_log_cannot_be_written(house: Rig) -> None:
    """A file in the folder's place stands for a disk that is full: root may write anywhere else."""
    house.start("full")
    house.result(house.send("full", "/bin/true"))
    # Its lines come a little after the result.
    eventually("the run's end is written", lambda: any(read(line).kind == "ended" for _, line in lines(house, "full")))
    folder, away = house.state_dir("full") / "audit", house.state_dir("full") / "away"
    folder.rename(away)
    folder.write_text("in the way")
    house.result(house.send("full", "/bin/true"))

    def site() -> NodePresence:
        return next(node for node in presence(house.centre.records) if node.name == "full")

    eventually("its intake stops", lambda: not site().accepting and any("audit log" in problem for problem in site().problems))
    waits = house.send("full", "/bin/true")
    folder.unlink()
    away.rename(folder)
    assert house.result(waits).state is State.SUCCEEDED
    eventually("all is well again", lambda: site().accepting and not site().problems)
    check_whole(house, "full", 3)
