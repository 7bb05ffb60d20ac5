"""`fem files`, `download`: what executions left; from records and store, without Prefect."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from federation.centre import Centre, Submission
    from federation.results import TaskResult

Execution = Annotated[str, typer.Argument(help="Its id, or as much of it as is unique.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Node = Annotated[str | None, typer.Option("--node", "-n", help="Of this node alone.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (files, download):
        app.command()(command)


def find(execution: str, nodes: Collection[str] = (), task: str | None = None) -> tuple[Centre, list[Submission]]:
    """The runs of an execution that have an attempt: those at these nodes and of this task, or all. What is not there is named."""
    from uuid import UUID

    from federation.request import BadRequest
    from flows import connection

    centre = connection.centre()
    submissions = [one for one in centre.submissions(UUID(centre.records.find_execution(execution).id)) if one.attempt]
    if unknown := sorted(set(nodes) - {one.node for one in submissions}):
        there = ", ".join(sorted({one.node for one in submissions}))
        raise BadRequest(f"execution {execution} has no run at node {unknown[0]!r}", remedy=f"it has runs at {there}")
    if task is not None and task not in {one.task for one in submissions}:
        there = ", ".join(sorted({one.task for one in submissions}))
        raise BadRequest(f"execution {execution} has no task {task!r}", remedy=f"its tasks are {there}")
    wanted = [one for one in submissions if (not nodes or one.node in nodes) and task in (None, one.task)]
    if not wanted:
        raise BadRequest(f"nothing of execution {execution} was ordered yet", remedy="see `fem status`")
    return centre, wanted


def print_json(value: Any) -> None:
    """For other programs."""
    import json

    typer.echo(json.dumps(value, indent=2, default=str))


def _results(execution: str, node: str | None) -> tuple[Centre, list[TaskResult]]:
    from federation.results import FilesDeleted, describe

    centre, submissions = find(execution, [node] if node else ())
    results = [describe(centre, submission) for submission in submissions]
    deleted = [f"{result.node}: deleted on {result.cleaned:%Y-%m-%d} by retention" for result in results if result.cleaned]
    if deleted and not any(result.files for result in results):
        raise FilesDeleted("; ".join(deleted))
    for line in deleted:
        typer.echo(line, err=True)
    return centre, results


def files(execution: Execution, node: Node = None, json: Json = False) -> None:
    """The files that left the sites. They are checked against their manifests."""
    from rich.console import Console
    from rich.table import Table

    from flows.report import human

    _, results = _results(execution, node)
    if json:
        print_json([{"node": result.node, **file.model_dump()} for result in results for file in result.files])
        return
    table = Table("node", "file", "size", "SHA-256", box=None, pad_edge=False)
    for result in results:
        for file in result.files:
            table.add_row(result.node, file.path, human(file.size), file.sha256[:16])
    Console(markup=False, highlight=False).print(table if table.row_count else "no files")


def download(
    execution: Execution,
    to: Annotated[Path, typer.Option("--to", "-o", help="Folder; files go to NODE/outputs and NODE/logs below it.")] = Path(),
    node: Node = None,
    json: Json = False,
) -> None:
    """Fetch outputs and logs. Each is checked by its SHA-256; what is there already is not fetched again."""
    from federation.results import download as fetch

    centre, results = _results(execution, node)
    done = [str(fetch(centre, file, to / result.node)) for result in results for file in result.files]
    if json:
        print_json(done)
    else:
        typer.echo("\n".join(done) if done else "no files")
