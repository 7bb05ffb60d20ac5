"""A TCP proxy that a test puts before a broker or a store, to cut, pause, slow, swallow, falsify or answer in its stead."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from types import TracebackType

_CHUNK = 16 * 1024


class Proxy:
    """Use as a context. `port` on 127.0.0.1 leads to `host:port` until `cut`; all may be called from any thread."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._flowing = threading.Event()
        self._listener: socket.socket | None = None
        self.port = 0
        #: Seconds that each chunk of 16 KiB is held up.
        self.delay = 0.0
        self._answer = b""
        #: Bytes that went from clients to the server.
        self.forwarded = 0
        self._cut_at: int | None = None
        #: Bytes a second that pass, each way of each connection; 0 is no limit.
        self.rate = 0.0
        self._swallowing = False
        self._falsified: tuple[bytes, bytes] | None = None
        self._servers: set[socket.socket] = set()
        #: What went to the server on each connection that was opened while `recording`.
        self.recording = False
        self.recorded: list[bytearray] = []

    def __enter__(self) -> Proxy:
        self.restore()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.resume()
        self.cut()

    def restore(self) -> None:
        """Take connections (again), at the same port, and pass on what comes."""
        self._answer, self._cut_at, self.delay, self.rate, self._falsified = b"", None, 0.0, 0.0, None
        if self._swallowing:
            self._swallowing = False
            self._break()  # what was swallowed is missing in them
        self.resume()
        if self._listener is not None:
            return
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        listener.listen()
        self.port = listener.getsockname()[1]
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        listener, self._listener = self._listener, None
        if listener is not None:
            _end(listener)
        self._break()

    def answer(self, answer: bytes) -> None:
        """Send this to whoever asks, until `restore`, in the stead of what is behind."""
        self._answer = answer
        self._break()

    def cut_after(self, size: int) -> None:
        """Break every connection once, when `size` more bytes went to the server."""
        self._cut_at = self.forwarded + size

    def swallow(self) -> None:
        """Let all that is sent vanish, in both directions, with no connection closed: until `restore`."""
        self._swallowing = True

    def falsify(self, old: bytes, new: bytes) -> None:
        """Once, send `new` to the server where the client sent `old`."""
        self._falsified = old, new

    @property
    def was_falsified(self) -> bool:
        """Whether `falsify` has had its effect."""
        return self._falsified is None

    def inject(self, data: bytes) -> None:
        """Send this to the server on each connection, as if its client had."""
        with self._lock:
            for server in self._servers & self._open:
                with contextlib.suppress(OSError):
                    server.sendall(data)

    def pause(self) -> None:
        """Pass nothing on, and lose nothing: connections stand still until `resume`."""
        self._flowing.clear()

    def resume(self) -> None:
        self._flowing.set()

    @property
    def was_cut(self) -> bool:
        """Whether `cut_after` has had its effect."""
        return self._cut_at is None

    def _break(self) -> None:
        with self._lock:
            for connection in self._open:
                _end(connection)
            self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            if self._answer:
                threading.Thread(target=self._reply, args=(client,), daemon=True).start()
                continue
            try:
                server = socket.create_connection(self._target)
            except OSError:
                _end(client)
                continue
            with self._lock:
                self._open |= {client, server}
                self._servers.add(server)
            for source, sink, up in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, up), daemon=True).start()

    def _reply(self, client: socket.socket) -> None:
        """Read a request's head, and answer; what follows of its body is read until the client leaves."""
        with contextlib.suppress(OSError), client:
            head = b""
            while b"\r\n\r\n" not in head and (piece := client.recv(_CHUNK)):
                head += piece
            client.sendall(self._answer)
            client.shutdown(socket.SHUT_WR)
            while client.recv(_CHUNK):
                pass

    def _pump(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        record = bytearray() if up and self.recording else None
        if record is not None:
            self.recorded.append(record)
        with contextlib.suppress(OSError):
            while data := source.recv(_CHUNK):
                if held_up := self.delay + (len(data) / self.rate if self.rate else 0.0):
                    time.sleep(held_up)
                self._flowing.wait()
                if self._swallowing:
                    continue
                if up and self._falsified and self._falsified[0] in data:
                    data, self._falsified = data.replace(*self._falsified, 1), None
                if record is not None:
                    record += data
                sink.sendall(data)
                if up:
                    self.forwarded += len(data)
                    if self._cut_at is not None and self.forwarded >= self._cut_at:
                        self._cut_at = None
                        self._break()
        _end(source)
        _end(sink)
        with self._lock:
            self._open -= {source, sink}
            self._servers -= {source, sink}


def _end(connection: socket.socket) -> None:
    """Wake whoever waits on it, and close it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
