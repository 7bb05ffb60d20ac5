"""`fem serve`: the gateway, one process."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from federation.centre import Centre
    from federation.gateway.settings import GatewaySettings


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(serve)


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen at.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="And its port; 0 takes a free one.")] = None,
) -> None:
    """Serve the REST interfaces and the pages, until it is told to end."""
    from federation.gateway.settings import load_settings
    from flows import connection
    from flows.cli_tool_run import _quiet_prefect

    settings = load_settings(**{name: value for name, value in {"host": host, "port": port}.items() if value is not None})
    _quiet_prefect(os.environ)
    run(connection.centre(), settings)


def run(centre: Centre, settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    import uvicorn

    from federation.gateway.application import application
    from federation.gateway.users import first_administrator
    from flows.submitting import FlowSubmitter

    submitter = FlowSubmitter(centre, settings)
    listening = _listening(settings)
    app = application(centre, submitter, settings)
    if centre.settings.embedded and (password := first_administrator(centre.records.gateway)):
        typer.echo(f"first start: sign in as administrator with the password {password}, which is shown this once", err=True)
    centre.ensure_relay()
    submitter.take_up()
    address, port = listening.getsockname()[:2]
    typer.echo(f"serving at {settings.public_url or f'http://{address}:{port}'}", err=True)
    uvicorn.Server(uvicorn.Config(app, **_limits(settings))).run(sockets=[listening])


def _listening(settings: GatewaySettings) -> socket.socket:
    """The socket. Whoever does not take what he asked for is let go by the kernel, whatever it is that waits for him."""
    from fdn_worker.errors import SettingsError

    try:
        family = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.create_server((settings.host, settings.port), family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(f"{settings.host}:{settings.port}: {error.strerror}", remedy="choose another with --host and --port") from error
    # In milliseconds; what is accepted inherits it.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, settings.patience * 1000)
    return listening


def _limits(settings: GatewaySettings) -> dict[str, Any]:
    return {
        "proxy_headers": bool(settings.trusted_proxies), "forwarded_allow_ips": list(settings.trusted_proxies), "server_header": False,
        "limit_concurrency": settings.connections, "timeout_keep_alive": 15, "timeout_graceful_shutdown": 10, "access_log": False,
        "h11_max_incomplete_event_size": 64 * 1024, "http": "h11", "log_level": "warning",
    }  # fmt: skip
