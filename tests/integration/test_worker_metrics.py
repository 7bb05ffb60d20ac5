"""A worker's metrics, as Prometheus asks for them; and that each of its and the gateway's is documented."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdn_worker.protocol import State
from federation.local import LocalFederation
from tests.support.ports import free_ports
from tests.support.prometheus import samples
from tests.support.rig import Rig, eventually, rig

NODE = "site"
PAGE = Path(__file__).resolve().parents[2] / "docs/reference/metrics.md"


@pytest.fixture(scope="module")
def port() -> int:
    return free_ports(1, begin=25000)[0]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Rig]:
    options = {"slots": 1, "metrics": {"listen": f"127.0.0.1:{port}"}}
    with rig(LocalFederation(tmp_path_factory.mktemp("metrics"), (NODE,), options=options)) as made:
        made.start(NODE)
        yield made


def told(port: int) -> dict[str, dict[tuple[str, ...], float]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        return samples(answer.read().decode())


def test_it_tells_what_is_here_and_what_ended(house: Rig, port: int) -> None:
    assert house.result(house.send(NODE, "/bin/true", user="ada")).state is State.SUCCEEDED
    assert house.result(house.send(NODE, "/bin/false")).state is State.FAILED
    running = house.send(NODE, "/bin/sleep", "600")
    house.reach(running, State.RUNNING)
    second = house.send(NODE, "/bin/sleep", "600")
    house.reach(second, State.ACCEPTED)
    found = told(port)
    assert found["fdn_worker_attempts"]["RUNNING",] == 1
    assert found["fdn_worker_attempts"]["ACCEPTED",] == 1
    assert (found["fdn_worker_slots"][()], found["fdn_worker_slots_free"][()], found["fdn_worker_accepting"][()]) == (1, 0, 1)
    assert found["fdn_worker_attempts_ended_total"] == {("", "SUCCEEDED"): 1, ("user", "FAILED"): 1}
    assert found["fdn_worker_state_seconds_count"]["RUNNING",] == 2
    assert found["fdn_worker_disk_free_bytes"][()] > 0
    for one in (running, second):
        house.centre.cancel(one.execution, "enough")
        assert house.result(one).state is State.CANCELLED
    eventually("all events are sent, and a heartbeat was", lambda: told(port)["fdn_worker_outbox_messages"][()] == 0
               and "fdn_worker_heartbeat_age_seconds" in told(port))  # fmt: skip
    assert told(port)["fdn_worker_attempts_ended_total"]["", "CANCELLED"] == 2
    names = {
        name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in told(port) if not name.endswith("_created")
    }
    assert [name for name in names if f"`{name}`" not in PAGE.read_text()] == []


def test_an_address_that_is_taken_is_told(house: Rig, port: int, tmp_path: Path) -> None:
    options = {"metrics": {"listen": f"127.0.0.1:{port}"}}
    with rig(LocalFederation(tmp_path, ("other",), options=options)) as second:
        process = second.federation.start("other")
        assert process.wait(30) == 2
        assert f"metrics.listen '127.0.0.1:{port}'" in second.log("other")
