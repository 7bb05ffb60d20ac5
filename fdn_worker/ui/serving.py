"""Start the page on the loopback address, and end it when its person is done."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable

import uvicorn

from fdn_worker.errors import SettingsError
from fdn_worker.settings import WorkerSettings
from fdn_worker.standing import open_journal
from fdn_worker.ui.application import application
from fdn_worker.ui.guard import Guard

#: No setting: whoever wants it from elsewhere comes through a tunnel of their own.
HOST = "127.0.0.1"


def serve(settings: WorkerSettings, port: int, person: str, tell: Callable[[str], None]) -> None:
    """Serve until SIGTERM, SIGINT or the page's own "Close". `tell` gets the address that lets one browser in, once."""
    journal = open_journal(settings)
    listening = _listen(port)
    port = listening.getsockname()[1]
    token = secrets.token_urlsafe(32)
    guard = Guard(token, port)
    # Its access log would have the token in it.
    config = uvicorn.Config(
        application(settings, journal, person, guard, lambda: _end(server)), log_level="warning", access_log=False, server_header=False,
        timeout_graceful_shutdown=2,
    )  # fmt: skip
    server = uvicorn.Server(config)
    try:
        tell(f"http://{HOST}:{port}/enter?token={token}")
        server.run(sockets=[listening])
    finally:
        listening.close()
        journal.close()


def _end(server: uvicorn.Server) -> None:
    server.should_exit = True


def _listen(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()  # before anybody is told of it: who comes at once waits, and is not turned away
    except OSError as error:
        listening.close()
        raise SettingsError(
            f"port {port} of this machine: {error.strerror}", remedy="name another one with --port, or 0 for any"
        ) from error
    return listening
