"""A server thread that plays an S3: signed URLs are taken as they come, and what goes wrong is told to it beforehand."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass
class HttpStore:
    """`objects` by path. `faults` are taken one a request, in order; a fault is a status, `cut` or `corrupt`."""

    objects: dict[str, bytes] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    faults: list[int | str] = field(default_factory=list)
    #: Called in the server's thread with each request, before it is answered.
    before: Callable[[Asked], None] = lambda _: None

    def __post_init__(self) -> None:
        self.lock = threading.Lock()
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # an answer in two packets would wait for an acknowledgement in between
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                """Say nothing."""

            def do_PUT(self) -> None:
                store.answer(self, self.rfile.read(int(self.headers["Content-Length"])))

            def do_GET(self) -> None:
                store.answer(self, None)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server.server_port}/{path}"

    def count(self, method: str) -> int:
        return sum(asked.method == method for asked in self.asked)

    def answer(self, handler: BaseHTTPRequestHandler, body: bytes | None) -> None:
        asked = Asked(handler.command, handler.path.lstrip("/"), dict(handler.headers))
        self.before(asked)
        with self.lock:
            self.asked.append(asked)
            fault = self.faults.pop(0) if self.faults else None
            if isinstance(fault, int):
                reply(handler, fault, headers={"Location": self.url("elsewhere")})
            elif body is not None:
                etag = "0" * 32 if fault == "corrupt" else hashlib.md5(body).hexdigest()
                self.objects[asked.path] = body
                reply(handler, 200, headers={"ETag": f'"{etag}"'})
            else:
                self.give(handler, asked, cut=fault == "cut")

    def give(self, handler: BaseHTTPRequestHandler, asked: Asked, *, cut: bool) -> None:
        whole = self.objects.get(asked.path)
        if whole is None:
            return reply(handler, 404)
        wanted = re.fullmatch(r"bytes=(\d+)-", asked.headers.get("Range", ""))
        offset = int(wanted[1]) if wanted else 0
        if wanted and offset >= len(whole):
            return reply(handler, 416)
        data = whole[offset:]
        reply(handler, 206 if wanted else 200, data[: len(data) // 2] if cut else data, length=len(data))
        handler.close_connection = cut
        return None

    def __enter__(self) -> HttpStore:
        self.thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def reply(
    handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", *, length: int | None = None, headers: dict[str, str] | None = None
) -> None:
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    handler.end_headers()
    handler.wfile.write(body)
