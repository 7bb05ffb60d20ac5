"""`fem sync`: the federation made to match a catalogue's folder, without Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(sync)


def sync(
    folder: Annotated[Path, typer.Argument(help="A folder with tools/ and nodes/.")] = Path("deployments/catalogue"),
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the difference, and change nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="The steps as JSON.")] = False,
) -> None:
    """Make the federation match a folder: nodes enrolled or retired, tools added, changed or withdrawn.

    A wrong file stops it before anything changes. A folder without any node leaves all nodes as they are, and so with tools.
    """
    from federation.catalogue.folder import load
    from federation.sync import carry_out, differing
    from flows import connection

    catalogue = load(folder)
    for warning in catalogue.warnings:
        typer.echo(warning, err=True)
    centre = connection.centre()
    steps = differing(centre, catalogue)
    if not dry_run:
        carry_out(centre, catalogue, steps)
    if json:
        import dataclasses
        from json import dumps

        typer.echo(dumps([dataclasses.asdict(step) for step in steps], indent=1))
        return
    for step in steps:
        typer.echo(str(step))
    if (waiting := [step.name for step in steps if not step.counts]) and not dry_run:
        typer.echo(f"bundles to send: {', '.join(str(centre.settings.home / 'bundles' / name) for name in waiting)}")
    count = sum(step.counts for step in steps)
    typer.echo("nothing to change" if not count else f"{count} to change" if dry_run else f"{count} changed")
