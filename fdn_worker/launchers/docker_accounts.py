"""What a container used: from a cgroup of ours around it, else from samples that are marked as estimated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from docker.errors import APIError
from requests.exceptions import RequestException

from fdn_worker.launchers.cgroup import Cgroups
from fdn_worker.launchers.docker_engine import Engine
from fdn_worker.protocol import Usage

#: Seconds between two samples, where there is no cgroup of ours.
_INTERVAL = 1.0


class Accounts:
    """The accounts of one daemon's containers."""

    def __init__(self, engine: Engine, parent: str) -> None:
        self._engine, self._parent = engine, parent
        self._known: Cgroups | None = None

    def _cgroups(self) -> Cgroups | None:
        """None where the worker cannot have its own: not root, in a container, or Docker without root."""
        if self._known is None:
            facts = self._engine.facts()
            # An empty parent is never usable.
            self._known = Cgroups("" if facts.rootless else self._parent, facts.cgroup_driver)
        return self._known if self._known.usable else None

    def parent(self, name: str) -> str | None:
        """What Docker is told as the container's cgroup parent."""
        cgroups = self._cgroups()
        return cgroups.of(name) if cgroups else None

    def close(self, name: str) -> None:
        """Take the attempt's cgroup away."""
        cgroups = self._cgroups()
        if cgroups:
            cgroups.drop(name)

    @contextmanager
    def watching(self, name: str) -> Iterator[Callable[[], Usage]]:
        """Inside, the container runs; what is given tells its usage after the end."""
        cgroups = self._cgroups()
        if cgroups:
            yield lambda: cgroups.read(name)
            return
        sampler = _Sampler(self._engine, name)
        sampler.start()
        try:
            yield lambda: sampler.usage
        finally:
            sampler.done.set()


class _Sampler(threading.Thread):
    """Asks Docker for the container's figures now and then; the last ones stand."""

    def __init__(self, engine: Engine, name: str) -> None:
        super().__init__(name=f"sampler-{name}", daemon=True)
        self._engine, self._container = engine, name
        self.done = threading.Event()
        self.usage = Usage(estimated=True)

    def run(self) -> None:
        while not self.done.wait(_INTERVAL):
            with self._engine.to(f"measure {self._container}") as api:
                try:
                    stats = api.stats(self._container, stream=False, one_shot=True)
                except (APIError, RequestException):
                    continue
            cpu = stats["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9
            memory = stats["memory_stats"].get("max_usage") or stats["memory_stats"].get("usage") or 0
            self.usage = Usage(
                cpu_seconds=max(cpu, self.usage.cpu_seconds), peak_memory=max(memory, self.usage.peak_memory), estimated=True
            )
