"""The site's word on an order: each refusal with its code, what is wrong and how to mend it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fdn_worker import folders, launchers, policy
from fdn_worker.errors import Fault, PolicyRefused
from fdn_worker.policy import bounds
from fdn_worker.protocol import Mount, Move, Port, Server, Source, now
from fdn_worker.settings import WorkerSettings
from tests.unit.helpers import an_order, settings

TB = 1024**4


@pytest.fixture
def site(tmp_path: Path) -> WorkerSettings:
    """A node with the data set `census`, and others that are not as they should be."""
    for name in ("data/census", "data-of-others/x", "state"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/file").touch()
    (tmp_path / "data/out").symlink_to(tmp_path / "data-of-others")
    (tmp_path / "data/in").symlink_to(tmp_path / "data/census")
    (tmp_path / "data/circle").symlink_to(tmp_path / "data/circle")
    names = {name: tmp_path / "data" / name for name in ("census", "file", "out", "in", "circle", "gone")}
    names |= {
        "neighbour": tmp_path / "data-of-others/x",
        "climbing": tmp_path / "data/../data-of-others/x",
        "below": tmp_path / "data/file/x",
    }
    return settings(
        tmp_path / "state", datasets=names, data_roots=(tmp_path / "data",),
        limits={"cpus": 2.0, "memory": "1GiB", "timeout": 100.0, "disk_reserve": 0},
    )  # fmt: skip


def refusals(site: WorkerSettings, **changes: Any) -> list[PolicyRefused]:
    found = list(bounds.refusals(an_order(**{"timeout": 10.0} | changes), site, now()))
    assert {error.fault for error in found} <= {Fault.POLICY}
    assert not any("\n" in str(error) for error in found)
    return found


def refusal(site: WorkerSettings, **changes: Any) -> PolicyRefused:
    """The one reason."""
    (error,) = refusals(site, **changes)
    return error


def test_what_the_site_takes(site: WorkerSettings) -> None:
    assert refusals(site, timeout=100.0, datasets=("census", "in"), resources={"cpus": 2.0, "memory": "1GiB"}) == []
    assert refusals(site, launcher="process", source={"repository": "https://x.org/y", "commit": "0" * 40}) == []


def test_a_plan_hears_every_reason(site: WorkerSettings) -> None:
    found = refusals(site, network=True, datasets=("cencus", "census", "out"), timeout=101.0, resources={"cpus": 3})
    assert [error.code for error in found] == ["network-refused", "dataset-unknown", "dataset-refused", "resources", "resources"]


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"node": "site-b"}, "wrong-audience", "the order is for node site-b, this is site-a"),
        ({"launcher": "docker"}, "launcher-refused", "node site-a does not allow launcher 'docker' (it allows process)"),
        ({"network": True}, "network-refused", "node site-a gives tasks no network"),
        ({"datasets": ("cencus",)}, "dataset-unknown", "node site-a has no dataset 'cencus' (it offers below, census, circle, climbing, "),
        ({"resources": {"cpus": 2.5}}, "resources", "the order asks for 2.5 cpus, node site-a gives at most 2 (ask for less)"),
        ({"resources": {"memory": "2GiB"}}, "resources", "asks for 2,147,483,648 bytes of memory, node site-a gives at most 1,073,741,824"),
        ({"resources": {"disk": 10**6 * TB}}, "resources", "bytes of disk, node site-a gives at most"),
        ({"timeout": 101.0}, "resources", "asks for 101 seconds, node site-a gives at most 100"),
    ],
)
def test_what_it_refuses(site: WorkerSettings, changes: dict[str, Any], code: str, words: str) -> None:
    error = refusal(site, **changes)
    assert error.code == code
    assert words in str(error)


def test_an_order_past_its_deadline(site: WorkerSettings) -> None:
    moment = now()
    error = refusal(site, deadline=moment - timedelta(seconds=1))
    assert error.code == "expired"
    assert f"deadline {moment - timedelta(seconds=1):%Y-%m-%d %H:%M:%S} UTC has passed (submit it again)" in str(error)
    (error,) = bounds.refusals(an_order(deadline=moment, timeout=1.0), site, moment)
    assert error.code == "expired"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("out", "dataset-refused"),
        ("neighbour", "dataset-refused"),
        ("climbing", "dataset-refused"),
        ("file", "dataset-unavailable"),
        ("gone", "dataset-unavailable"),
        ("circle", "dataset-unavailable"),
        ("below", "dataset-unavailable"),
    ],
)
def test_a_data_set_lies_below_a_root_with_its_links_resolved(site: WorkerSettings, name: str, code: str, tmp_path: Path) -> None:
    error = refusal(site, datasets=("census", name))
    assert error.code == code
    assert f"dataset {name!r} of node site-a" in str(error)
    assert error.remedy == "tell the site"
    # where it leads is nobody's business elsewhere
    assert str(tmp_path) not in str(error)


def test_a_data_set_is_its_real_folder(site: WorkerSettings, tmp_path: Path) -> None:
    assert folders.dataset("in", site) == tmp_path / "data/census"


def test_without_a_root_there_is_no_data(site: WorkerSettings) -> None:
    with pytest.raises(PolicyRefused, match="leads outside its data roots"):
        folders.dataset("census", site.model_copy(update={"data_roots": ()}))


def test_source_from_a_file_is_a_setting(site: WorkerSettings) -> None:
    source = Source(repository="file:///x", commit="0" * 40)
    error = refusal(site, source=source)
    assert (error.code, error.message) == ("source-refused", "node site-a takes source over https:// only")
    allowing = site.model_copy(update={"source": site.source.model_copy(update={"allow_file": True})})
    assert refusals(allowing, source=source) == []


def test_what_the_site_does_not_limit_the_machine_does(tmp_path: Path) -> None:
    site = settings(tmp_path, allow_network=True)
    assert refusals(site, network=True, resources={"cpus": policy.machine_cpus(), "memory": policy.machine_memory()}) == []
    for resources in ({"cpus": policy.machine_cpus() + 1}, {"memory": policy.machine_memory() + 1}):
        assert refusal(site, resources=resources).code == "resources"


def test_the_reserve_of_the_disk_is_nobodys(tmp_path: Path) -> None:
    site = settings(tmp_path, limits={"disk_reserve": 10**6 * TB})
    assert "gives at most 0" in str(refusal(site, resources={"disk": 1}))


SERVER = Server(node="site-b", host="b.example", ports={80: 20000})
PUBLISHING = {"address": "a.example", "ports": "20000-20001"}


@pytest.mark.parametrize(
    ("options", "order", "said"),
    [
        ({}, {"ports": (Port(container=80),)}, "node site-a lets no task be reached (let a node serve that declares an address and ports)"),
        (
            PUBLISHING,
            {"ports": (Port(container=80, host=80),)},
            "does not publish port 80 (it publishes 20000-20001; name no port of the host",
        ),
        (
            PUBLISHING,
            {"ports": tuple(Port(container=port) for port in (1, 2, 3))},
            "the order publishes 3 ports, node site-a has 2 (ask for",
        ),
        (PUBLISHING, {"servers": (SERVER,)}, "node site-a lets no task reach a server elsewhere"),
        (PUBLISHING, {"network": True}, "node site-a gives tasks no network"),
        ({"allow_servers": True}, {"network": True}, "node site-a gives tasks no network"),
    ],
)
def test_network_is_given_for_what_the_site_says(tmp_path: Path, options: dict[str, Any], order: dict[str, Any], said: str) -> None:
    error = refusal(settings(tmp_path, **options), **order)
    assert error.code in ("ports-refused", "network-refused")
    assert said in str(error)


@pytest.mark.parametrize(
    ("options", "order"),
    [
        (PUBLISHING, {"ports": (Port(container=80), Port(container=81, host=20001))}),
        (PUBLISHING, {"ports": (Port(container=80),), "network": True}),
        ({"allow_servers": True}, {"servers": (SERVER,), "network": True}),
        ({"allow_network": True}, {"servers": (SERVER,)}),
    ],
)
def test_servers_and_their_clients(tmp_path: Path, options: dict[str, Any], order: dict[str, Any]) -> None:
    assert refusals(settings(tmp_path, **options), **order) == []


def test_what_is_kept_is_a_setting(tmp_path: Path) -> None:
    order = {"sandbox": "cache", "moves": (Move(source="", shelf="models", to="x"), Move(source="a", shelf="models", to="y"))}
    assert [error.code for error in refusals(settings(tmp_path), **order)] == ["shelf-unknown", "sandbox-refused"]
    (tmp_path / "shelf").mkdir()
    assert refusals(settings(tmp_path, keep_sandboxes=True, shelves={"models": tmp_path / "shelf"}), **order) == []


def test_gpus_are_the_machines_unless_the_site_says(tmp_path: Path) -> None:
    gpus = {"resources": {"gpus": 2}}
    assert "asks for 2 gpus, node site-a gives at most 1" in str(refusal(settings(tmp_path, limits={"gpus": 1, "disk_reserve": 0}), **gpus))
    assert refusals(settings(tmp_path, limits={"gpus": 2, "disk_reserve": 0}), **gpus) == []


def test_gpus_are_counted_by_their_driver_or_their_devices(tmp_path: Path) -> None:
    assert policy.machine_gpus(tmp_path) == 0
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / "dev" / name).touch()
    assert policy.machine_gpus(tmp_path) == 2
    (tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0").mkdir(parents=True)
    assert policy.machine_gpus(tmp_path) == 1


def test_a_launcher_that_does_not_know_of_ports_and_mounts_gets_none() -> None:
    class Plain:
        """A launcher from elsewhere, written before there were ports and mounts."""

    order = an_order(ports=(Port(container=80),), mounts=(Mount(kind="sandbox", source="", target="/x"),))
    assert [error.code for error in launchers.refusals(Plain(), order)] == ["ports-refused", "mounts-refused"]  # type: ignore[arg-type]
