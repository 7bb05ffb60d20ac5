"""Docker Engine: one that answers already, or else a dockerd of our own that shares nothing with the system's.

Our own has its folders, its containerd and its bridge to itself and writes no firewall rules: containers on its bridge reach the
host and each other, not the world.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from deployments.services.installs import run
from deployments.services.place import Place, ServiceError, say, without_user_settings
from deployments.services.processes import Process, start, stop, wait_until

SYSTEM = "unix:///var/run/docker.sock"
APPARMOR = Path("/sys/module/apparmor/parameters/enabled")


def running() -> str | None:
    """The address of an engine that answers: DOCKER_HOST's, or the system's."""
    for host in (os.environ.get("DOCKER_HOST"), SYSTEM):
        if host and _answers(host):
            return host
    return None


def missing(own: bool) -> dict[str, bool]:
    """Debian packages for the client, and for a daemon of our own."""
    apparmor = own and APPARMOR.exists() and APPARMOR.read_text().startswith("Y") and not _has("apparmor_parser")
    return {
        "docker.io": not _has("docker") or (own and not (_has("dockerd") and _has("containerd"))),
        "iproute2": own and not _has("ip"),
        "apparmor": apparmor,
    }


def launch(place: Place, note: Callable[[Process], None]) -> str:
    """Start our own and return its address once it answers."""
    if os.geteuid() != 0:
        raise ServiceError("no Docker Engine answers, and only root may start one; start the system's with `sudo systemctl start docker`")
    host = f"unix://{place.run}/docker.sock"
    place.run.mkdir(mode=0o711, exist_ok=True)
    config = place.folder / "dockerd.json"
    config.write_text(json.dumps(_config(place, host), indent=1))
    _add_bridge(_bridge(place))
    log = place.folder / "dockerd.log"
    # Whatever number of descriptors the broker needs, a daemon sets its containers' limits itself.
    process = start("dockerd", ["dockerd", "--config-file", str(config)], without_user_settings(), log, str(place.json))
    note(process)
    wait_until(lambda: _answers(host), process, log)
    _empty(host)  # of what an earlier daemon of ours that was killed may have left
    return host


def clear(place: Place, process: Process | None) -> None:
    """End our own daemon with its containers and networks. Idempotent."""
    if process is None or not process.alive:
        return
    host = f"unix://{place.run}/docker.sock"
    try:
        _empty(host)
    except ServiceError as error:
        say(f"{error}; ending dockerd and its containers the hard way")
        return
    stop([process])


def sweep(place: Place) -> None:
    """What a daemon leaves behind: mounts under its folders, the bridge, its sockets."""
    ours = (place.run, _data(place))
    mounts = [line.split()[1].encode().decode("unicode_escape") for line in Path("/proc/self/mounts").read_text().splitlines()]
    for mount in sorted((mount for mount in mounts if any(Path(mount).is_relative_to(folder) for folder in ours)), reverse=True):
        run(["umount", mount])
    if Path(f"/sys/class/net/{_bridge(place)}").exists():
        run(["ip", "link", "delete", _bridge(place)])
    if place.run.exists():
        shutil.rmtree(place.run)


def docker(host: str, *arguments: str) -> str:
    """The client's output."""
    argv = ["docker", "--host", host, *arguments]
    try:
        done = subprocess.run(argv, env=_client(), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired as error:
        raise ServiceError(f"the Docker Engine at {host} does not answer within 60 s; see its log") from error
    if done.returncode != 0:
        raise ServiceError(f"`{' '.join(argv[:5])}` failed: {done.stderr.strip()}")
    return done.stdout.strip()


def _config(place: Place, host: str) -> dict[str, object]:
    return {
        "hosts": [host],
        "data-root": str(_data(place)),
        "exec-root": str(place.run / "exec"),
        "pidfile": str(place.run / "docker.pid"),
        "containerd-namespace": f"fem-{place.tag}",
        "live-restore": True,
        "bridge": _bridge(place),
        "iptables": False,
        "ip-forward": False,
        "ip-masq": False,
        "log-level": "warn",
    }


def _data(place: Place) -> Path:
    """Kept between starts: it holds the images."""
    return place.folder / "docker"


def _bridge(place: Place) -> str:
    """At most 15 characters."""
    return f"fem{place.tag}"


def _empty(host: str) -> None:
    if containers := docker(host, "ps", "--all", "--quiet", "--no-trunc").split():
        docker(host, "rm", "--force", "--volumes", *containers)
    docker(host, "network", "prune", "--force")


def _add_bridge(name: str) -> None:
    if Path(f"/sys/class/net/{name}").exists():
        return
    shown = subprocess.run(["ip", "-json", "-4", "route", "show", "table", "all"], capture_output=True, text=True, check=True).stdout
    taken = [ipaddress.ip_network(route["dst"], strict=False) for route in json.loads(shown or "[]") if route["dst"] != "default"]
    candidates = ipaddress.ip_network("172.30.0.0/15").subnets(new_prefix=24)
    subnet = next((net for net in candidates if not any(net.overlaps(other) for other in taken)), None)
    if subnet is None:
        raise ServiceError("every /24 of 172.30.0.0/15 is routed already (`ip route`); no subnet is left for the containers' bridge")
    run(["ip", "link", "add", name, "type", "bridge"])
    run(["ip", "address", "add", f"{subnet[1]}/24", "dev", name])
    run(["ip", "link", "set", name, "up"])


def _answers(host: str) -> bool:
    argv = ["docker", "--host", host, "version", "--format", "{{.Server.Version}}"]
    try:
        done = subprocess.run(argv, env=_client(), stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _client() -> dict[str, str]:
    """A context that the user chose would stand against --host."""
    return {name: value for name, value in os.environ.items() if name not in ("DOCKER_CONTEXT", "DOCKER_HOST")}


def _has(program: str) -> bool:
    return shutil.which(program) is not None
