"""A collector of traces that speaks OTLP over HTTP, and keeps what it hears."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from uuid import UUID

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.support.rig import eventually


@dataclass
class Collector:
    """Spans as they came: (service, span)."""

    address: str
    spans: list[tuple[str, Span]] = field(default_factory=list)

    def of(self, run: UUID) -> dict[str, Span]:
        """Those of the run's trace, by name."""
        return {span.name: span for _, span in list(self.spans) if span.trace_id == run.bytes}

    def complete(self, run: UUID, names: set[str]) -> dict[str, Span]:
        """The same, once they have come."""
        eventually(f"the spans {sorted(names)}", lambda: names <= set(self.of(run)))
        return self.of(run)


@contextmanager
def collecting() -> Iterator[Collector]:
    """One that takes whatever comes, at a free port."""
    found = Collector("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            assert self.path == "/v1/traces"
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                (service,) = [one.value.string_value for one in resource.resource.attributes if one.key == "service.name"]
                found.spans += [(service, span) for scope in resource.scope_spans for span in scope.spans]
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.address = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield found
    server.shutdown()
    server.server_close()
