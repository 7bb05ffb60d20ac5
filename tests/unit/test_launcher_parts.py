"""What the launchers are made of, without an engine: options, places, lines, cgroups."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fdn_worker.errors import PolicyRefused, SettingsError
from fdn_worker.launchers import LaunchSpec, load
from fdn_worker.launchers.cgroup import Cgroups
from fdn_worker.launchers.docker_config import DockerOptions, container_config
from fdn_worker.launchers.lines import MAX_LINE, Line
from fdn_worker.launchers.places import command_of, fill

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
    command = command_of(SPEC, data="/d", sandbox="/s", inputs="/i", source="/c")
    assert command.argv == ("tool", "/d/x")
    assert command.environment == {
        "HOME": "/s", "A": "/c", "DATA_PATH": "/d", "SANDBOX_PATH": "/s", "INPUT_PATH": "/i", "SOURCE_PATH": "/c", "NODE_NAME": "north",
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
