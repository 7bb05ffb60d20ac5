"""What a task sees of its confinement, judged: a whole one is sound, and each thing that lacks is named, and nothing else."""

from __future__ import annotations

import subprocess

import pytest

from fdn_worker.protections import MEMORY, PROTECTIONS, SCRIPT, Facts, besides
from tests.support.waiting import SOON

#: As a container of the worker's says it, on control groups of version 2.
SAID = f"""CapPrm=0000000000000000
CapEff=0000000000000000
CapBnd=0000000000000000
NoNewPrivs=1
Seccomp=2
Uid=65534
Gid=65534
Groups=65534
mount /=ro,relatime
mount /tmp=rw,nosuid,nodev,noexec,relatime
mount /proc/sys=ro,nosuid
mount /sys=ro,nosuid
nested=there
interface lo=up
root=refused
data=refused
sandbox=written
process 1=there
process 7=there
pids=512
memory={MEMORY}
swap=0
core=0
files=4096
module=docker-default (enforce)
ids=         0          0 4294967295
init=docker-init"""


def facts(*instead: str) -> Facts:
    return Facts(line.partition("=")[::2] for line in (*SAID.splitlines(), *instead))


def missing(found: Facts) -> list[str]:
    return [protection.what for protection in PROTECTIONS if not protection.holds(found)]


def test_a_whole_one_is_sound_and_says_what_it_saw() -> None:
    assert missing(facts()) == []
    said = {protection.what: protection.shown(facts()) for protection in PROTECTIONS}
    assert said["not this machine's root"] == "Uid 65534, Gid 65534, Groups 65534"
    assert said["its own processes alone"] == "sees processes 1, 7"
    assert besides(facts()) == "confined by docker-default (enforce), its users are the machine's, its first process is docker-init"
    assert besides(Facts()).startswith("no AppArmor or SELinux confines it")


LACKING = {
    "no capabilities": ["CapEff=00000000a80425fb", "CapBnd=00000000a80425fb"],
    "no new privileges": ["NoNewPrivs=0"],
    "system calls filtered": ["Seccomp=0"],
    "not this machine's root": ["Uid=0", "Groups=65534 0"],
    "image read-only": ["root=written", "mount /=rw,relatime"],
    "data read-only": ["data=written"],
    "what is mounted below data stays out": ["below=/data/nested/cgroup"],
    "a sandbox to write in": ["sandbox=refused"],
    "/tmp runs no programs": ["mount /tmp=rw,nosuid,nodev"],
    "kernel settings read-only": ["mount /proc/sys=rw", "mount /sys=rw,nosuid"],
    "no network": ["interface eth0=up"],
    "no engine's socket": ["socket /run/docker.sock=there"],
    "no disks": ["device /dev/sda=there"],
    "its own processes alone": ["\n".join(f"process {number}=there" for number in range(2, 400))],
    "processes limited": ["pids=max"],
    "memory limited": ["memory=max", "memory=9223372036854771712"],
    "no swap beyond that": ["swap=max\nswapfile /swap.img=on"],
    "no core dumps": ["core=unlimited"],
    "open files limited": ["files=unlimited", "files=1073741816"],
}


@pytest.mark.parametrize(("what", "said"), [(what, said) for what, ways in LACKING.items() for said in ways])
def test_what_lacks_is_named_and_mended(what: str, said: str) -> None:
    found = facts(*said.splitlines())
    assert missing(found) == [what]
    (protection,) = (protection for protection in PROTECTIONS if protection.what == what)
    assert protection.remedy
    assert "\n" not in protection.shown(found)


def test_each_is_tried_here() -> None:
    assert list(LACKING) == [protection.what for protection in PROTECTIONS]


def test_what_was_not_said_is_not_taken_for_granted() -> None:
    seen = {"no network", "no engine's socket", "no disks", "what is mounted below data stays out", "no swap beyond that"}
    assert set(missing(Facts())) == set(LACKING) - seen
    for protection in PROTECTIONS:
        assert protection.shown(Facts())


def test_root_of_a_container_whose_users_are_its_own_is_not_root() -> None:
    found = facts("Uid=0", "Groups=0 10", "ids=         0       1001          1")
    assert missing(found) == []
    assert "its users are not the machine's" in besides(found)


def test_swap_where_control_groups_are_of_version_1() -> None:
    found = facts(f"both={MEMORY}", "swapfile /swap.img=on")
    del found["swap"]
    assert missing(found) == []
    found["both"] = found["memory"] = "9223372036854771712"
    assert missing(found) == ["memory limited", "no swap beyond that"]


def test_a_process_of_this_machine_is_not_confined() -> None:
    """The script runs under any shell, and says so of a place where nothing holds."""
    environment = {"DATA_PATH": "/nowhere", "SANDBOX_PATH": "/nowhere", "PATH": "/nowhere"}
    done = subprocess.run(["/bin/sh", "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True, timeout=SOON)
    found = Facts(line.partition("=")[::2] for line in done.stdout.splitlines())
    assert found["looked"] == "round"
    assert {"no new privileges", "system calls filtered", "its own processes alone", "a sandbox to write in"} <= set(missing(found))
