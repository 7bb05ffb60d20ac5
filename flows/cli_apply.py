"""`fem apply`: Prefect's server made to match the files in Git."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(apply)


def apply(
    file: Annotated[Path, typer.Argument(help="What prefect.yaml cannot say.")] = Path("deployments/prefect/federation.yaml"),
    deployments: Annotated[Path, typer.Option(help="The deployments.")] = Path("prefect.yaml"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")] = False,
) -> None:
    """Make Prefect's server match prefect.yaml and federation.yaml: work pools, limits, blocks, deployments and automations.

    What an earlier apply made and the files name no more is taken away; what others made is left alone.
    """
    from flows.apply_files import DeploymentsFile, FederationFile, read

    # A wrong file is told before Prefect is even imported.
    federation, wanted = read(file, FederationFile), read(deployments, DeploymentsFile)
    import httpx
    from prefect.client.orchestration import get_client

    from fdn_worker.errors import SystemFault
    from flows.applying import apply as changes

    count = 0
    try:
        with get_client(sync_client=True) as client:
            for change in changes(client, federation, deployments.absolute(), wanted, dry_run=dry_run):
                count += 1
                typer.echo(str(change))
    except httpx.HTTPError as error:
        raise SystemFault(f"Prefect's server: {error}", remedy="see that it runs, and that PREFECT_API_URL names it") from error
    typer.echo("nothing to change" if not count else f"{count} to change" if dry_run else f"{count} changed")
