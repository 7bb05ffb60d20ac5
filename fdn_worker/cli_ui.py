"""`fdn-worker ui`: the site's own page, for as long as the command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

SettingsPath = Annotated[Path, typer.Option("--settings", "-s", envvar="FDN_SETTINGS", help="The node's settings file.", show_default=True)]
DEFAULT = Path("/etc/fdn-worker/fdn-worker.toml")


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(ui)


def ui(
    settings: SettingsPath = DEFAULT,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine alone; 0 takes a free one.")] = 9107,
    by: Annotated[str, typer.Option(help="Who decides, if it is not your login.")] = "",
) -> None:
    """Serve this node's page to this machine alone, until it is closed: runs, what waits for release, audit log, policy."""
    from fdn_worker.errors import SettingsError
    from fdn_worker.release.desk import login
    from fdn_worker.settings import load

    loaded = load(settings)
    try:
        from fdn_worker.ui.serving import serve
    except ModuleNotFoundError as error:
        raise SettingsError(f"the page needs the package {error.name}", remedy="pip install 'fdn-worker[ui]'") from error
    serve(loaded, port, by or login(), lambda address: typer.echo(f"open this address once, in a browser on this machine:\n{address}"))
