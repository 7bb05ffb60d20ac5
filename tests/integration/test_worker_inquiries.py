"""What a worker answers when it is asked: plans, its health, images, and the pause of its intake."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import docker
import pytest

from fdn_worker.errors import Fault
from fdn_worker.protocol import Answer, Inquiry, State, TaskOrder, now, pack
from fdn_worker.protocol.names import command_queue, control_queue
from federation.inquiry import ask
from federation.local import LocalFederation
from federation.presence import presence
from tests.conftest import Services
from tests.support.rig import Rig, rig
from tests.support.services import real_rig
from tests.support.waiting import SOON, eventually
from tests.unit.helpers import an_order


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home = tmp_path_factory.mktemp("inquiries")
    (home / "data/cohort").mkdir(parents=True)
    datasets = {"site": {"cohort": home / "data/cohort", "gone": home / "data/gone"}}
    options = {"images": "none", "shelves": {"models": str(home / "shelf")}, "address": "site.example"}
    with rig(LocalFederation(home, ("site",), datasets, options=options)) as made:
        made.start("site")
        yield made


def asked(house: Rig, node: str, about: str, **fields: Any) -> Answer:
    return asyncio.run(ask(house.centre, (node,), about, seconds=SOON, **fields))[node]


def planned(house: Rig, node: str, *orders: TaskOrder) -> Answer:
    return asked(house, node, "plan", orders={node: orders})


def test_a_plan_has_every_reason_and_leaves_nothing(house: Rig) -> None:
    good = an_order(node="site", datasets=("cohort",))
    bad = an_order(node="site", task="bad", network=True, datasets=("gone", "cohort"), checks=("cohort/*.csv",), sandbox="mine")
    answer = planned(house, "site", good, bad)
    first, second = answer.plans
    assert (first.task, first.accepts, first.reasons, first.launcher, first.image_here) == ("main", True, (), "process", None)
    assert (second.task, second.accepts) == ("bad", False)
    assert [reason.code for reason in second.reasons] == ["network-refused", "dataset-unavailable", "sandbox-refused", "check-failed"]
    assert (answer.slots, answer.slots_free, answer.accepting, answer.address) == (2, 2, True, "site.example")
    house.check_clean("site")


def test_health(house: Rig) -> None:
    asked_at = now()
    health = asked(house, "site", "health").health
    assert health is not None
    assert asked_at <= health.clock <= now()
    assert health.uptime > 0
    assert (health.launchers, health.images, health.certificate_expires) == ({"process": "ready"}, (), None)
    assert health.paths == {"state_dir": True, "dataset cohort": True, "dataset gone": False, "shelf models": False}
    assert set(health.problems) == {"dataset gone is not as it should be", "shelf models is not as it should be"}
    assert health.memory > 0
    assert health.disk_free > 0


def test_a_heartbeat_says_where_servers_are_reached(house: Rig) -> None:
    (site,) = eventually("it was heard", lambda: [node for node in presence(house.centre.records) if node.address])
    assert site.address == "site.example"


@pytest.mark.parametrize("fields", [{"action": "list"}, {"action": "pull", "image": "x:1"}])
def test_images_that_are_nobodys_business(house: Rig, fields: dict[str, str]) -> None:
    refused = asked(house, "site", "images", **fields).refused
    assert refused is not None
    assert (refused.code, refused.fault) == ("images-refused", Fault.POLICY)
    assert refused.message == f"node site does not let the centre {fields['action']} images"


def test_what_comes_too_late_is_not_answered(house: Rig) -> None:
    late = Inquiry(request=uuid4(), node="site", issued=now(), deadline=now() - timedelta(seconds=1), about="health")
    house.centre.broker.publish(pack(late, house.centre.signer), key=control_queue("site"), message_id=late.message_id)
    # The later one is answered, on the same threads.
    assert asked(house, "site", "health").health is not None
    eventually("it is said so", lambda: "an inquiry about health came too late" in house.log("site"))


def test_a_paused_node_takes_nothing_until_it_is_resumed_also_after_a_restart(house: Rig) -> None:
    assert asked(house, "site", "intake", action="pause", user="ada").accepting is False
    depth = house.centre.broker.depth(command_queue("site"))
    assert depth is not None
    assert depth.consumers == 0
    house.stop("site")
    house.start("site")
    waiting = house.send("site", "/bin/true")
    assert json.loads(house.command("site", "status", "--json").stdout)["paused"] is True
    # It still answers, and says why.
    health = asked(house, "site", "health").health
    assert health is not None
    assert "paused by ada: no orders are taken" in health.problems
    assert house.history(waiting) == []
    assert asked(house, "site", "intake", action="resume").accepting is True
    assert house.result(waiting).state is State.SUCCEEDED
    house.check_clean("site")


def test_drain_and_pause_are_two_things(house: Rig) -> None:
    house.command("site", "drain")
    assert asked(house, "site", "intake", action="pause").accepting is False
    assert asked(house, "site", "intake", action="resume").accepting is False
    house.command("site", "drain", "--undo")
    assert asked(house, "site", "health").accepting


# With Docker


@pytest.fixture(scope="module")
def real(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    name = f"ask-{time.time_ns():x}"
    with real_rig(services, tmp_path_factory.mktemp("ask"), (name,), name, options={"images": "manage", "heartbeat": 0.5}) as made:
        made.start(name)
        yield made


@pytest.fixture
def node(real: Rig) -> str:
    return real.federation.nodes[0]


def test_images_in_plan_health_and_heartbeat(real: Rig, node: str, services: Services) -> None:
    there, absent = (an_order(node=node, task=task, image=image) for task, image in (("a", services.images["busybox"]), ("b", "absent:1")))
    first, second = planned(real, node, there, absent).plans
    assert (first.accepts, first.image_here, first.launcher) == (True, True, "docker")
    assert (first.image_digest or "").startswith("sha256:")
    assert (second.accepts, second.image_here) == (False, None)
    assert [reason.code for reason in second.reasons] == ["image-missing"]
    health = asked(real, node, "health").health
    assert health is not None
    assert health.launchers["docker"].startswith("Docker 2")
    assert services.images["busybox"] in {image.name for image in health.images}
    eventually("a heartbeat names it", lambda: services.images["busybox"] in presence(real.centre.records)[0].images)


def test_images_are_removed_where_the_site_allows_it(real: Rig, node: str, services: Services, unique: str) -> None:
    api = docker.APIClient(base_url=services.docker_host)
    api.tag(services.images["busybox"], unique, "1")
    listed = asked(real, node, "images").images
    (mine,) = [image for image in listed if image.name == f"{unique}:1"]
    assert mine.size > 0
    left = asked(real, node, "images", action="remove", image=f"{unique}:1").images
    assert mine.name not in {image.name for image in left}
    assert services.images["busybox"] in {image.name for image in left}
    for action in ("remove", "pull"):
        refused = asked(real, node, "images", action=action, image=f"{unique}:1").refused
        assert refused is not None
        assert refused.code in ("image-missing", "launcher-unavailable")


def test_an_image_in_use_stays(real: Rig, node: str, services: Services, unique: str, tmp_path: Path) -> None:
    api = docker.APIClient(base_url=services.docker_host)
    container = api.create_container(services.images["busybox"], ["true"])["Id"]
    try:
        api.commit(container, repository=unique, tag="1")
        other = api.create_container(f"{unique}:1", ["true"])["Id"]
        refused = asked(real, node, "images", action="remove", image=f"{unique}:1").refused
        assert refused is not None
        assert (refused.code, refused.fault) == ("image-in-use", Fault.USER)
    finally:
        for found in (container, other):
            api.remove_container(found)
        api.remove_image(f"{unique}:1")
        api.close()
