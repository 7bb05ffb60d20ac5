"""RabbitMQ: a node of its own, with its own data, plug-ins and port mapper; nothing of the system's is read or touched."""

from __future__ import annotations

import base64
import resource
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deployments.services.place import Place, say, without_user_settings
from deployments.services.processes import Process, free_ports, start, wait_until

#: Debian's wrapper in /usr/sbin changes the user; this is the server's own script.
SCRIPT = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
#: File descriptors: each quorum queue reserves three, and a declaration without them hangs.
DESCRIPTORS = 65536

CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{amqp}
management.tcp.ip = 127.0.0.1
management.tcp.port = {management}
disk_free_limit.absolute = 256MB
"""


@dataclass(frozen=True)
class RabbitMQ:
    """Where a started node listens."""

    amqp: int
    management: int
    process: Process
    log: Path

    @property
    def amqp_url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.amqp}/"

    @property
    def management_url(self) -> str:
        return f"http://guest:guest@127.0.0.1:{self.management}"

    def wait(self) -> None:
        """Until it takes connections and its management answers."""
        wait_until(lambda: _accepts(self.amqp) and _answers(self.management), self.process, self.log)


def missing() -> dict[str, bool]:
    return {"rabbitmq-server": not SCRIPT.exists()}


def launch(place: Place, note: Callable[[Process], None], config: str = CONFIG, advanced: str = "[].") -> RabbitMQ:
    """Start it without waiting; `note` is told of each process as soon as it runs. `config` names the ports {amqp} and {management}."""
    folder = place.folder / "rabbitmq"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    amqp, management, distribution, mapper = free_ports(4)
    (folder / "rabbitmq.conf").write_text(config.format(amqp=amqp, management=management))
    (folder / "advanced.config").write_text(advanced)
    (folder / "enabled_plugins").write_text("[rabbitmq_management,rabbitmq_auth_mechanism_ssl].\n")
    _raise_descriptors()
    environ = {
        **without_user_settings(),
        "HOME": str(folder),  # the Erlang cookie
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(mapper),
        "RABBITMQ_NODENAME": f"fem-{place.tag}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
    }
    mark = str(place.json)
    # Erlang would start the port mapper as a daemon that nobody ends; one of our own stands there first.
    mapped = start("epmd", ["epmd", "-address", "127.0.0.1", "-port", str(mapper)], environ, place.folder / "epmd.log", mark)
    note(mapped)
    wait_until(lambda: _accepts(mapper), mapped, place.folder / "epmd.log", 10.0)
    log = place.folder / "rabbitmq.log"
    process = start("rabbitmq", [str(SCRIPT)], environ, log, mark)
    note(process)
    return RabbitMQ(amqp, management, process, log)


def _raise_descriptors() -> None:
    """Inherited by what we start next."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
        except (ValueError, PermissionError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            say(f"warning: only {hard} file descriptors may be open (`ulimit -Hn`), RabbitMQ wants {DESCRIPTORS}: fewer quorum queues")
        return
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, hard))


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def _answers(port: int) -> bool:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/api/overview")
    request.add_header("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=2.0):
            return True
    except (urllib.error.URLError, OSError):
        return False
