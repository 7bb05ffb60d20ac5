"""Tasks that mean harm, on Docker: each is contained and classed rightly, its neighbour ends well, and nothing of it stays."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import docker
import pytest

from fdn_worker.errors import Fault
from fdn_worker.protocol import State
from federation.centre import Submission
from federation.results import TaskResult
from tests.conftest import Services
from tests.support.rig import Rig, eventually, name_of
from tests.support.services import real_rig

MIB = 1024**2
OPTIONS = {
    "grace": 0.5, "slots": 3, "budget": {"every": 1.0},
    "limits": {"output_files": 20_000, "output_bytes": 8 * MIB, "log_bytes": MIB, "log_lines": 200, "disk_reserve": 0},
}  # fmt: skip


@pytest.fixture(scope="module")
def house(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    name, home = f"hostile-{time.time_ns():x}", tmp_path_factory.mktemp("hostile")
    (home / "data/cohort").mkdir(parents=True)
    (home / "data/cohort/patients.csv").write_text("id\n1\n")
    # So that nothing but the container keeps a write out.
    (home / "data/cohort").chmod(0o777)
    (home / "data/cohort/patients.csv").chmod(0o666)
    options = {"docker_host": services.docker_host, "pull_policy": "never", "pids": 64, "tmp_size": "16m"}
    datasets = {name: {"cohort": home / "data/cohort"}}
    with real_rig(services, home, (name,), name, options=OPTIONS, launcher="docker", launcher_options=options, datasets=datasets) as made:
        made.start(name)
        yield made


@pytest.fixture
def node(house: Rig) -> str:
    return house.federation.nodes[0]


@pytest.fixture
def neighbour(house: Rig, node: str, services: Services) -> Iterator[Submission]:
    """Runs all the while, and ends well."""
    script = 'echo mine > mine; echo begun; until [ -e go ]; do sleep 0.05; done; cat "$DATA_PATH/cohort/patients.csv" mine > out'
    fields = {"image": services.images["busybox"], "datasets": ("cohort",), "outputs": ("out",), "user": "neighbour"}
    submission = house.send(node, "/bin/sh", "-c", script, **fields)
    house.line(submission, "begun")
    yield submission
    (house.folder(submission) / "sandbox/go").touch()
    result = house.result(submission)
    assert result.state is State.SUCCEEDED, result.explain()
    assert house.output(result, "outputs/out") == b"id\n1\nmine\n"
    house.check_clean(node)


def end(house: Rig, submission: Submission, seconds: float = 60.0) -> TaskResult:
    result = house.result(submission, seconds)
    house.check_told_once(submission)
    launcher = house.launcher(submission.node)

    def gone() -> bool:
        return not house.folder(submission).exists() and name_of(submission) not in launcher.names(submission.node)

    eventually("it is cleared away", gone)
    return result


@dataclass(frozen=True)
class Attack:
    """A task, and what it comes to. SUCCEEDED has no code, and says what it got in its log: `said` is all of that."""

    script: str
    code: str = ""
    image: str = "busybox"
    fields: dict[str, Any] = field(default_factory=dict)
    said: tuple[str, ...] | None = None


PLACES = (
    "/x /etc/x /usr/x /data/x /data/cohort/x /data/cohort/patients.csv /proc/sys/kernel/core_pattern /proc/sysrq-trigger /sys/fs/cgroup/x"
)
FILL = "i=0; while :; do dd if=/dev/zero of=f$i bs=1M count=8 2>/dev/null; i=$((i+1)); done"
UNLINKED = """
import os
held = []
while True:
    held.append(open("x", "wb"))
    os.unlink("x")
    held[-1].write(bytes(8 << 20))
    held[-1].flush()
"""
FORKS = """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
MANY = """
import os
for folder in range(100):
    os.mkdir(f"d{folder}")
    for number in range(1000):
        open(f"d{folder}/{number}", "w").close()
print("made", flush=True)
"""
DEEP = """
import os, time
for _ in range(2000):
    os.mkdir("d")
    os.chdir("d")
time.sleep(600)
"""
DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (0, 1, 2):
            os.close(number)
        while True:
            open("alive", "a").close()
            time.sleep(0.01)
    os._exit(0)
os.wait()
while not os.path.exists("alive"):
    time.sleep(0.01)
