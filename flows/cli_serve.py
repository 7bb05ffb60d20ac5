"""`fem serve`: the gateway, one process."""

from __future__ import annotations

import os
import signal
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

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
    from flows.cli_tool_run import quiet_prefect

    settings = load_settings(**{name: value for name, value in {"host": host, "port": port}.items() if value is not None})
    quiet_prefect(os.environ)
    run(connection.centre(), settings)


def run(centre: Centre, settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT."""
    from federation.gateway.application import application
    from federation.gateway.serving import listening, server
    from federation.gateway.users import first_administrator
    from flows.submitting import FlowSubmitter

    submitter = FlowSubmitter(centre, settings)
    socket = listening(settings)
    app = application(centre, submitter, settings)
    if find_spec("nicegui"):
        from federation.gateway import pages

        pages.mount(app)
    else:
        typer.echo("without pages: `pip install nicegui` brings them", err=True)
    if centre.settings.embedded and (password := first_administrator(centre.records.gateway)):
        typer.echo(f"first start: sign in as administrator with the password {password}, which is shown this once", err=True)
    elif not settings.oidc_issuer and not centre.records.gateway.users():
        typer.echo("nobody can sign in yet: `fem users add NAME --role administrator`", err=True)
    centre.ensure_relay()
    submitter.take_up()
    address, port = socket.getsockname()[:2]
    typer.echo(f"serving at {settings.public_url or f'http://{address}:{port}'}", err=True)
    # Its server hands the signal on once all is answered; then the connections are still to be closed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    server(app, settings).run(sockets=[socket])
