"""What the heartbeats say of the nodes."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fdn_worker.protocol import Heartbeat, now
from federation.centre import Centre
from federation.enrol import enrol, retire
from federation.presence import GONE, SUSPECT, judged, presence
from tests.unit.helpers import MOMENT, an_id


@pytest.mark.parametrize(
    ("missed", "found"),
    [(0, "connected"), (SUSPECT, "connected"), (SUSPECT + 0.01, "suspect"), (GONE, "suspect"), (GONE + 0.01, "gone"), (-5, "connected")],
)
@pytest.mark.parametrize("interval", [0.5, 10.0])
def test_by_how_many_heartbeats_are_missing(missed: float, found: str, interval: float) -> None:
    assert judged(MOMENT, interval, MOMENT + timedelta(seconds=missed * interval)) == found


def test_every_node_that_is_enrolled_is_told(centre: Centre) -> None:
    enrol(centre.broker, centre.records, "far", display_name="Far Away")
    enrol(centre.broker, centre.records, "old")
    retire(centre.broker, centre.records, "old")
    beat = Heartbeat(
        node="site-b", session=an_id(1), number=1, at=now(), interval=2.0, worker_version="1.2", slots=4, slots_free=3, launchers=("docker",),
        datasets=("census",), accepting=False, problems=("the disk is full",),
    )  # fmt: skip
    centre.records.heard([beat], now())
    far, first, second = presence(centre.records)
    assert [node.name for node in (far, first, second)] == ["far", "site-a", "site-b"]
    assert (far.display_name, far.presence, far.last_seen) == ("Far Away", "gone", None)
    assert (second.presence, second.version, second.slots, second.slots_free, second.accepting) == ("connected", "1.2", 4, 3, False)
    assert (second.launchers, second.datasets, second.problems) == (("docker",), ("census",), ("the disk is full",))
    centre.records.heard([beat], now() - timedelta(seconds=20))
    assert presence(centre.records)[2].presence == "suspect"


def test_a_node_that_comes_back_after_hours_is_simply_back(centre: Centre) -> None:
    def beat(session: int, number: int) -> Heartbeat:
        return Heartbeat(
            node="site-a", session=an_id(session), number=number, at=MOMENT, interval=2.0, worker_version="1.2", slots=2, slots_free=1,
            images=("python:3.11",), gpus=2, memory=1024, disk_free=2048,
        )  # fmt: skip

    centre.records.heard([beat(1, 700)], now() - timedelta(hours=9))
    assert presence(centre.records)[0].presence == "gone"
    centre.records.heard([beat(2, 1)], now())
    back = presence(centre.records)[0]
    assert (back.presence, back.slots_free, back.images, back.gpus, back.memory, back.disk_free) == (
        "connected", 1, ("python:3.11",), 2, 1024, 2048
    )  # fmt: skip


def test_a_clock_that_is_ahead_is_told(centre: Centre) -> None:
    for ahead, told in ((timedelta(minutes=4), ()), (timedelta(minutes=20), ("its clock is 20 min ahead of the centre's",))):
        beat = Heartbeat(
            node="site-a", session=an_id(1), number=1, at=now() + ahead, interval=2.0, worker_version="1", slots=1, slots_free=1
        )
        centre.records.heard([beat], now())
        assert presence(centre.records)[0].problems == told
