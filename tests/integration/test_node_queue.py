"""A node's queues, purged and paused, on both brokers, with a real worker."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdn_worker.brokers import Queue
from fdn_worker.errors import SystemFault
from fdn_worker.protocol import State
from fdn_worker.protocol.names import command_queue, dead_letter_queue
from federation.local import LocalFederation
from federation.node_queue import purge, queues, set_intake
from federation.presence import presence
from tests.conftest import Services
from tests.support.rig import Rig, eventually, rig
from tests.support.services import real_rig


@pytest.fixture(params=["embedded", "real"])
def made(request: pytest.FixtureRequest, tmp_path: Path, unique: str) -> Iterator[Rig]:
    """A federation of one node, whose worker is not started."""
    if request.param == "embedded":
        with rig(LocalFederation(tmp_path / "home", ("site-a",))) as one:
            yield one
    else:
        services: Services = request.getfixturevalue("services")
        with real_rig(services, tmp_path / "home", ("site-a",), unique, launcher="process") as one:
            yield one


def waiting(made: Rig) -> int:
    depth = made.centre.broker.depth(command_queue("site-a"))
    assert depth is not None
    return depth.messages


def test_purged_orders_end_cancelled_and_never_run(made: Rig, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    sent = [made.send("site-a", "/bin/sh", "-c", f"echo >> {mark}") for _ in range(3)]
    eventually("all wait", lambda: waiting(made) == 3)
    assert {order.run for order in purge(made.centre, "site-a")} == {one.run for one in sent}
    for one in sent:
        row = made.centre.attempt(one.run, one.attempt)
        assert (row.state, row.reason and row.reason.code) == (State.CANCELLED, "purged")
    assert purge(made.centre, "site-a") == [], "what is empty stays so"
    made.start("site-a")
    assert made.result(made.send("site-a", "/bin/true")).state is State.SUCCEEDED
    assert not mark.exists()


def test_what_cannot_be_read_is_left_for_people_to_look_at(made: Rig) -> None:
    made.centre.broker.publish(b"no order", key=command_queue("site-a"), message_id="strange")
    eventually("it waits", lambda: waiting(made) == 1)
    assert purge(made.centre, "site-a") == []

    def dead() -> bool:
        depth = made.centre.broker.depth(dead_letter_queue("site-a"))
        return depth is not None and depth.messages == 1

    eventually("it is among the dead letters", dead)
    # For the rig's own look at what is left.
    made.centre.broker.delete(Queue(dead_letter_queue("site-a")))


def test_how_they_stand(made: Rig) -> None:
    made.send("site-a", "/bin/true")
    eventually("it waits", lambda: waiting(made) == 1)
    stands = {one.name: one.depth for one in queues(made.centre, "site-a")}
    assert list(stands) == ["cmd.site-a", "ctl.site-a", "dead.site-a"]
    commands = stands["cmd.site-a"]
    assert commands is not None
    assert (commands.messages, commands.consumers) == (1, 0)


def test_a_paused_node_takes_no_orders_until_it_is_resumed(made: Rig) -> None:
    made.start("site-a")
    asyncio.run(set_intake(made.centre, "site-a", pause=True))
    row = made.centre.records.node("site-a")
    assert row is not None
    assert row.paused is not None
    one = made.send("site-a", "/bin/true")
    made.stop("site-a")
    made.start("site-a")  # it holds over a restart
    eventually("its heartbeat says so", lambda: not presence(made.centre.records)[0].accepting)
    # RabbitMQ's count of a queue comes a little later.
    eventually("it waits", lambda: waiting(made) == 1)
    assert made.centre.attempt(one.run, one.attempt).state is State.QUEUED
    asyncio.run(set_intake(made.centre, "site-a", pause=False))
    assert made.result(one).state is State.SUCCEEDED
    row = made.centre.records.node("site-a")
    assert row is not None
    assert row.paused is None


def test_a_node_that_is_away_cannot_be_paused(made: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("federation.node_queue.PATIENCE", 0.5)
    with pytest.raises(SystemFault, match="did not answer, so nothing changed"):
        asyncio.run(set_intake(made.centre, "site-a", pause=True))
    row = made.centre.records.node("site-a")
    assert row is not None
    assert row.paused is None
