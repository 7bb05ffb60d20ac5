"""`fem models`: the trail of models of federated learning; from records and store, without Prefect."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

    from federation.learning.comparison import Difference
    from storage.learning import ModelRow

Model = Annotated[str, typer.Argument(help="Its id, or as much of it as is unique.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
models = typer.Typer(help="The models of federated learning, and where each came from.", no_args_is_help=True, add_completion=False)


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(models, name="models")


@models.command("list")
def list_models(
    session: Annotated[str, typer.Option("--session", "-s", help="Of the session whose id begins so.")] = "",
    released: Annotated[bool, typer.Option("--released", help="Those alone that are released.")] = False,
    leaf: Annotated[bool, typer.Option("--leaf", help="Those alone that no other came of.")] = False,
    limit: Annotated[int, typer.Option("--limit", help="How many, the newest.", min=1)] = 50,
    json: Json = False,
) -> None:
    """The models, the newest first."""
    from flows import connection

    learning = connection.centre().records.learning
    of = learning.find_session(session).id if session else None
    _print_rows(learning.models(of, released=released or None, leaf=leaf or None)[:limit], json=json)


@models.command()
def show(model: Model, json: Json = False) -> None:
    """A model: where it came from, how good it is, where it lies."""
    from flows import connection
    from flows.cli_records import print_json
    from flows.report import human

    learning = connection.centre().records.learning
    row = learning.find_model(model)
    session = learning.session(row.session)
    counted = learning.counted(row.session, row.round)
    if json:
        print_json(_as_json(row) | {"clients": {update.client: update.examples for update in counted}})
        return
    facts = {
        "model": row.id,
        "session": f"{row.session} ({session.name})" if session else row.session,
        "round": "0 (the seed)" if not row.round else str(row.round),
        "parent": row.parent or "none",
        "created": f"{row.created:%Y-%m-%d %H:%M:%S} UTC",
        "metrics": _metrics(row),
        "examples": f"{row.examples:,.0f}" if row.examples else "",
        "clients": ", ".join(update.client for update in counted) or (str(row.participants) if row.participants else ""),
        "file": f"{row.where_}, {human(row.size)}" + (f", deleted on {row.deleted:%Y-%m-%d}" if row.deleted else ""),
        "SHA-256": row.sha256,
        "released": f"{row.released:%Y-%m-%d %H:%M} UTC by {row.released_by}" if row.released else "",
        "note": row.note or "",
    }  # fmt: skip
    _pairs(facts)


@models.command()
def ancestors(model: Model, json: Json = False) -> None:
    """What it came of, the nearest first, across sessions."""
    from flows import connection

    learning = connection.centre().records.learning
    _print_rows(learning.ancestors(learning.find_model(model).id), json=json)


@models.command()
def descendants(model: Model, json: Json = False) -> None:
    """What came of it, the nearest first, across sessions."""
    from flows import connection

    learning = connection.centre().records.learning
    _print_rows(learning.descendants(learning.find_model(model).id), json=json)


@models.command()
def download(
    model: Model,
    to: Annotated[Path, typer.Option("--to", "-o", help="Folder; the file is MODEL.safetensors in it.")] = Path(),
) -> None:
    """Fetch a model's file, checked by its SHA-256. What is there already is not fetched again, what was cut goes on."""
    from federation.learning.trail import Trail
    from flows import connection
    from flows.cli_records import bar

    centre = connection.centre()
    row = centre.records.learning.find_model(model)
    with bar(row.size, "fetching") as told:
        path = Trail(centre).fetch(row, to / f"{row.id}.safetensors", told)
    typer.echo(path.absolute())


@models.command()
def export(
    model: Model, file: Annotated[Path, typer.Argument(help="FILE.safetensors or FILE.npz; the card is the same name with .json after it.")]
) -> None:
    """Write a model for use elsewhere, and beside it a card (JSON) that tells where it came from."""
    from federation.learning.export import export as exported
    from federation.learning.trail import Trail
    from flows import connection

    centre = connection.centre()
    card = exported(Trail(centre), centre.records.learning, centre.records.learning.find_model(model), file)
    typer.echo(f"{file.absolute()}\n{card.absolute()}")


