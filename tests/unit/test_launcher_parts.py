"""What the launchers are made of, without an engine: options, places, lines, cgroups."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.errors import PolicyRefused, SettingsError
from fdn_worker.launchers import LaunchSpec, load
from fdn_worker.launchers.cgroup import Cgroups
from fdn_worker.launchers.docker import DockerLauncher
from fdn_worker.launchers.docker_config import DockerOptions, container_config, refusals
from fdn_worker.launchers.lines import MAX_LINE, Line
from fdn_worker.launchers.places import command_of, fill
from fdn_worker.launchers.sockets import listened
from fdn_worker.protocol import Mount
from fdn_worker.settings import KeepTo
from tests.unit.helpers import an_order

SPEC = LaunchSpec("a-name", "north", ("tool", "$DATA_PATH/x"), "sha256:0", {"A": "$SOURCE_PATH"}, Path("/sandboxes/1"))
PLACES = {"DATA_PATH": "/d", "NODE_NAME": "north"}


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("docker", {"pul_policy": "never"}, ["[launchers.docker] pul_policy", "pull_policy"]),
        ("docker", {"pull_policy": "sometimes"}, ["[launchers.docker] pull_policy", "never"]),
        ("docker", {"user": "0:0"}, ["user", "never run as root"]),
        ("docker", {"user": "nobody"}, ["user"]),
        ("docker", {"network": "host"}, ["network", "host's"]),
        ("docker", {"tmp_size": "2GBB"}, ["tmp_size"]),
        ("process", {"root": "/x", "log_limit": "2GBB"}, ["log_limit"]),
    ],
)
def test_a_wrong_option_is_named(tmp_path: Path, name: str, options: dict[str, object], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load(name, options, tmp_path)
    assert all(word in str(caught.value) for word in words)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("$DATA_PATH", "/d"),
        ("${DATA_PATH}x$NODE_NAME.", "/dxnorth."),
        ("$DATA_PATHS ${DATA_PATH $data_path $HOME $1 $$ ${} $", "$DATA_PATHS ${DATA_PATH $data_path $HOME $1 $$ ${} $"),
        ("$$NODE_NAME", "$north"),
    ],
)
def test_fill(text: str, filled: str) -> None:
    assert fill(text, PLACES) == filled


def test_command_of() -> None:
    command = command_of(SPEC, data="/d", sandbox="/s", inputs="/i", source="/c", secrets="/m")
    assert command.argv == ("tool", "/d/x")
    assert command.environment == {
        "HOME": "/s", "A": "/c", "DATA_PATH": "/d", "SANDBOX_PATH": "/s", "INPUT_PATH": "/i", "SOURCE_PATH": "/c", "NODE_NAME": "north",
        "SECRETS_PATH": "/m",
    }  # fmt: skip


def test_a_long_line_is_cut_and_says_so() -> None:
    line = Line()
    for _ in range(3):
        line.add(b"x" * MAX_LINE)
    assert line.text() == "x" * MAX_LINE + f" [cut: the line has {3 * MAX_LINE} bytes]"


def test_no_network_unless_the_node_grants_one() -> None:
    wanting = LaunchSpec(**{**SPEC.__dict__, "network": True})
    with pytest.raises(PolicyRefused):
        container_config(wanting, DockerOptions(), None)
    assert container_config(wanting, DockerOptions(network="study"), None)["HostConfig"]["NetworkMode"] == "study"
    assert container_config(SPEC, DockerOptions(network="study"), None)["HostConfig"]["NetworkMode"] == "none"


def test_each_part_of_the_network_has_a_docker_network_of_its_own() -> None:
    def config(keep_to: KeepTo, **options: str) -> tuple[str, list[str]]:
        made = container_config(replace(SPEC, network=True, keep_to=keep_to), DockerOptions(**options), None)  # type: ignore[arg-type]
        return made["HostConfig"]["NetworkMode"], [line for line in made["Env"] if "proxy" in line.lower()]

    proxy = {"proxy_network": "proxied", "proxy": "http://proxy:3128"}
    named = [f"{name}=http://proxy:3128" for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy")]
    assert config("", network="study", **proxy) == ("study", [])
    assert config("server", network="study") == ("study", [])
    assert config("server", network="study", server_network="servers") == ("servers", [])
    assert config("proxy", **proxy) == ("proxied", named)
    with pytest.raises(PolicyRefused):
        config("", **proxy)
    with pytest.raises(PolicyRefused):
        config("proxy", network="study")
    with pytest.raises(ValueError, match="go together"):
        DockerOptions(proxy_network="proxied")
    assert [part for part in ("", "server", "proxy") if DockerLauncher(server_network="servers").gives(part)] == ["server"]  # type: ignore[arg-type]


def test_the_config_is_json_and_has_gpus_when_asked() -> None:
    more = LaunchSpec(**{**SPEC.__dict__, "resources": SPEC.resources.model_copy(update={"gpus": 2})})
    config = json.loads(json.dumps(container_config(more, DockerOptions(), "/fdn/a-name")))
    assert config["HostConfig"]["DeviceRequests"] == [{"Count": 2, "Capabilities": [["gpu"]]}]
    assert config["HostConfig"]["CgroupParent"] == "/fdn/a-name"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "cgroup"


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_cgroup_v2(root: Path) -> None:
    write(root / "cgroup.controllers", "cpu memory")
    write(root / "fdn/n/cpu.stat", "usage_usec 2500000\nuser_usec 1\n")
    write(root / "fdn/n/memory.peak", "4096\n")
    usage = Cgroups(root=root).read("n")
    assert (usage.cpu_seconds, usage.peak_memory, usage.estimated) == (2.5, 4096, False)


def test_cgroup_v2_of_an_old_kernel_has_no_peak(root: Path) -> None:
    write(root / "cgroup.controllers", "cpu memory")
    write(root / "fdn/n/cpu.stat", "usage_usec 2500000\n")
    usage = Cgroups(root=root).read("n")
    assert (usage.cpu_seconds, usage.peak_memory, usage.estimated) == (2.5, 0, True)


def test_cgroup_v1(root: Path) -> None:
    write(root / "cpuacct/fdn/n/cpuacct.usage", "1500000000\n")
    write(root / "memory/fdn/n/memory.max_usage_in_bytes", "8192\n")
    usage = Cgroups(root=root).read("n")
    assert (usage.cpu_seconds, usage.peak_memory, usage.estimated) == (1.5, 8192, False)


def test_cgroup_by_systemd_is_a_slice_one_level_down(root: Path) -> None:
    write(root / "cgroup.controllers", "cpu memory")
    cgroups = Cgroups(driver="systemd", root=root)
    assert cgroups.of("fdn-a-1") == "fdn-fdn_a_1.slice"
    write(root / "fdn.slice/fdn-fdn_a_1.slice/cpu.stat", "usage_usec 1000000\n")
    write(root / "fdn.slice/fdn-fdn_a_1.slice/memory.peak", "1\n")
    assert not cgroups.read("fdn-a-1").estimated


def test_an_empty_cgroup_is_dropped_twice(root: Path) -> None:
    for controller in ("memory", "cpuacct"):
        (root / controller / "fdn/n").mkdir(parents=True)
    for _ in range(2):
        Cgroups(root=root).drop("n")
        assert not list(root.glob("*/fdn/n"))


def test_no_cgroups_of_its_own_where_it_may_not_write(root: Path) -> None:
    assert not Cgroups(root=root).usable
    (root / "memory").mkdir(parents=True)
    assert Cgroups(root=root).usable
    assert not Cgroups(parent="", root=root).usable


# Ports and mounts


def test_the_port_to_listen_on_is_told_and_filled_in() -> None:
    spec = replace(
        SPEC, argv=("serve", "$PORT_8080", "${PORT_9}"), ports={8080: 20000}, variables={"LEVEL": "$NODE_NAME"}, environment={"A": "$LEVEL"}
    )
    places = {"data": "/d", "sandbox": "/s", "inputs": "/i", "source": "/c", "secrets": "/m"}
    own = command_of(spec, **places)
    assert (own.argv, own.environment["PORT_8080"]) == (("serve", "8080", "${PORT_9}"), "8080")
    # What the site has written is taken as it is.
    assert (own.environment["LEVEL"], own.environment["A"]) == ("$NODE_NAME", "$NODE_NAME")
    shared = command_of(spec, **places, shared_ports=True)
    assert (shared.argv[1], shared.environment["PORT_8080"]) == ("20000", "20000")


def test_a_port_is_published_at_one_address() -> None:
    spec = replace(SPEC, ports={8080: 20000}, bind="192.0.2.7", network=True)
    config = container_config(spec, DockerOptions(network="study"), None)
    assert config["ExposedPorts"] == {"8080/tcp": {}}
    assert config["HostConfig"]["PortBindings"] == {"8080/tcp": [{"HostIp": "192.0.2.7", "HostPort": "20000"}]}


@pytest.mark.parametrize(
    ("fields", "codes"),
    [
        ({"mounts": (Mount(kind="dataset", source="d/x", target="/app/in"), Mount(kind="sandbox", source="", target="/sandbox"))}, []),
        ({"mounts": (Mount(kind="dataset", source="d", target="/data/d"),)}, []),
        ({"mounts": (Mount(kind="dataset", source="d", target="/sandbox/data"),)}, []),
        ({"mounts": (Mount(kind="dataset", source="d", target="/data"),)}, ["mounts-refused"]),
        ({"mounts": (Mount(kind="dataset", source="d", target="/data/d/x"),)}, ["mounts-refused"]),
        ({"mounts": (Mount(kind="sandbox", source="x", target="/sandbox"),)}, ["mounts-refused"]),
        (
            {"mounts": (Mount(kind="host", source="/x", target="/proc"), Mount(kind="host", source="/x", target="/dev/shm"))},
            ["mounts-refused"] * 2,
        ),
        ({"mounts": tuple(Mount(kind="host", source=source, target="/x") for source in ("/a", "/b"))}, ["mounts-refused"]),
        ({"mounts": (Mount(kind="host", source="/x", target="/process"),)}, []),
    ],
)
def test_what_docker_does_not_take(fields: dict[str, Any], codes: list[str]) -> None:
    assert [error.code for error in refusals(an_order(datasets=("d",), **fields))] == codes


def test_listeners_are_seen_without_asking_them() -> None:
    with socket.create_server(("127.0.0.1", 0)) as near, socket.create_server(("0.0.0.0", 0)) as far, socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        one, two, none = (end.getsockname()[1] for end in (near, far, bound))
        everywhere, outside = listened(os.getpid(), loopback=True), listened(os.getpid(), loopback=False)
        assert everywhere is not None
        assert outside is not None
        assert {one, two, none} & everywhere == {one, two}
        assert {one, two, none} & outside == {two}
        near.settimeout(0.1)
        with pytest.raises(TimeoutError):
            near.accept()
    assert listened(2**22 + 1, loopback=True) is None


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="a machine without IPv6")
def test_listeners_of_ipv6() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as near, socket.create_server(("::", 0), family=socket.AF_INET6) as far:
        found = listened(os.getpid(), loopback=False)
        assert found is not None
        assert near.getsockname()[1] not in found
        assert far.getsockname()[1] in found
