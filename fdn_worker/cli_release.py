"""What `fdn-worker release` shows, and asks."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from fdn_worker.release.desk import Waiting, preview, safe

_SAYS = {"release": "may leave by rule", "hold": "waits by rule", "deny": "stays by rule"}


def facts(one: Waiting) -> dict[str, object]:
    """As JSON."""
    order, labels = one.order, one.order.labels
    return {
        "run": str(order.run), "attempt": order.attempt, "execution": str(order.execution), "task": order.task,
        "tool": labels.tool, "user": labels.user, "project": labels.project, "datasets": list(order.datasets),
        "since": one.held.since, "until": one.held.until,
        "files": [{**verdict.model_dump(), "local": str(one.folder.listed(verdict.path))} for verdict in one.held.verdicts],
    }  # fmt: skip


def list_waiting(waiting: Sequence[Waiting]) -> None:
    """A line each."""
    from rich.console import Console
    from rich.table import Table

    table = Table("run", "attempt", "since (UTC)", "until (UTC)", "tool", "user", "project", "files", "bytes", box=None, pad_edge=False)
    for one in waiting:
        labels, size = one.order.labels, sum(verdict.size for verdict in one.held.verdicts)
        table.add_row(
            str(one.order.run)[:8], str(one.order.attempt), _moment(one.held.since), _moment(one.held.until),
            safe(labels.tool), safe(labels.user), safe(labels.project), f"{len(one.undecided)} of {len(one.held.verdicts)}", f"{size:,}",
        )  # fmt: skip
    Console(markup=False, highlight=False).print(table if waiting else "nothing waits")


def show(one: Waiting) -> None:
    """Whose it is, and each file: size, type, what the rules said, and how it begins."""
    order, labels = one.order, one.order.labels
    typer.echo(f"run {order.run}, attempt {order.attempt}, waits since {_moment(one.held.since)}, until {_moment(one.held.until)} (UTC)")
    typer.echo(safe(f"tool {labels.tool or '-'}, user {labels.user or '-'}, project {labels.project or '-'}"))
    typer.echo(f"datasets {', '.join(order.datasets) or 'none'}; the files lie in {one.folder.sandbox}")
    for verdict in one.held.verdicts:
        kind = f", {verdict.kind}" if verdict.kind else ""
        typer.echo(f"\n{safe(verdict.path)}: {verdict.size:,} bytes{kind}; {_SAYS[verdict.action]} {verdict.rule}")
        for finding in verdict.findings:
            typer.echo(f"  ! {safe(finding)}")
        if verdict.action == "hold":
            for line in preview(one.folder.listed(verdict.path)):
                typer.echo(f"  | {line}")
    typer.echo("")


def choose(one: Waiting) -> list[str]:
    """Ask for each file that waits."""
    if not sys.stdin.isatty():
        typer.echo("nothing was decided: say --yes, --file or --deny")
        return []
    chosen = [path for path in one.undecided if typer.confirm(f"let {safe(path)} leave?")]
    if not chosen:
        typer.echo("nothing was decided; --deny says that nothing leaves")
    return chosen


def _moment(text: str | None) -> str:
    return text[:16].replace("T", " ") if text else "-"
