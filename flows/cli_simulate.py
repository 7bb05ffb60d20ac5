"""`fem simulate`: federated learning simulated on this machine, without nodes, broker or Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_records import Json

if TYPE_CHECKING:
    from federation.simulation.simulator import Seen


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(simulate)


def simulate(
    file: Annotated[Path, typer.Argument(help="The configuration, with its variants.", metavar="FILE")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for the results; else the file's output_folder.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what is wrong with the file.")] = False,
    json: Json = False,
) -> None:
    """Simulate federated learning, and write what happened with a report.

    Example: fem simulate examples/simulation/digits.yaml
    """
    import json as encoder

    from rich.console import Console
    from rich.progress import Progress

    from federation.simulation import sweep
    from flows.listing import listing

    configurations = sweep.checked(file)
    if check:
        typer.echo(f"{file}: {', '.join(filter(None, configurations)) or 'one simulation'}: sound")
        return
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=json or not console.is_terminal) as progress:
        bars = {
            name: progress.add_task(name or file.stem, total=one.simulation.repetitions * one.simulation.num_rounds)
            for name, one in configurations.items()
        }

        def seen(variant: str, what: Seen) -> None:
            done = what.repetition * configurations[variant].simulation.num_rounds + what.round + 1
            progress.update(bars[variant], completed=done, description=f"{variant or file.stem} {what.metric:.3f}")

        done = sweep.run(file, configurations, output=output, watch=seen)
    rows = sweep.table(done)
    if json:
        typer.echo(encoder.dumps({"variants": rows, "files": [str(path) for path in done.files]}, indent=2))
        return
    columns = ["variant", "rounds", "metric", "loss", "time", "energy", "answered", "fairness"]
    cells = [[row[name] if isinstance(row[name], str) else f"{row[name]:.4g}" for name in columns] for row in rows]
    Console(markup=False, highlight=False).print(listing(columns, cells, right=columns[1:]))
    typer.echo(f"wrote {', '.join(str(path) for path in done.files[-4:])}", err=True)