@models.command()
def compare(first: Model, second: Model, json: Json = False) -> None:
    """How far two models are apart: each tensor, and their metrics side by side."""
    import tempfile
    from dataclasses import asdict

    from federation.learning import comparison
    from federation.learning.models import ModelFile
    from federation.learning.trail import Trail
    from flows import connection
    from flows.cli_records import print_json

    centre = connection.centre()
    rows = [centre.records.learning.find_model(model) for model in (first, second)]
    with tempfile.TemporaryDirectory(prefix="fem-compare-") as place:
        trail = Trail(centre)
        paths = [trail.fetch(row, Path(place, name)) for row, name in zip(rows, ("first", "second"), strict=True)]
        *tensors, total = comparison.compare(*(ModelFile(path, name=row.id) for path, row in zip(paths, rows, strict=True)))
    names = sorted(rows[0].metrics | rows[1].metrics)
    metrics = {name: [row.metrics.get(name) for row in rows] for name in names}
    if json:
        told = [
            asdict(one) | {"first": one.first and str(one.first), "second": one.second and str(one.second)} for one in (*tensors, total)
        ]
        print_json({"models": [row.id for row in rows], "metrics": metrics, "tensors": told[:-1], "all": told[-1]})
        return
    _print_comparison([*tensors, total], metrics)


@models.command()
def release(
    model: Model,
    note: Annotated[str, typer.Option("--note", help="What for; kept with the model.")] = "",
    by: Annotated[str | None, typer.Option("--by", help="Who decides, if it is not your login.")] = None,
    json: Json = False,
) -> None:
    """Mark a model as released: it is kept from then on, whatever the checkpoint policy, and the audit log has who did it."""
    import getpass

    from flows import connection
    from flows.cli_records import print_json

    learning = connection.centre().records.learning
    row = learning.release(learning.find_model(model).id, by or getpass.getuser(), note)
    if json:
        print_json(_as_json(row))
    else:
        typer.echo(f"model {row.id}: released {row.released:%Y-%m-%d %H:%M} UTC by {row.released_by}")


def _print_rows(rows: Sequence[ModelRow], *, json: bool) -> None:
    from flows.cli_records import print_json
    from flows.cli_watching import ROOMY
    from flows.listing import listing

    if json:
        print_json([_as_json(row) for row in rows])
        return
    console = _console()
    # As many of an id's characters as fit; commands take the first ones as well.
    characters = 36 if console.width >= ROOMY else 13
    table = listing(
        ("model", "round", "created (UTC)", "parent", "session", "clients", "metrics", ""),
        [
            (
                row.id[:characters], str(row.round), f"{row.created:%m-%d %H:%M:%S}", (row.parent or "")[:13], row.session[:13],
                str(row.participants or ""), _metrics(row), "deleted" if row.deleted else "released" if row.released else "",
            )
            for row in rows
        ],
        wrap=("metrics",), right=("round", "clients"), spare=("session", "created (UTC)", "clients"), width=console.width,
    )  # fmt: skip
    console.print(table if rows else "no models")


def _print_comparison(found: Sequence[Difference], metrics: dict[str, list[float | None]]) -> None:
    from flows.listing import listing

    console, figures = _console(), ("largest", "distance", "cosine")
    *tensors, total = found
    cells = [
        (one.name, str(one.first or "missing"), "" if one.first == one.second else str(one.second or "missing"),
         *(_number(getattr(one, figure)) for figure in figures))
        for one in tensors
    ]  # fmt: skip
    if len(tensors) > 1:
        cells.append(("all", "", "", *(_number(getattr(total, figure)) for figure in figures)))
    console.print(listing(("tensor", "first", "second", *figures), cells, wrap=("tensor",), right=figures))
    if metrics:
        console.print()
        rows = [(name, *map(_number, values)) for name, values in metrics.items()]
        console.print(listing(("metric", "first", "second"), rows, right=("first", "second")))


def _console() -> Console:
    from rich.console import Console

    return Console(markup=False, highlight=False)


def _pairs(facts: dict[str, str]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in facts.items():
        if value:
            table.add_row(name, value)
    _console().print(table)


def _as_json(row: ModelRow) -> dict[str, Any]:
    from dataclasses import asdict

    return {name.rstrip("_"): value for name, value in asdict(row).items()}


def _metrics(row: ModelRow) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in sorted(row.metrics.items()))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
