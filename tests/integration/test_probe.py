"""`fdn-worker check` shows what Docker really does: with the worker's own configuration, and with one that lacks something."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import docker
import pytest

from fdn_worker import probe
from fdn_worker.findings import Finding
from fdn_worker.launchers import docker as docker_module
from fdn_worker.launchers.docker import DockerLauncher
from fdn_worker.protections import PROTECTIONS
from tests.conftest import Services
from tests.unit.helpers import settings

Weaken = Callable[[dict[str, Any]], object]


def found(services: Services, tmp_path: Path, host: str = "", **changes: Any) -> dict[str, Finding]:
    launcher = DockerLauncher(docker_host=host or services.docker_host, pull_policy="never", timeout=5)
    findings = {finding.what.strip(): finding for finding in probe.hardening("docker", launcher, settings(tmp_path, **changes))}
    assert not list(tmp_path.glob("probe-*"))
    return findings


@pytest.mark.parametrize("image", ["busybox", "python", ""])
def test_all_is_in_force(services: Services, tmp_path: Path, image: str) -> None:
    findings = found(services, tmp_path, probe_image=services.images.get(image, ""))
    assert [finding for finding in findings.values() if not finding.sound] == []
    assert list(findings) == ["hardening by docker", *(protection.what for protection in PROTECTIONS), "besides"]
    assert findings["what is mounted below data stays out"].says == "nothing came along"
    client = docker.APIClient(base_url=services.docker_host)
    assert client.containers(all=True, filters={"label": "fdn.node=site-a.probe"}) == []
    client.close()


WEAKER: dict[str, tuple[Weaken, set[str]]] = {
    "capabilities": (lambda host: host.update(CapDrop=[]), {"no capabilities"}),
    "privileges": (lambda host: host.update(SecurityOpt=[]), {"no new privileges"}),
    "seccomp": (lambda host: host["SecurityOpt"].append("seccomp=unconfined"), {"system calls filtered"}),
    "image": (lambda host: host.update(ReadonlyRootfs=False), {"image read-only"}),
    "data": (lambda host: host["Mounts"][1].update(ReadOnly=False), {"data read-only"}),
    "nested": (
        lambda host: [mount["BindOptions"].update(NonRecursive=False) for mount in host["Mounts"]],
        {"what is mounted below data stays out"},
    ),
    "sandbox": (lambda host: host["Mounts"][0].update(ReadOnly=True), {"a sandbox to write in"}),
    "tmp": (lambda host: host.update(Tmpfs={"/tmp": "rw,exec"}), {"/tmp runs no programs"}),
    "network": (lambda host: host.update(NetworkMode="bridge"), {"no network"}),
    "processes": (lambda host: host.update(PidMode="host"), {"its own processes alone"}),
    "pids": (lambda host: host.update(PidsLimit=-1), {"processes limited"}),
    "memory": (lambda host: host.update(Memory=0, MemorySwap=0), {"memory limited"}),
    "ulimits": (lambda host: host.update(Ulimits=[{"Name": "core", "Soft": -1, "Hard": -1}]), {"no core dumps"}),
    "privileged": (
        lambda host: host.update(Privileged=True, CapDrop=[], SecurityOpt=[]),
        {"no capabilities", "no new privileges", "system calls filtered", "kernel settings read-only"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WEAKER)
def test_what_lacks_is_found(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    weaken, expected = WEAKER[name]
    real = docker_module.container_config

    def weaker(*args: Any) -> dict[str, Any]:
        config = real(*args)
        weaken(config["HostConfig"])
        return config

    monkeypatch.setattr(docker_module, "container_config", weaker)
    findings = found(services, tmp_path)
    lacking = {what for what, finding in findings.items() if not finding.sound}
    # A privileged container sees this machine's disks, if it has any under /dev.
    assert lacking - {"no disks"} == expected
    assert all(findings[what].remedy for what in lacking)


def test_without_an_image_it_says_so(services: Services, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DockerLauncher, "images", lambda _: [])
    (finding,) = found(services, tmp_path).values()
    assert (finding.sound, finding.says) == (False, "no image here has a shell")
    assert "probe_image" in finding.remedy
    (finding,) = found(services, tmp_path, probe_image="fem-no-such-image:1").values()
    assert "is not at this node" in finding.says


def test_without_an_engine_it_says_so(services: Services, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    (finding,) = found(services, tmp_path, f"tcp://127.0.0.1:{port}").values()
    assert not finding.sound
    assert finding.remedy
