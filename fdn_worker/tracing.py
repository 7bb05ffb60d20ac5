"""OpenTelemetry spans of a run, as one trace from the centre's flow to the node's upload. Off unless an endpoint is set.

A span is made once its end is known, of moments that are on record, and its id follows from its run, attempt and name. So
nothing has to be handed from step to step or kept over a restart, parents are known before they have ended, and what is
told twice is the same span. The order says the trace, as W3C's `traceparent` does; a node whose centre does not trace has none.

    flow                                      the centre: from the first order to the record's end
      stage-in, dispatch, stage-out           the centre
      queue                                   from the order's issue until the node received it, by both clocks
      node                                    until its last word
        accepted, staging-in, running, ...    each state
        upload                                files to the store, or the broker

Names of people, data and files are in no span. Imports the SDK when there is an endpoint, so that others do without.
"""

from __future__ import annotations

import hashlib
import threading
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from fdn_worker import __version__
from fdn_worker.errors import SettingsError
from fdn_worker.protocol import TaskOrder

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

#: Name of the span that all others are under.
FLOW = "flow"
#: Seconds that a collector has to take spans; it may be gone, and nobody is to wait for it.
TIMEOUT = 2.0


class Trace(NamedTuple):
    """Where the spans of an attempt belong."""

    id: int
    #: The span that the others are under, the same for all attempts of a run.
    flow: int
    run: UUID
    attempt: int
    node: str

    def span(self, name: str) -> int:
        """The id of a span of this attempt."""
        return self.flow if name == FLOW else _id(f"{self.id:032x} {self.attempt} {name}")


def traceparent(run: UUID) -> str:
    """What an order says of a run's trace, which has the run's own id."""
    return f"00-{run.hex}-{_id(run.hex):016x}-01"


def trace_of(order: TaskOrder) -> Trace | None:
    """The trace that an order names; None where its centre keeps none, or does not want this one."""
    if order.trace is None:
        return None
    _, trace, span, flags = order.trace.split("-")
    if not int(flags, 16) & 1:
        return None
    return Trace(int(trace, 16), int(span, 16), order.run, order.attempt, order.node)


class Spans:
    """Sends spans to a collector, in the background; what it does not take is dropped. Safe from any thread."""

    def __init__(self, endpoint: str, service: str) -> None:
        """`endpoint` is the base address of OTLP over HTTP, such as http://127.0.0.1:4318."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
            from opentelemetry.sdk.trace.id_generator import IdGenerator
            from opentelemetry.sdk.trace.sampling import ALWAYS_ON
        except ModuleNotFoundError as error:
            raise SettingsError(f"tracing needs the package {error.name}", remedy="install the extra `tracing`") from error

        class Named(IdGenerator):
            """Gives the ids that are set just before a span is started."""

            trace = span = 0

            def generate_trace_id(self) -> int:
                return self.trace

            def generate_span_id(self) -> int:
                return self.span

        self._ids, self._lock = Named(), threading.Lock()
        resource = Resource.create({"service.name": service, "service.version": __version__})
        self._provider: TracerProvider = TracerProvider(sampler=ALWAYS_ON, resource=resource, id_generator=self._ids)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=TIMEOUT)
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1000))
        self._tracer = self._provider.get_tracer("fem", __version__)

    def span(
        self, trace: Trace, name: str, begin: datetime, end: datetime, *, under: str = FLOW, error: str = "", **attributes: str | int
    ) -> None:  # fmt: skip
        """Tell of what went on from `begin` to `end`; `error` says what went wrong."""
        from opentelemetry import trace as api
        from opentelemetry.context import Context

        context = Context()
        if name != FLOW:
            parent = api.SpanContext(trace.id, trace.span(under), is_remote=True, trace_flags=api.TraceFlags(api.TraceFlags.SAMPLED))
            context = api.set_span_in_context(api.NonRecordingSpan(parent), context)
        told: dict[str, str | int] = {"fem.run": str(trace.run), "fem.attempt": trace.attempt, "fem.node": trace.node}
        told |= {f"fem.{key}": value for key, value in attributes.items()}
        with self._lock:
            self._ids.trace, self._ids.span = trace.id, trace.span(name)
            span = self._tracer.start_span(name, context, attributes=told, start_time=_nanoseconds(begin))
        if error:
            span.set_status(api.Status(api.StatusCode.ERROR, error))
        # Two clocks may make it end before it began.
        span.end(_nanoseconds(max(begin, end)))

    def close(self) -> None:
        """Send what waits, if the collector takes it soon."""
        self._provider.shutdown()


def _id(text: str) -> int:
    # Zero is no id.
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) or 1


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000
