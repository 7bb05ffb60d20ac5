"""The Docker launcher's own: each hardening option as seen from inside, images, faults of engine and worker."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.errors import LauncherUnavailable, PolicyRefused, TaskFailed
from fdn_worker.launchers import Bind, LaunchSpec, LogLine, docker_accounts, docker_engine
from fdn_worker.launchers import docker as docker_module
from fdn_worker.launchers.docker import DockerLauncher
from fdn_worker.testing import MakeSpec, refused, run, spec_of, texts
from tests.conftest import Services
from tests.support.waiting import SOON, eventually

Make = Callable[..., DockerLauncher]


@pytest.fixture
def make(services: Services) -> Make:
    return lambda **options: DockerLauncher(**{"docker_host": services.docker_host, "pull_policy": "never"} | options)


@pytest.fixture
def make_spec(make: Make, services: Services, unique: str, tmp_path: Path) -> Iterator[MakeSpec]:
    image = make().prepare(services.images["busybox"], None)
    made: list[str] = []

    def make_one(*argv: str, **changes: Any) -> LaunchSpec:
        made.append(f"{unique}-{len(made)}")
        return spec_of(made[-1], unique, argv, tmp_path / "sandboxes" / made[-1], **{"image": image} | changes)

    yield make_one
    for name in made:
        make().remove(name)


def needing(spec: LaunchSpec, **resources: Any) -> LaunchSpec:
    return replace(spec, resources=spec.resources.model_copy(update=resources))


def test_hardening_from_inside(make: Make, make_spec: MakeSpec, tmp_path: Path) -> None:
    for name in ("data", "inputs", "source"):
        (tmp_path / name).mkdir()
        (tmp_path / name).chmod(0o777)
    probes = {
        "capabilities": "grep -h '^Cap' /proc/self/status | cut -f2 | sort -u | tr '\\n' ' '",
        "no_new_privileges": "grep NoNewPrivs /proc/self/status | cut -f2",
        "seccomp": "grep '^Seccomp:' /proc/self/status | cut -f2",
        "ids": "echo $(id -u):$(id -g)",
        "interfaces": "ls /sys/class/net",
        "root": "touch /x 2>&1 | grep -o 'Read-only.*'",
        "data": "touch /data/d/x 2>&1 | grep -o 'Read-only.*'",
        "inputs": "touch /inputs/x 2>&1 | grep -o 'Read-only.*'",
        "source": "touch /source/x 2>&1 | grep -o 'Read-only.*'",
        "tmp_is": "grep ' /tmp ' /proc/mounts | cut -d' ' -f4 | tr ',' '\\n' | grep -E 'no(exec|suid|dev)|^size' | sort | tr '\\n' ' '",
        "tmp": "printf '#!/bin/sh\\necho ran' > /tmp/t && chmod +x /tmp/t && sh -c /tmp/t 2>&1 | grep -o 'ran\\|Permission denied'",
        "init": "cat /proc/1/comm",
        "processes": "ls /proc | grep -c '^[0-9]'",
        "core": "ulimit -c",
        "files": "ulimit -n",
        "file_size": "ulimit -f",
        "cpus": "cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us 2>/dev/null || cut -d' ' -f1 /sys/fs/cgroup/cpu.max",
        "folder": "pwd",
        "writable": "touch here && echo yes",
    }
    spec = make_spec(
        "/bin/sh", "-c", "\n".join(f'echo "{name}=$({probe})"' for name, probe in probes.items()),
        datasets={"d": tmp_path / "data"}, inputs=tmp_path / "inputs", source=tmp_path / "source",
    )  # fmt: skip
    found = dict(line.split("=", 1) for line in texts(run(make(tmp_size="1m"), needing(spec, cpus=0.5, disk=1024**2))[1]))
    assert int(found.pop("processes")) < 10
    assert found == {
        "capabilities": "0000000000000000 ", "no_new_privileges": "1", "seccomp": "2", "ids": "65534:65534", "interfaces": "lo",
        "root": "Read-only file system", "data": "Read-only file system", "inputs": "Read-only file system",
        "source": "Read-only file system", "tmp_is": "nodev noexec nosuid size=1024k ", "tmp": "Permission denied",
        "init": "docker-init", "core": "0", "files": "4096", "file_size": "2048", "cpus": "50000", "folder": "/sandbox", "writable": "yes",
    }  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
def test_a_mount_below_a_dataset_does_not_come_along(make: Make, make_spec: MakeSpec, tmp_path: Path) -> None:
    nested = tmp_path / "data/nested"
    nested.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", str(nested)], check=True)
    try:
        (nested / "secret").touch()
        nested.chmod(0o777)
        spec = make_spec("/bin/sh", "-c", "ls $DATA_PATH/d/nested; touch $DATA_PATH/d/nested/x", datasets={"d": tmp_path / "data"})
        ended, lines = run(make(), spec)
        assert (nested / "secret").exists()
        assert not (nested / "x").exists()
    finally:
        subprocess.run(["umount", str(nested)], check=True)
    assert ended.code != 0
    assert "secret" not in texts(lines)


def test_processes_are_limited(make: Make, make_spec: MakeSpec) -> None:
    spec = make_spec("/bin/sh", "-c", "for i in $(seq 60); do sleep 9 & done")
    ended, lines = run(make(pids=20), spec)
    assert ended.code != 0
    assert any("fork" in text for text in texts(lines))


def test_out_of_memory_is_told(make: Make, make_spec: MakeSpec) -> None:
    eater = "dd if=/dev/zero of=/dev/null bs=100M count=1"
    assert run(make(), needing(make_spec("/bin/sh", "-c", f"exec {eater}"), memory=16 * 1024**2))[0].out_of_memory
    # The container itself ends well, though a part of it was killed.
    ended, _ = run(make(), needing(make_spec("/bin/sh", "-c", f"{eater}; exit 0"), memory=16 * 1024**2))
    assert (ended.code, ended.out_of_memory) == (0, True)


def test_mounts(make: Make, make_spec: MakeSpec, tmp_path: Path) -> None:
    for name in ("cohort", "host"):
        (tmp_path / name).mkdir(mode=0o777)
        (tmp_path / name / "file").write_text(name + "\n")
    spec = make_spec(
        "/bin/sh", "-c", "cat /app/in/file /opt/host/file /data/d/file; touch /app/in/x /opt/host/x; echo mine > /app/out/o",
        datasets={"d": tmp_path / "cohort"},
    )  # fmt: skip
    (spec.sandbox / "out").mkdir()
    mounts = (
        Bind(tmp_path / "cohort", "/app/in"), Bind(tmp_path / "host", "/opt/host"), Bind(spec.sandbox / "out", "/app/out", read_only=False),
        # What is there anyway is not mounted twice.
        Bind(spec.sandbox, "/sandbox", read_only=False), Bind(tmp_path / "cohort", "/data/d"),
    )  # fmt: skip
    ended, lines = run(make(), replace(spec, mounts=mounts))
    assert ended.code == 0, texts(lines)
    assert [text for text in texts(lines) if "Read-only" not in text] == ["cohort", "host", "cohort"]
    assert len([text for text in texts(lines) if "Read-only" in text]) == 2
    assert (spec.sandbox / "out/o").read_text() == "mine\n"


def test_a_server_on_loopback_alone_is_not_open(make: Make, make_spec: MakeSpec, services: Services) -> None:
    script = "import socket, time; a, b = socket.create_server(('127.0.0.1', 81)), socket.create_server(('', 80)); time.sleep(600)"
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        ports = {80: one.getsockname()[1], 81: two.getsockname()[1]}
    launcher = make(network="bridge")
    image = launcher.prepare(services.images["python"], None)
    spec = make_spec("python3", "-c", script, image=image, ports=ports, bind="127.0.0.1", network=True)
    launcher.start(spec)
    eventually("it listens", lambda: launcher.listening(spec.name, ports) == {80})
    # The proxy takes connections for both.
    socket.create_connection(("127.0.0.1", ports[81]), 5).close()
    assert launcher.listening(spec.name, ports) == {80}


def test_a_worker_that_cannot_see_the_container_tries_its_own_address(
    make: Make, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docker_module, "_sees", lambda _: False)
    with socket.create_server(("127.0.0.1", 0)) as free:
        ports = {80: free.getsockname()[1]}
    script = "until [ -e go ]; do sleep 0.02; done; nc -ll -p 80 -e /bin/true"
    spec = make_spec("/bin/sh", "-c", script, ports=ports, bind="127.0.0.1", network=True)
    launcher = make(network="bridge")
    launcher.start(spec)
    assert launcher.listening(spec.name, ports) == set()
    (spec.sandbox / "go").touch()
    eventually("it listens", lambda: launcher.listening(spec.name, ports) == {80})


def test_network_is_the_nodes_to_grant(make: Make, make_spec: MakeSpec) -> None:
    spec = make_spec("/bin/sh", "-c", "ls /sys/class/net", network=True)
    with refused(PolicyRefused, "network-refused"):
        make().start(spec)
    assert make().names(spec.node) == set()
    assert "eth0" in texts(run(make(network="bridge"), spec)[1])


def test_a_network_with_a_way_out_is_no_proxys(make: Make, make_spec: MakeSpec) -> None:
    for network in ("bridge", "no-such-network"):
        with pytest.raises(PolicyRefused, match=f"there is no internal Docker network '{network}' here"):
            make(proxy_network=network, proxy="http://proxy:3128").start(make_spec("/bin/true", network=True, keep_to="proxy"))


def test_more_than_the_machine_has_is_refused_and_leaves_nothing(make: Make, make_spec: MakeSpec) -> None:
    spec = needing(make_spec("/bin/true"), cpus=4000)
    with refused(TaskFailed, "launch-refused"):
        make().start(spec)
    with refused(PolicyRefused, "gpu-missing"):
        make().start(needing(make_spec("/bin/true"), gpus=1))
    assert make().names(spec.node) == set()


def test_rootless_is_believed_of_no_daemon_that_is_not(make: Make, make_spec: MakeSpec) -> None:
    with refused(LauncherUnavailable, "launcher-unavailable"):
        make(rootless=True).start(make_spec("/bin/true"))
    assert make().names(make_spec("/bin/true").node) == set()


def test_a_missing_folder_is_not_the_users_fault(make: Make, make_spec: MakeSpec, tmp_path: Path) -> None:
    spec = make_spec("/bin/true", datasets={"d": tmp_path / "gone"})
    with refused(LauncherUnavailable, "launcher-unavailable"):
        make().start(spec)
    assert make().names(spec.node) == set()


@pytest.mark.parametrize("image", ["fem-absent:1", "sha256:" + "0" * 64])
def test_an_absent_image_under_policy_never(make: Make, image: str) -> None:
    with refused(TaskFailed, "image-missing"):
        make().prepare(image, None)


def test_an_image_is_pinned_and_its_digest_checked(make: Make, services: Services) -> None:
    image = services.images["busybox"]
    pinned = make().prepare(image, None)
    assert pinned is not None
    assert pinned.startswith("sha256:")
    assert make().prepare(image, pinned) == pinned
    with refused(TaskFailed, "digest-differs"):
        make().prepare(image, "sha256:" + "0" * 64)
    with refused(TaskFailed, "image-missing"):
        make().prepare(None, None)


def test_an_engine_that_is_not_there_or_hangs(make: Make, tmp_path: Path) -> None:
    with refused(LauncherUnavailable, "launcher-unavailable"):
        make(docker_host=f"unix://{tmp_path}/none.sock").names("n")
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(f"{tmp_path}/deaf.sock")
        deaf.listen()
        began = time.monotonic()
        with refused(LauncherUnavailable, "launcher-unavailable"):
            make(docker_host=f"unix://{tmp_path}/deaf.sock", timeout=0.3).names("n")
        assert time.monotonic() - began < SOON / 2, "the engine's own limit is longer"


def test_a_silent_task_is_followed_on(make: Make, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_engine, "IDLE", 0.2)
    ended, lines = run(make(), make_spec("/bin/sh", "-c", "echo one; sleep 0.7; echo two; sleep 0.5; exit 3"))
    assert (ended.code, texts(lines)) == (3, ["one", "two"])


def test_an_interrupted_connection_loses_no_line(make: Make, make_spec: MakeSpec, services: Services, tmp_path: Path) -> None:
    spec = make_spec("/bin/sh", "-c", "echo one; until [ -e go ]; do sleep 0.02; done; echo two; exit 3")
    with Relay(tmp_path / "relay.sock", services.docker_host.removeprefix("unix://")) as relay:
        lines: list[LogLine] = []

        def cut(line: LogLine) -> None:
            lines.append(line)
            if line.text == "one":
                relay.cut()
                (spec.sandbox / "go").touch()

        launcher = make(docker_host=f"unix://{relay.path}")
        launcher.start(spec)
        ended = launcher.follow(spec.name, cut)
    assert (ended.code, texts(lines)) == (3, ["one", "two"])


class Relay:
    """Stands between client and daemon, and can cut all that goes through it."""

    def __init__(self, path: Path, target: str) -> None:
        self.path, self._target = path, target
        self._listener = socket.socket(socket.AF_UNIX)
        self._open: list[socket.socket] = []

    def __enter__(self) -> Relay:
        self._listener.bind(str(self.path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def cut(self) -> None:
        for end in self._open:
            _shut(end)

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._target)
            self._open += [client, server]
            threading.Thread(target=_join, args=(client, server), daemon=True).start()


def _join(client: socket.socket, server: socket.socket) -> None:
    back = threading.Thread(target=_pump, args=(server, client), daemon=True)
    back.start()
    with client, server:
        _pump(client, server)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        _shut(end)


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


WORKER = """
import sys
from pathlib import Path
from fdn_worker.launchers.docker import DockerLauncher
from fdn_worker.testing import spec_of
host, name, image, sandbox, script = sys.argv[1:]
launcher = DockerLauncher(docker_host=host)
launcher.start(spec_of(name, "north", ("/bin/sh", "-c", script), Path(sandbox), image=image))
launcher.follow(name, lambda line: print(line.text, flush=True))
"""


def test_a_killed_worker_loses_nothing(make: Make, make_spec: MakeSpec, services: Services) -> None:
    script = "echo one; until [ -e go ]; do sleep 0.02; done; echo x >> count; echo two; exit 3"
    spec = make_spec("/bin/sh", "-c", script)
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, services.docker_host, spec.name, str(spec.image), str(spec.sandbox), script],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert worker.stdout is not None
    assert worker.stdout.readline() == "one\n"
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    (spec.sandbox / "go").touch()
    ended, lines = run(make(), spec)
    assert (ended.code, texts(lines)) == (3, ["one", "two"])
    assert (spec.sandbox / "count").read_text() == "x\n"
    assert not ended.usage.estimated


def test_created_by_a_worker_that_died_before_starting_it(make: Make, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    from docker import APIClient

    spec = make_spec("/bin/sh", "-c", "exit 3")
    with monkeypatch.context() as patch:
        patch.setattr(APIClient, "start", lambda *_: sys.exit("killed"))
        with pytest.raises(SystemExit):
            make().start(spec)
    assert make().names(spec.node) == {spec.name}
    assert run(make(), spec)[0].code == 3


def test_usage_without_a_cgroup_of_its_own_is_estimated(make: Make, make_spec: MakeSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docker_accounts, "_INTERVAL", 0.1)
    ended, _ = run(make(cgroup_parent=""), make_spec("/bin/sh", "-c", "i=0; while [ $i -lt 1000000 ]; do i=$((i+1)); done"))
    assert ended.usage.estimated
    assert ended.usage.cpu_seconds > 0.1
    assert ended.usage.peak_memory > 100_000


def test_the_images_entrypoint_does_not_interfere(make: Make, make_spec: MakeSpec, services: Services, unique: str) -> None:
    from docker import APIClient

    api = APIClient(base_url=services.docker_host)
    container = api.create_container(services.images["busybox"], ["/bin/true"])["Id"]
    try:
        api.commit(container, repository=unique, tag="1", conf={"Entrypoint": ["/bin/false"], "Cmd": ["x"], "StopSignal": "SIGQUIT"})
        assert run(make(), make_spec("/bin/sh", "-c", "exit 6", image=make().prepare(f"{unique}:1", None)))[0].code == 6
        assert run(make(), make_spec("/bin/true", image=f"{unique}:1"))[0].code == 0
    finally:
        api.remove_container(container)
        # Containers of the two tasks hold it still.
        api.remove_image(f"{unique}:1", force=True)
        api.close()


#: Bytes of a registry's image.
IMAGE_SIZE = 1000


class Registry(ThreadingHTTPServer):
    """A registry with one image, of one layer, in the repository `fem/tool`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _RegistryHandler)
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as layer:
            member = tarfile.TarInfo(uuid.uuid4().hex)
            member.size = IMAGE_SIZE
            layer.addfile(member, io.BytesIO(bytes(IMAGE_SIZE)))
        config = {
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [_digest(content.getvalue())]},
        }  # fmt: skip
        config_blob, layer_blob = json.dumps(config).encode(), gzip.compress(content.getvalue())
        kind = "application/vnd.docker."
        manifest = {
            "schemaVersion": 2, "mediaType": f"{kind}distribution.manifest.v2+json",
            "config": {"mediaType": f"{kind}container.image.v1+json", "size": len(config_blob), "digest": _digest(config_blob)},
            "layers": [{"mediaType": f"{kind}image.rootfs.diff.tar.gzip", "size": len(layer_blob), "digest": _digest(layer_blob)}],
        }  # fmt: skip
        self.manifest = json.dumps(manifest).encode()
        self.digest = _digest(self.manifest)
        self.blobs = {_digest(blob): blob for blob in (config_blob, layer_blob, self.manifest)} | {"1": self.manifest}
        self.image = f"127.0.0.1:{self.server_port}/fem/tool:1"
        self.asked = 0

    def __enter__(self) -> Registry:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.shutdown()
        self.server_close()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class _RegistryHandler(BaseHTTPRequestHandler):
    server: Registry

    def do_GET(self) -> None:
        *_, what = self.path.split("/")
        found = b"{}" if self.path == "/v2/" else self.server.blobs.get(what) if "/fem/tool/" in self.path else None
        self.server.asked += "/manifests/" in self.path
        body = found if found is not None else b'{"errors": [{"code": "MANIFEST_UNKNOWN", "message": "manifest unknown"}]}'
        self.send_response(404 if found is None else 200)
        manifest = found == self.server.manifest
        self.send_header("Content-Type", json.loads(body)["mediaType"] if manifest else "application/json")
        self.send_header("Content-Length", str(len(body)))
        if manifest:
            self.send_header("Docker-Content-Digest", self.server.digest)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 (http.server's name)

    def log_message(self, *words: object) -> None:
        return


@pytest.fixture
def registry(services: Services) -> Iterator[Registry]:
    from docker import APIClient

    with Registry() as registry:
        yield registry
    api = APIClient(base_url=services.docker_host)
    for reference in [tag for image in api.images() for tag in image["RepoTags"] or () if tag == registry.image]:
        api.remove_image(reference)
    api.close()


def test_pull_policies(make: Make, registry: Registry) -> None:
    pinned = f"{registry.image.rpartition(':')[0]}@{registry.digest}"
    with refused(TaskFailed, "image-missing"):
        make().prepare(registry.image, None)
    assert registry.asked == 0
    assert make(pull_policy="if-not-present").prepare(registry.image, None) == pinned
    asked = registry.asked
    assert asked > 0
    assert make(pull_policy="if-not-present").prepare(registry.image, registry.digest) == pinned
    assert make(pull_policy="never").prepare(registry.image, registry.digest) == pinned
    assert registry.asked == asked
    assert make(pull_policy="always").prepare(registry.image, None) == pinned
    assert registry.asked > asked


def test_looking_pulling_and_dropping(make: Make, registry: Registry) -> None:
    launcher = make(pull_policy="if-not-present")
    assert launcher.look(registry.image, None) is None
    with refused(TaskFailed, "image-missing"):
        make().look(registry.image, None)
    asked = registry.asked
    launcher.pull(registry.image)
    assert registry.asked > asked
    pinned = f"{registry.image.rpartition(':')[0]}@{registry.digest}"
    assert launcher.look(registry.image, registry.digest) == make().look(registry.image, None) == pinned
    assert launcher.look(registry.image, "sha256:" + "0" * 64) is None
    assert (registry.image, registry.digest) in {(image.name, image.digest) for image in launcher.images()}
    launcher.drop(registry.image)
    assert launcher.look(registry.image, None) is None
    with refused(TaskFailed, "image-missing"):
        launcher.drop(registry.image)
    with refused(TaskFailed, "image-missing"):
        launcher.pull(registry.image.replace("tool:1", "absent:1"))


def test_what_was_pulled_and_not_used_for_longest_goes(make: Make, make_spec: MakeSpec, services: Services, tmp_path: Path) -> None:
    with Registry() as one, Registry() as two, Registry() as three:
        launcher = make(pull_policy="if-not-present", state=tmp_path)
        names = [registry.image for registry in (one, two, three)]
        for registry in (one, two):
            launcher.prepare(registry.image, None)
        pinned = launcher.prepare(three.image, three.digest)
        launcher.prepare(one.image, None)  # the first, used once more
        # A restarted worker knows of them, and of the site's own images it does not.
        launcher = make(pull_policy="if-not-present", state=tmp_path)
        assert launcher.collect(3 * IMAGE_SIZE, lambda _: False) == 3 * IMAGE_SIZE
        assert launcher.collect(2 * IMAGE_SIZE, lambda _: False) == 2 * IMAGE_SIZE
        assert [launcher.look(name, None) is None for name in names] == [False, True, True]  # the third has no name but its digest
        assert launcher.look(three.image, three.digest) is None
        assert launcher.collect(0, lambda reference: reference == pinned) == IMAGE_SIZE
        assert launcher.collect(0, lambda _: False) == 0
    assert {image.name for image in launcher.images()} >= set(services.images.values())


def test_an_image_that_a_container_has_or_that_is_wanted_now_stays(
    make: Make, registry: Registry, services: Services, tmp_path: Path
) -> None:
    from docker import APIClient

    launcher = make(pull_policy="if-not-present", state=tmp_path)
    launcher.prepare(registry.image, None)
    api = APIClient(base_url=services.docker_host)
    container = api.create_container(registry.image, "/none")["Id"]
    try:
        assert launcher.collect(0, lambda _: False) == IMAGE_SIZE
    finally:
        api.remove_container(container)
        api.close()

    meanwhile: list[threading.Thread] = []

    def used_meanwhile(_: str) -> bool:
        meanwhile.append(threading.Thread(target=launcher.prepare, args=(registry.image, None)))
        meanwhile[-1].start()
        return False

    # Whoever asked for it before it went has it; after that it is pulled again.
    launcher.collect(0, used_meanwhile)
    for thread in meanwhile:
        thread.join(SOON)
    assert launcher.prepare(registry.image, None) is not None
    assert launcher.collect(0, lambda _: False) == 0


def test_what_the_registry_does_not_have_or_give(make: Make, registry: Registry) -> None:
    pulling = make(pull_policy="if-not-present")
    with refused(TaskFailed, "image-missing"):
        pulling.prepare(registry.image.replace("tool:1", "absent:1"), None)
    pulling.prepare(registry.image, None)
    with refused(TaskFailed, "digest-differs"):
        pulling.prepare(registry.image, "sha256:" + "0" * 64)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    with refused(LauncherUnavailable, "launcher-unavailable"):
        pulling.prepare(f"127.0.0.1:{port}/fem/tool:1", None)