"""
ZIP = """
import zipfile
with zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as bomb:
    bomb.writestr("zeros", bytes(50_000_000))
"""
BIG = {"disk": 64 * MIB}
ATTACKS = {
    "writes-outside": Attack(
        f'for place in {PLACES}; do (echo x > "$place") 2>/dev/null && echo "wrote $place"; done; exit 0', fields={"datasets": ("cohort",)}, said=()
    ),
    "mounts-anew": Attack(
        "(mount -o remount,rw /data/cohort || mount -t proc none /tmp || unshare -r true || chroot / true) 2>/dev/null && echo done; exit 0",
        fields={"datasets": ("cohort",)}, said=(),
    ),
    "becomes-root": Attack("(su -c id || chown 0 . || chmod 4755 /bin/busybox) 2>/dev/null && echo done; exit 0", said=()),
    "fork-bomb": Attack(FORKS, "timeout", "python", {"timeout": 3.0}),
    "memory-bomb": Attack("x = []\nwhile True: x.append(bytearray(1 << 20))", "out-of-memory", "python", {"memory": 64 * MIB}),
    "memory-in-tmp": Attack("dd if=/dev/zero of=/tmp/x bs=1M", "exit-code", fields={"memory": 64 * MIB}),
    "memory-in-shm": Attack("dd if=/dev/zero of=/dev/shm/x bs=1M", "out-of-memory", fields={"memory": 32 * MIB}),
    "disk-many-files": Attack(FILL, "disk-exceeded", fields=BIG),
    "disk-deleted-files": Attack(UNLINKED, "disk-exceeded", "python", BIG),
    "disk-one-file": Attack("dd if=/dev/zero of=x bs=1M", "exit-code", fields=BIG),
    "disk-ignoring-term": Attack(f"trap '' TERM; {FILL}", "disk-exceeded", fields=BIG),
    "disk-and-away": Attack("for i in 1 2 3 4 5 6 7 8 9; do dd if=/dev/zero of=f$i bs=1M count=8 2>/dev/null; done", "disk-exceeded", fields=BIG),
    "symlink": Attack("ln -s /etc/shadow stolen", "output-refused", fields={"outputs": ("stolen",)}),
    "symlinked-folder": Attack("ln -s / root", "output-missing", fields={"outputs": ("root/etc/*",)}),
    "hard-link": Attack("echo 1 > a; ln a b", "output-refused", fields={"outputs": ("b",)}),
    "hard-link-to-data": Attack("ln /data/cohort/patients.csv b", "exit-code", fields={"datasets": ("cohort",), "outputs": ("b",)}),
    "fifo": Attack("mkfifo pipe", "output-refused", fields={"outputs": ("*",)}),
    "device": Attack("mknod disk b 8 0", "exit-code", fields={"outputs": ("*",)}),
    "sparse": Attack("truncate -s 32M hole", "output-too-big", fields=BIG | {"outputs": ("hole",)}),
    "sparse-beyond-the-disk": Attack("truncate -s 1T hole", "exit-code", fields=BIG | {"outputs": ("hole",)}),
    "100000-files": Attack(MANY, "output-too-big", "python", BIG | {"outputs": ("**",), "disk": 512 * MIB}),
    "folders-without-end": Attack(DEEP, "disk-exceeded", "python", BIG),
    "name-with-newline-and-escapes": Attack(
        "touch \"$(printf 'a\\nb\\033[31mred')\"", "output-refused", fields={"outputs": ("*",)}
    ),
    "ignores-term": Attack("trap '' TERM; (trap '' TERM; while :; do sleep 0.1; done) & while :; do sleep 0.1; done", "timeout", fields={"timeout": 1.0}),
    "daemonises": Attack(DAEMON, image="python"),
    "kills-all-it-sees": Attack("kill -9 -1; exit 3", "exit-code"),
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_contained(house: Rig, node: str, services: Services, neighbour: Submission, name: str) -> None:
    attack = ATTACKS[name]
    start = ("python3", "-c") if attack.image == "python" else ("/bin/sh", "-c")
    submission = house.send(node, *start, attack.script, image=services.images[attack.image], user="eve", **attack.fields)
    result = end(house, submission)
    if attack.code:
        assert result.reason is not None, result.state
        assert (result.state, result.reason.code, result.reason.fault) == (State.FAILED, attack.code, Fault.USER)
        assert result.reason.message.isprintable()
        assert result.outputs == ()
    else:
        assert result.state is State.SUCCEEDED, result.explain()
    if attack.said is not None:
        assert result.tail == attack.said
    cohort = house.federation.datasets[node]["cohort"]
    assert {path.name: path.read_text() for path in cohort.iterdir()} == {"patients.csv": "id\n1\n"}


def test_another_runs_sandbox_is_not_there(house: Rig, node: str, services: Services, neighbour: Submission) -> None:
    theirs = house.folder(neighbour) / "sandbox"
    assert (theirs / "mine").read_text() == "mine\n"
    script = f'cat "{theirs}/mine" ../*/mine /proc/*/root/sandbox/mine 2>/dev/null; find / -xdev -name mine 2>/dev/null; exit 0'
    result = end(house, house.send(node, "/bin/sh", "-c", script, image=services.images["busybox"], user="eve"))
    assert (result.state, result.tail) == (State.SUCCEEDED, ())


REACH = """
import json, socket, sys
for family, address in json.loads(sys.argv[1]):
    place = address if isinstance(address, str) else tuple(address)
    try:
        with socket.socket(getattr(socket, family)) as client:
            client.settimeout(1)
            client.connect(place)
            print("reached", place)
    except (OSError, OverflowError):
        pass
