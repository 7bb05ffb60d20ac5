"""Those who look on from outside, where the settings name any: Prometheus and a collector of traces."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING

from fdn_worker.errors import SettingsError
from fdn_worker.journal import Journal
from fdn_worker.protocol import Reason, State, TaskOrder, now
from fdn_worker.tracing import Spans, trace_of

if TYPE_CHECKING:
    from fdn_worker.metrics import Metrics, Node


class Onlookers:
    """Of one worker. They want packages that others do without: SettingsError when they are not there."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._metrics: Metrics | None = None
        self._spans: NodeSpans | None = None

    def start(self) -> None:
        """Listen, and have the journal tell."""
        settings, journal = self._node.settings, self._node.journal
        if listen := settings.metrics.listen:
            try:
                from fdn_worker.metrics import Metrics
            except ModuleNotFoundError as error:
                raise SettingsError(f"metrics.listen needs the package {error.name}", remedy="pip install 'fdn-worker[metrics]'") from error
            self._metrics = Metrics(self._node)
            self._metrics.serve(listen)
        if endpoint := settings.tracing.endpoint:
            self._spans = NodeSpans(Spans(endpoint, f"fdn-worker {settings.node}"), journal)
        journal.on_state = self._state

    def _state(self, name: str, state: State, reason: Reason | None) -> None:
        for one in (self._metrics, self._spans):
            if one is not None:
                one.state(name, state, reason)

    @contextmanager
    def uploading(self, order: TaskOrder) -> Iterator[None]:
        """Inside, the attempt's files are on their way."""
        begin = now()
        try:
            yield
        finally:
            if self._spans is not None:
                self._spans.uploaded(order, begin)

    def close(self) -> None:
        """Send what waits."""
        if self._spans is not None:
            self._spans.close()


class NodeSpans:
    """The node's spans. Of a state in which the worker was restarted there is none: nobody knows how long it was."""

    def __init__(self, spans: Spans, journal: Journal) -> None:
        self._spans, self._journal, self._lock = spans, journal, threading.Lock()
        #: Attempt -> the state it is in, and since when.
        self._since: dict[str, tuple[State, datetime]] = {}

    def state(self, name: str, state: State, reason: Reason | None) -> None:
        """An attempt came to a state."""
        moment = now()
        with self._lock:
            before = self._since.pop(name, None)
            if not state.terminal:
                self._since[name] = state, moment
        entry = self._journal.entry(name)
        if entry is None or entry.order is None or (trace := trace_of(entry.order)) is None:
            return
        received = datetime.fromisoformat(entry.received)
        if before is None and state in (State.ACCEPTED, State.REJECTED):
            self._spans.span(trace, "queue", entry.order.issued, received)
        if before is not None:
            self._spans.span(trace, before[0].lower().replace("_", "-"), before[1], moment, under="node")
        if state.terminal:
            error = "" if state is State.SUCCEEDED else reason.code if reason else str(state)
            self._spans.span(trace, "node", received, moment, error=error, state=str(state))

    def uploaded(self, order: TaskOrder, begin: datetime) -> None:
        """The attempt's files were sent, or given up."""
        if (trace := trace_of(order)) is not None:
            self._spans.span(trace, "upload", begin, now(), under="node")

    def close(self) -> None:
        """Send what waits."""
        self._spans.close()
