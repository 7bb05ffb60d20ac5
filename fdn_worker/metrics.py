"""What Prometheus is told of a node: `[metrics] listen` in its settings, off by default. docs/reference/metrics.md names each.

Counts and times are of this process; what stands is read when it is asked for. Labels are states, faults and reasons of
our own: no user's, run's or dataset's name is told, and no task can make new series.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fdn_worker import __version__, heart
from fdn_worker.errors import SettingsError
from fdn_worker.policy import disk_free
from fdn_worker.protocol import Reason, State

#: Upper bounds of the times in a state, in seconds: from what a small task takes to a week of waiting for a release.
SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600, 7 * 24 * 3600)


class Node(heart.Node, Protocol):
    """What is told of."""

    heart: heart.Heart


class Metrics:
    """Of one worker. `state` is called with each step of an attempt."""

    def __init__(self, node: Node) -> None:
        self._node, self._registry, self._lock = node, CollectorRegistry(), threading.Lock()
        #: Attempt -> the state it is in, and since when.
        self._since: dict[str, tuple[State, float]] = {}
        self._ended = Counter(
            "fdn_worker_attempts_ended",
            "Attempts that ended, by state and by whose fault it was.",
            ["state", "fault"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "fdn_worker_state_seconds", "Time that attempts spent in a state.", ["state"], buckets=SECONDS, registry=self._registry
        )
        self._registry.register(_Standing(node))

    def state(self, name: str, state: State, reason: Reason | None) -> None:
        """An attempt came to a state."""
        moment = time.monotonic()
        with self._lock:
            before = self._since.pop(name, None)
            if not state.terminal:
                self._since[name] = (state, moment)
        if before is not None:
            self._seconds.labels(before[0]).observe(moment - before[1])
        if state.terminal:
            self._ended.labels(state, reason.fault if reason else "").inc()

    def serve(self, listen: str) -> None:
        """Answer at HOST:PORT for as long as the process lives."""
        host, _, port = listen.rpartition(":")
        try:
            start_http_server(int(port), host.strip("[]"), self._registry)
        except OSError as error:
            raise SettingsError(
                f"metrics.listen {listen!r}: {error.strerror}", remedy="name an address of this machine that is free"
            ) from error


class _Standing(Collector):
    """What is so at the moment of the question."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def collect(self) -> Iterator[Metric]:
        node, journal, settings = self._node, self._node.journal, self._node.settings
        yield _gauge("fdn_worker_info", "The worker's version.", 1, version=__version__)
        here = GaugeMetricFamily("fdn_worker_attempts", "Unfinished attempts, by state.", labels=["state"])
        states = [entry.state for entry in journal.unfinished()]
        for state in State:
            if not state.terminal:
                here.add_metric([state], states.count(state))
        yield here
        yield _gauge("fdn_worker_slots", "Tasks that may run at once.", settings.slots)
        yield _gauge("fdn_worker_slots_free", "Slots that a new attempt would find.", node.attempts.slots_free)
        yield _gauge("fdn_worker_accepting", "Whether orders are taken.", node.accepting)
        yield _gauge("fdn_worker_problems", "Things that the site's administrator should look at; `fdn-worker check` names them.",
                     len(heart.problems(node)))  # fmt: skip
        yield _gauge("fdn_worker_outbox_messages", "Events that wait to be sent.", journal.unsent())
        yield _gauge("fdn_worker_disk_free_bytes", "Free on the state folder's disk.", disk_free(settings.state_dir))
        if node.heart.sent is not None:
            yield _gauge(
                "fdn_worker_heartbeat_age_seconds", "Since the last heartbeat that the broker took.", time.monotonic() - node.heart.sent
            )


def _gauge(name: str, what: str, value: float, **labels: str) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, what, labels=list(labels))
    family.add_metric(list(labels.values()), float(value))
    return family
