"""Services of the fault suite's own, which it may kill: a RabbitMQ, a MinIO, and a dockerd where containers are to run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import docker
from docker.errors import DockerException
from requests.exceptions import RequestException

from deployments.services import engine, images, minio, rabbitmq
from deployments.services.place import Place
from deployments.services.processes import MARK, Process, marked, start, stop
from tests.conftest import Services
from tests.support.rig import eventually

CTL = "/usr/lib/rabbitmq/bin/rabbitmqctl"
#: Seconds for a server to be back.
BACK = 90.0


@dataclass
class Daemon:
    """A server that may be killed and started again as it was."""

    process: Process
    argv: list[str]
    environment: Mapping[str, str]
    log: Path

    @classmethod
    def of(cls, process: Process, log: Path) -> Daemon:
        """With the words and the environment that it runs with."""
        proc = Path(f"/proc/{process.pid}")

        def environment() -> dict[str, str]:
            """Empty for a moment after the program began: the kernel shows it once the program's memory stands."""
            return dict(pair.split("=", 1) for pair in (proc / "environ").read_text().split("\0") if "=" in pair)

        found = eventually(f"{process.name} shows its environment", environment)
        return cls(process, [word for word in (proc / "cmdline").read_text().split("\0") if word], found, log)

    def kill(self, *, group: bool = False) -> None:
        """SIGKILL; with `group` also to what it started."""
        (os.killpg if group else os.kill)(self.process.pid, signal.SIGKILL)
        os.waitpid(self.process.pid, 0)  # dockerd minds its predecessor's number, even a zombie's

    def start(self) -> Process:
        """Does not wait for it."""
        self.process = start(self.process.name, self.argv, self.environment, self.log, self.environment[MARK])
        return self.process


class Own:
    """Started by `running`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        # Each is looked at at once: RabbitMQ's is a script, which becomes another program.
        self._broker = rabbitmq.launch(place, lambda _: None)
        self.broker = Daemon.of(self._broker.process, self._broker.log)
        self._store = minio.launch(place, lambda _: None)
        self.store = Daemon.of(self._store.process, self._store.log)
        self.docker: Daemon | None = None
        self._docker_host = ""
        self._store.wait()
        self._broker.wait()

    def services(self, *, with_docker: bool) -> Services:
        """Where they listen; the dockerd is started when it is first asked for."""
        if with_docker and self.docker is None:
            started: list[Process] = []
            self._docker_host = engine.launch(self.place, started.append)
            self.docker = Daemon.of(started[0], self.place.folder / "dockerd.log")
            repository, _, tag = images.BUSYBOX.partition(":")
            with closing(docker.APIClient(base_url=self._docker_host)) as api:
                api.import_image_from_data(images.busybox_archive(), repository=repository, tag=tag)
        found = {"busybox": images.BUSYBOX}
        return Services(self._broker.amqp_url, self._broker.management_url, self._store.url, self._docker_host, found)

    def start_broker(self) -> None:
        """With the data and the ports that it had."""
        replace(self._broker, process=self.broker.start()).wait()

    def start_store(self) -> None:
        """The same."""
        replace(self._store, process=self.store.start()).wait()

    def control_broker(self, *words: str) -> None:
        subprocess.run([CTL, *words], env=dict(self.broker.environment), check=True, capture_output=True, timeout=BACK)

    def start_docker(self) -> None:
        assert self.docker is not None
        # Its containerd dies with it, but stays a zombie where the machine's first process reaps none: dockerd would wait for it.
        (self.place.run / "exec/containerd/containerd.pid").unlink(missing_ok=True)
        self.docker.start()

        def answers() -> bool:
            try:
                with closing(docker.APIClient(base_url=self._docker_host, version="auto", timeout=5)) as api:
                    return bool(api.ping())
            except (DockerException, RequestException):
                return False

        eventually("dockerd answers", answers, BACK)

    def keep_alive(self, wanted: bool) -> None:
        """Whether containers outlive their dockerd (live-restore)."""
        assert self.docker is not None
        file = self.place.folder / "dockerd.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"live-restore": wanted}))
        os.kill(self.docker.process.pid, signal.SIGHUP)
        with closing(docker.APIClient(base_url=self._docker_host)) as api:
            eventually("dockerd has read its settings", lambda: api.info()["LiveRestoreEnabled"] is wanted)

    def close(self) -> None:
        if self.docker is not None:
            engine.clear(self.place, self.docker.process)
        stop(marked(str(self.place.json)), patience=0)
        engine.sweep(self.place)


@contextmanager
def running(folder: Path) -> Iterator[Own]:
    """Data and logs in `folder`; all that was started is ended."""
    place = Place(folder / "own.json", folder / "own", Place.of(os.environ).cache)
    place.folder.mkdir(parents=True)
    with ExitStack() as undo:
        undo.callback(lambda: stop(marked(str(place.json)), patience=0))
        made = Own(place)
        undo.callback(made.close)
        yield made
