"""`fem report` and `fem clean`: what was used, and what old executions leave."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import pandas as pd

#: Rows of the table in a terminal; nobody reads more, and each takes a millisecond.
MOST_ROWS = 500
_DURATION = re.compile(r"(\d{1,5})\s*([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (report, clean):
        app.command()(command)


def report(
    by: Annotated[str, typer.Option("--by", "-b", help="Of user, project, tool, node, task, state; several with commas.")] = "user",
    period: Annotated[str | None, typer.Option(help="day, week or month (UTC).")] = None,
    since: Annotated[str | None, typer.Option(help="Attempts that ended from then on: 2030-01-31, or a moment with its zone.")] = None,
    until: Annotated[str | None, typer.Option(help="And before then.")] = None,
    user: Annotated[str | None, typer.Option(help="Of this user alone.")] = None,
    project: Annotated[str | None, typer.Option(help="Of this project alone.")] = None,
    tool: Annotated[str | None, typer.Option(help="Of this tool alone.")] = None,
    node: Annotated[str | None, typer.Option("--node", "-n", help="Of this node alone.")] = None,
    task: Annotated[str | None, typer.Option(help="Of this task alone.")] = None,
    state: Annotated[str | None, typer.Option(help="Of attempts that ended so.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Write it to a CSV file; - is standard output.")] = None,
    parquet: Annotated[Path | None, typer.Option(help="Write it to a Parquet file.")] = None,
    html: Annotated[Path | None, typer.Option(help="Write it to an HTML page with charts.")] = None,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """What was used, by whom, for what and where.

    Example: fem report --by project,node --period month --since 2030-01-01 --html usage.html
    """
    from flows import connection
    from storage import reports

    chosen = {"user": user, "project": project, "tool": tool, "node": node, "task": task, "state": state}
    where = {name: value for name, value in chosen.items() if value is not None}
    keys = [name.strip() for name in by.split(",") if name.strip()]
    first, end = _moment("since", since), _moment("until", until)
    frame = reports.report(connection.centre().records, keys, period=period, since=first, until=end, where=where)
    if json:
        typer.echo(frame.to_json(orient="records", date_format="iso", date_unit="s", indent=2))
    if csv == Path("-"):
        typer.echo(frame.to_csv(index=False), nl=False)
    elif csv is not None:
        _write(csv, lambda path: frame.to_csv(path, index=False))
    if parquet is not None:
        _write(parquet, lambda path: frame.to_parquet(path, index=False))
    if html is not None:
        from flows.report_page import page

        title = "Usage by " + " and ".join(filter(None, (", ".join(keys), period))) if keys or period else "Usage"
        text = page(frame, period, title, _scope(first, end, where))
        _write(html, lambda path: path.write_text(text, encoding="utf-8"))
    if not (json or csv or parquet or html):
        _show(frame, period)


def clean(
    older_than: Annotated[str, typer.Option("--older-than", help="Since an execution closed: such as 90d, 12w or 36h.")],
    project: Annotated[str | None, typer.Option(help="Of this project alone.")] = None,
    records: Annotated[
        bool, typer.Option("--records/--outputs", help="The records with their log lines, too, or the objects alone. Accounts stay.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would go, and delete nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="As JSON, an object a line.")] = False,
) -> None:
    """Delete inputs, outputs and logs of executions that closed long ago. There is no way back: try --dry-run first."""
    import json as encoder
    from dataclasses import asdict

    from fdn_worker.protocol import now
    from flows import connection
    from flows.report import human
    from storage import retention

    centre, before = connection.centre(), now() - _age(older_than)
    executions, objects, size = 0, 0, 0
    for one in retention.old(centre.records, centre.store, before, project=project, whole=records):
        if not dry_run:
            if not retention.delete_objects(centre.records, centre.store, one.id, before):
                continue
            if records:
                retention.delete_records(centre.records, one.id, before)
        executions, objects, size = executions + 1, objects + one.objects, size + one.bytes
        if json:
            typer.echo(encoder.dumps(asdict(one), default=str))
        else:
            what = f"{one.objects:,} objects" + (f", {one.events:,} events" if records else "")
            typer.echo(
                f"{one.id}  closed {one.closed:%Y-%m-%d}  {human(one.bytes):>10}  {what}  {one.user} {one.tool or one.project}".rstrip()
            )
    if not json:
        done = "would delete" if dry_run else "deleted"
        kind = "with their records " if records else ""
        typer.echo(
            f"{done} {objects:,} objects ({human(size)}) of {executions:,} executions {kind}that closed before {before:%Y-%m-%d %H:%M} UTC"
        )


def _show(frame: pd.DataFrame, period: str | None) -> None:
    from rich.console import Console

    from flows.listing import listing
    from flows.report_page import OUTCOMES, SHOWN, cells_of, names_of
    from storage.reports import FIGURES, total

    console = Console(markup=False, highlight=False)
    keys = [name for name in frame.columns if name not in FIGURES]
    shown = [name for name in SHOWN if name != "runs"]
    rows = frame.head(MOST_ROWS).to_dict("records")
    cells = [[*names_of(row, keys, period), *cells_of(row, shown)] for row in rows]
    # Where the terminal has no room for all.
    heads = [SHOWN[name][0].replace(" ", "\n") for name in shown]
    if keys and len(rows) > 1:
        cells.append(["all", *[""] * (len(keys) - 1), *cells_of(total(frame), shown)])
    # An outcome that nothing had takes no column.
    cells = [
        ["" if value == "0" and head in OUTCOMES else value for value, head in zip(row, [*keys, *heads], strict=True)] for row in cells
    ]
    table = listing(
        [*(str(period) if key == "period" else key for key in keys), *heads], cells, right=heads, spare=heads[::-1], width=console.width
    )
    console.print(table if rows else "no attempts ended in that time")
    if len(frame) > MOST_ROWS:
        typer.echo(f"the first {MOST_ROWS:,} of {len(frame):,} rows: `--csv -` gives all", err=True)


def _scope(since: datetime | None, until: datetime | None, where: Mapping[str, str]) -> str:
    from fdn_worker.protocol import now

    parts = ["Attempts that ended"]
    parts += [f"from {since:%Y-%m-%d %H:%M} on"] if since else []
    parts += ["and"] if since and until else []
    parts += [f"before {until:%Y-%m-%d %H:%M}"] if until else []
    parts += [f"by {now():%Y-%m-%d %H:%M}"] if not until else []
    scope = " ".join(parts)
    return ", ".join([scope, *(f"{name} {value}" for name, value in where.items())]) + ". Times are UTC."


def _write(path: Path, write: Callable[[Path], object]) -> None:
    from fdn_worker.errors import SettingsError

    try:
        write(path)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}", remedy="name a file that can be written") from error
    except ImportError as error:
        raise SettingsError(f"{path}: {str(error).splitlines()[0]}", remedy="install the extra `parquet`") from error
    typer.echo(f"wrote {path}", err=True)


def _moment(option: str, given: str | None) -> datetime | None:
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
        if moment.tzinfo is None and len(given) > len("2030-01-31"):
            raise ValueError("no zone")
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(f"--{option} {given!r}: write 2030-01-31, or a moment such as 2030-01-31T12:00:00+01:00") from error


def _age(given: str) -> timedelta:
    found = _DURATION.fullmatch(given.strip())
    if found is None:
        raise typer.BadParameter(f"--older-than {given!r}: write such as 90d, 12w or 36h")
    return timedelta(**{_UNITS[found[2]]: int(found[1])})
