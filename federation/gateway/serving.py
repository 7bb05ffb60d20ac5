"""The gateway's server: uvicorn, which lets go of clients that neither send nor take."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from fdn_worker.errors import SettingsError
from federation.gateway.settings import GatewaySettings

#: Bytes of a request's head; seconds that an idle connection is kept, and that requests under way have when the server is to end.
HEAD, IDLE, GRACE = 64 * 1024, 15, 10


def listening(settings: GatewaySettings) -> socket.socket:
    """The socket to serve at."""
    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        found = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(f"{settings.host}:{settings.port}: {error.strerror}", remedy="choose another: --host and --port") from error
    # Connections inherit it. asyncio sets it on sockets of its own alone; without it each answer waits 40 ms for the client's word.
    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return found


def server(app: FastAPI, settings: GatewaySettings) -> uvicorn.Server:
    """Not yet running: `.run(sockets=[listening(settings)])`."""
    return uvicorn.Server(
        uvicorn.Config(
            app, http=_patient(settings.patience), proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies), server_header=False, access_log=False, log_level="warning",
            limit_concurrency=settings.connections, timeout_keep_alive=IDLE, timeout_graceful_shutdown=GRACE,
            h11_max_incomplete_event_size=HEAD,
        )
    )  # fmt: skip


def _patient(seconds: float) -> type[H11Protocol]:
    """The protocol with the two limits that uvicorn has not: until a head is whole, and for what waits to be taken.

    A body that does not come is `limits.py`'s. The connection is aborted, not closed: closing would wait for the client.
    """

    class Patient(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._head, self._taking = (_Limit(self.loop, seconds, transport.abort) for _ in range(2))
            self._head.begin()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE:
                self._head.begin()
            else:
                self._head.end()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._taking.begin()

        def resume_writing(self) -> None:
            super().resume_writing()
            self._taking.end()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._head.end()
            self._taking.end()

    return Patient


class _Limit:
    """Calls `then` unless it is ended within the seconds. To begin again changes nothing."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, then: Callable[[], None]) -> None:
        self._loop, self._seconds, self._then = loop, seconds, then
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self._timer = self._timer or self._loop.call_later(self._seconds, self._then)

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
