"""The centre's spans of a run: what an order says of its trace, and what is told as each step ends. See fdn_worker/tracing.py."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from fdn_worker.protocol import State, TaskOrder, decode, now
from fdn_worker.protocol.envelope import payload_of
from fdn_worker.tracing import FLOW, Spans, trace_of, traceparent

#: How the centre is called in traces.
SERVICE = "fem"


class Traces:
    """Of one process; tells nothing, and costs nothing, without an endpoint."""

    def __init__(self, endpoint: str) -> None:
        self._spans = Spans(endpoint, SERVICE) if endpoint else None

    @property
    def on(self) -> bool:
        """Whether anything is told."""
        return self._spans is not None

    def of(self, run: UUID) -> str | None:
        """What the run's orders say of its trace."""
        return traceparent(run) if self._spans is not None else None

    def staged(self, orders: Iterable[TaskOrder], begin: datetime) -> None:
        """These orders are on record."""
        for order in orders:
            self._told(order, "stage-in", begin)

    def dispatched(self, order_body: bytes, begin: datetime) -> None:
        """The broker has this order."""
        if self.on:
            self._told(_order(order_body), "dispatch", begin)

    def closed(self, order: TaskOrder, begin: datetime, state: State, issued: datetime) -> None:
        """What the attempt left is checked; with that the whole is known, from the moment when the run's first order was issued."""
        self._told(order, "stage-out", begin)
        if self._spans is not None and (trace := trace_of(order)) is not None:
            error = "" if state is State.SUCCEEDED else str(state)
            attributes = {"execution": str(order.execution), "task": order.task, "tool": order.labels.tool, "state": str(state)}
            self._spans.span(trace, FLOW, issued, now(), error=error, **attributes)

    def close(self) -> None:
        """Send what waits."""
        if self._spans is not None:
            self._spans.close()

    def _told(self, order: TaskOrder, name: str, begin: datetime) -> None:
        if self._spans is not None and (trace := trace_of(order)) is not None:
            self._spans.span(trace, name, begin, now())


def _order(body: bytes) -> TaskOrder:
    order = decode(payload_of(body))
    assert isinstance(order, TaskOrder)
    return order
