"""What Prometheus is told of the centre: `GET /metrics`, for an operator, an auditor or the token of the settings.

Labels are routes, methods, statuses, states and enrolled nodes: nobody's name and no execution's id is told, and no client
can make new series. docs/reference/metrics.md names each.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fdn_worker import __version__
from fdn_worker.errors import BrokerUnavailable
from fdn_worker.protocol import Heartbeat, State, now
from fdn_worker.protocol.names import INBOX, command_queue, dead_letter_queue
from federation.centre import Centre
from federation.gateway.access import Action
from federation.gateway.services import of
from federation.gateway.signing import caller
from federation.presence import SUSPECT, judged
from storage.database import RecordsUnavailable
from storage.rows import NodeRow
from storage.standing import executions_by_state, open_runs_by_state

#: Upper bounds of the times until an answer begins, in seconds.
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
#: Seconds for which what was read of broker and records is told again: there may be a thousand nodes, and several who ask.
FRESH = 10.0
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

router = APIRouter(tags=["metrics"])


class Metrics:
    """Of one process."""

    def __init__(self, centre: Centre) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("fem_http_requests", "Answers, by route and status.", ["method", "route", "status"], registry=self.registry)
        self.seconds = Histogram(
            "fem_http_request_seconds",
            "Time until an answer began, by route.",
            ["method", "route"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.open = Gauge("fem_http_open_requests", "Requests that are being answered, followers included.", registry=self.registry)
        self.registry.register(_Standing(centre))


class Counted:
    """ASGI middleware around everything: counts answers, and the time until each began."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, metrics, status = time.perf_counter(), self._metrics, 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start" and not status:
                status = message["status"]
                method, route = _method(scope), _route(scope)
                metrics.requests.labels(method, route, str(status)).inc()
                metrics.seconds.labels(method, route).observe(time.perf_counter() - began)
            await send(message)

        with metrics.open.track_inprogress():
            await self._app(scope, receive, answer)


def _method(scope: Scope) -> str:
    return scope["method"] if scope["method"] in METHODS else "other"


def _route(scope: Scope) -> str:
    """The route's pattern, never the path that was asked for; "none" where no route has it."""
    return str(getattr(scope.get("route"), "path", "none"))


class _Standing(Collector):
    """What broker and records say. A part that is down is told as such, and what it would say left out."""

    def __init__(self, centre: Centre) -> None:
        self._centre, self._lock = centre, threading.Lock()
        self._told: list[Metric] = []
        self._read = -FRESH

    def collect(self) -> Iterator[Metric]:
        with self._lock:
            if time.monotonic() - self._read > FRESH:
                self._told, self._read = list(self._look()), time.monotonic()
            yield from self._told

    def describe(self) -> Iterable[Metric]:
        # Asked when it is registered: then nothing is read yet.
        return ()

    def _look(self) -> Iterator[Metric]:
        yield _family("fem_info", "The centre's version.", ["version"], [([__version__], 1)])
        up = dict.fromkeys(("records", "broker"), 1)
        nodes: list[NodeRow] = []
        try:
            nodes = [row for row in self._centre.records.nodes() if row.retired is None]
            yield from self._of_records(nodes)
        except RecordsUnavailable:
            up["records"] = 0
        try:
            yield self._of_broker(nodes)
        except BrokerUnavailable:
            up["broker"] = 0
        yield _family("fem_up", "Whether a part answers.", ["part"], [([part], value) for part, value in up.items()])

    def _of_records(self, nodes: Sequence[NodeRow]) -> Iterator[Metric]:
        database = self._centre.records.database
        counts = executions_by_state(database)
        yield _family("fem_executions", "Executions in the records, by state.", ["state"], [([state], n) for state, n in counts.items()])
        runs = open_runs_by_state(database)
        yield _family("fem_open_runs", "Runs of open executions, by state.", ["state"], [([state], runs.get(state, 0)) for state in State])
        heard = [
            (row.name, row.last_seen, Heartbeat.model_validate_json(row.heartbeat)) for row in nodes if row.heartbeat and row.last_seen
        ]
        moment = now()
        presence = [judged(seen, beat.interval, moment) for _, seen, beat in heard]
        presence += ["gone"] * (len(nodes) - len(heard))
        yield _family("fem_nodes", f"Enrolled nodes, by presence: suspect after {SUSPECT} missed heartbeats.", ["presence"],
                      [([one], presence.count(one)) for one in ("connected", "suspect", "gone")])  # fmt: skip
        yield _family("fem_node_heartbeat_age_seconds", "Since a node's last heartbeat was recorded.", ["node"],
                      [([name], (moment - seen).total_seconds()) for name, seen, _ in heard])  # fmt: skip
        yield _family("fem_node_event_lag_seconds", "From a node's sending to the records, of its last heartbeat and by both clocks.", ["node"],
                      [([name], (seen - beat.at).total_seconds()) for name, seen, beat in heard])  # fmt: skip
        yield _family("fem_node_slots_free", "Free slots of a node.", ["node"], [([name], beat.slots_free) for name, _, beat in heard])
        yield _family("fem_node_disk_free_bytes", "Free disk of a node.", ["node"], [([name], beat.disk_free) for name, _, beat in heard])
        yield _family(
            "fem_node_problems", "Problems that a node tells of.", ["node"], [([name], len(beat.problems)) for name, _, beat in heard]
        )

    def _of_broker(self, nodes: Sequence[NodeRow]) -> Metric:
        """Messages in the centre's inbox and in each node's queues."""
        named = [("", "inbox", INBOX)]
        for row in nodes:
            named += [(row.name, "orders", command_queue(row.name)), (row.name, "dead-letters", dead_letter_queue(row.name))]
        depths = [(node, what, self._centre.broker.depth(queue)) for node, what, queue in named]
        told = [([node, what], depth.messages) for node, what, depth in depths if depth is not None]
        return _family("fem_queue_messages", "Messages that wait at the broker.", ["node", "queue"], told)


def _family(name: str, what: str, labels: list[str], values: Iterable[tuple[list[str], float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, what, labels=labels)
    for of_labels, value in values:
        family.add_metric([str(one) for one in of_labels], value)
    return family


@router.get("/metrics", response_class=Response)
def metrics(request: Request) -> Response:
    """In Prometheus' text format."""
    services = of(request)
    wanted = services.settings.metrics_token.get_secret_value()
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if not wanted or not hmac.compare_digest(given.encode(), wanted.encode()):
        services.gate.allow(caller(request), Action.METRICS_READ)
    found: Metrics = request.app.state.metrics
    return Response(generate_latest(found.registry), media_type=CONTENT_TYPE_LATEST)
