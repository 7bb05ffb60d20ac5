"""The Docker Engine, spoken to in bounded calls; its errors become ours here and nowhere else.

The SDK's low-level client is used, since each call costs milliseconds and the high-level one makes more of them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from requests.exceptions import RequestException
from urllib3.exceptions import ReadTimeoutError

from fdn_worker.errors import LauncherUnavailable, PolicyRefused, RunVanished
from fdn_worker.launchers import LogLine
from fdn_worker.launchers.docker_logs import lines, since

#: Seconds without a log line after which the container is looked at and the stream opened anew.
IDLE = 30.0


class StreamIdle(LauncherUnavailable):
    """No log line came for a while, which may mean nothing."""


@dataclass(frozen=True)
class Facts:
    """What does not change while the daemon runs."""

    cgroup_driver: str
    rootless: bool
    live_restore: bool


@dataclass(frozen=True)
class ContainerState:
    """A container as `inspect` tells it. `status` is Docker's word: created, running, exited, ..."""

    status: str
    code: int
    out_of_memory: bool
    started: datetime
    finished: datetime
    id: str = ""
    #: Of its first process; 0 when there is none.
    pid: int = 0
    #: Its own addresses on Docker's networks.
    addresses: tuple[str, ...] = ()

    @property
    def ended(self) -> bool:
        return self.status in ("exited", "dead")


class Engine:
    """One daemon. Connects at the first call, so a worker can start before Docker does."""

    def __init__(self, host: str, timeout: float) -> None:
        self.host, self._timeout = host or "the default socket", timeout
        self._base_url = host or None
        self._lock = threading.Lock()
        self._api: APIClient | None = None
        self._facts: Facts | None = None

    def _connected(self) -> APIClient:
        with self._lock:
            if self._api is None:
                self._api = APIClient(base_url=self._base_url, version="auto", timeout=self._timeout)  # type: ignore[arg-type]
            return self._api

    @contextmanager
    def to(self, what: str) -> Iterator[APIClient]:
        """The client, to do `what`; whatever goes wrong with it inside is LauncherUnavailable."""
        try:
            yield self._connected()
        except APIError as error:
            raise LauncherUnavailable(f"Docker at {self.host} could not {what}: {reason(error)}") from error
        except RequestException as error:
            kind = StreamIdle if any(isinstance(part, ReadTimeoutError) for part in error.args) else LauncherUnavailable
            raise kind(
                f"Docker at {self.host} did not answer when asked to {what}: {one_line(error)}", remedy="is dockerd running?"
            ) from error
        except DockerException as error:
            raise LauncherUnavailable(
                f"Docker at {self.host} cannot be reached: {one_line(error)}",
                remedy="start dockerd, or set docker_host in [launchers.docker]",
            ) from error

    def facts(self) -> Facts:
        """Asked for once."""
        if self._facts is None:
            with self.to("describe itself") as api:
                info: dict[str, Any] = api.info()
            self._facts = Facts(
                cgroup_driver=info.get("CgroupDriver", ""),
                rootless=any("rootless" in option for option in info.get("SecurityOptions") or ()),
                live_restore=bool(info.get("LiveRestoreEnabled")),
            )
        return self._facts

    def check_rootless(self) -> None:
        """LauncherUnavailable for a daemon whose containers' root is the machine's."""
        if not self.facts().rootless:
            raise LauncherUnavailable(
                f"Docker at {self.host} is not rootless, and tasks never run as root", remedy="take rootless from [launchers.docker]"
            )

    def state(self, name: str) -> ContainerState:
        """How the container stands; RunVanished when it is gone."""
        with self.to(f"inspect {name}") as api:
            try:
                found = api.inspect_container(name)
            except NotFound as error:
                raise RunVanished(f"Docker at {self.host} has no container {name}") from error
        state = found["State"]
        return ContainerState(
            state["Status"], state["ExitCode"], bool(state["OOMKilled"]),
            datetime.fromisoformat(state["StartedAt"]), datetime.fromisoformat(state["FinishedAt"]), found["Id"], state["Pid"],
            tuple(network["IPAddress"] for network in found["NetworkSettings"]["Networks"].values() if network["IPAddress"]),
        )  # fmt: skip

    def check_internal(self, network: str) -> None:
        """PolicyRefused for a network that has a way out of its own."""
        with self.to(f"inspect network {network}") as api:
            try:
                internal = api.inspect_network(network)["Internal"]
            except NotFound:
                internal = False
        if not internal:
            raise PolicyRefused(f"there is no internal Docker network {network!r} here", code="network-refused", remedy="tell the site")

    def wait(self, name: str, seconds: float) -> None:
        """Return when the container has ended, or after `seconds`."""
        try:
            with self.to(f"wait for {name}") as api:
                api.wait(name, timeout=seconds)  # type: ignore[arg-type]
        except LauncherUnavailable:
            # A wait that breaks says nothing of the container: whoever waits looks at it next.
            return

    def follow(self, name: str, after: str) -> Iterator[LogLine]:
        """Lines after the cursor, until the container ends. StreamIdle when none came for IDLE seconds."""
        with self.to(f"give the log of {name}") as api:
            wanted = {"follow": "1", "stdout": "1", "stderr": "1", "timestamps": "1", "since": since(after)}
            # The SDK's own `logs` asks for an inspect first, to learn of a terminal that is never there.
            url = f"{api.base_url}/v{api.api_version}/containers/{name}/logs"
            with api.get(url, params=wanted, stream=True, timeout=(self._timeout, IDLE)) as response:
                if response.status_code == 404:
                    raise RunVanished(f"Docker at {self.host} has no container {name}")
                response.raise_for_status()
                yield from lines(response.iter_content(None), after)


def one_line(error: object) -> str:
    """An error's words, on one line of bounded length."""
    return " ".join(str(error).split())[:300]


def reason(error: APIError) -> str:
    """What the daemon said."""
    return one_line(error.explanation or error)