try:
    print("resolved", socket.getaddrinfo("example.org", 80))
except OSError:
    pass
for family, kind, protocol in ((socket.AF_PACKET, socket.SOCK_RAW, 0x300), (socket.AF_INET, socket.SOCK_RAW, 1)):
    try:
        socket.socket(family, kind, protocol)
        print("raw", family)
    except OSError:
        pass
"""


def test_neither_network_nor_the_hosts_services_are_reached(house: Rig, node: str, services: Services, neighbour: Submission) -> None:
    client = docker.DockerClient(services.docker_host)
    gateway = client.networks.get("bridge").attrs["IPAM"]["Config"][0]["Gateway"]
    client.close()
    with socket.create_server(("0.0.0.0", 0)) as service, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0{node}")
        abstract.listen()
        port = service.getsockname()[1]
        hosts = ("127.0.0.1", gateway, socket.gethostbyname(socket.gethostname()), "169.254.169.254", "1.1.1.1")
        places: list[tuple[str, Any]] = [("AF_INET", (host, to)) for host in hosts for to in (port, 80, 22)]
        places += [("AF_INET6", ("fd00:ec2::254", 80)), ("AF_UNIX", f"\0{node}"), ("AF_UNIX", "/var/run/docker.sock")]
        image = services.images["python"]
        result = end(house, house.send(node, "python3", "-c", REACH, json.dumps(places), image=image, user="eve"))
        assert (result.state, result.tail) == (State.SUCCEEDED, ())
        for listener in (service, abstract):
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()


def test_a_flood_of_lines_is_capped_and_said_to_be(house: Rig, node: str, services: Services, neighbour: Submission) -> None:
    script = "yes 0123456789abcdef | head -c 8000000; exit 0"
    submission = house.send(node, "/bin/sh", "-c", script, image=services.images["busybox"])
    result = end(house, submission)
    assert result.report.lines_dropped > 100_000
    assert len(house.output(result, "logs/run.log")) <= MIB
    assert sum(len(event.lines) for event in house.history(submission)) <= 201


def test_a_zip_of_zeros_stays_a_zip(house: Rig, node: str, services: Services, neighbour: Submission, tmp_path: Path) -> None:
    result = end(house, house.send(node, "python3", "-c", ZIP, image=services.images["python"], outputs=("bomb.zip",)))
    assert result.state is State.SUCCEEDED, result.explain()
    # What is stored and what a download would bring: nobody unpacks it.
    assert result.outputs[0].size == len(house.output(result, "outputs/bomb.zip")) < 60_000


def test_a_cancel_of_what_ignores_it(house: Rig, node: str, services: Services, neighbour: Submission) -> None:
    script = "trap '' TERM INT HUP; echo begun; while :; do sleep 0.1; done"
    submission = house.send(node, "/bin/sh", "-c", script, image=services.images["busybox"])
    house.line(submission, "begun")
    house.centre.cancel(submission.execution, "a test")
    assert end(house, submission).state is State.CANCELLED
