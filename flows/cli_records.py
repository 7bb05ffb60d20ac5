"""`fem files`, `download`: what executions left; from records and store, without Prefect."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from federation.centre import Centre, Submission
    from federation.results import TaskResult

Execution = Annotated[str, typer.Argument(help="Its id, or as much of it as is unique.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
Node = Annotated[str | None, typer.Option("--node", "-n", help="Of this node alone.")]
Nodes = Annotated[list[str] | None, typer.Option("--node", "-n", help="Of this node alone; may be given again.")]


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
    archive: Annotated[Path | None, typer.Option("--archive", "-a", help="One archive instead: FILE.zip or FILE.tar.")] = None,
    node: Nodes = None,
    json: Json = False,
) -> None:
    """Fetch outputs and logs, each checked by its SHA-256. What is there already is not fetched again, what was cut goes on."""
    from fdn_worker.errors import SystemFault
    from federation import download as downloads
    from federation.results import FilesDeleted
    from flows.report import human

    centre, submissions = find(execution, node or ())
    found = downloads.look(centre, submissions)
    if found.results and not found.files and all(result.cleaned for result in found.results):
        raise FilesDeleted("; ".join(found.troubles))
    with bar(found.size, "fetching", quiet=json) as told:
        if archive is not None:
            count, troubles = downloads.archive(centre, found.files, archive, told)
            paths = [archive] if count else []
        else:
            paths, troubles = downloads.fetch(centre, found.files, to, told)
            count = len(paths)
    troubles = [*found.troubles, *troubles]
    if json:
        print_json(paths)
    elif count:
        size = sum(path.stat().st_size for path in paths)
        nodes = len({result.node for result in found.results if result.files})
        plural = "s" * (count != 1), "s" * (nodes != 1)
        typer.echo(f"{count} file{plural[0]} of {nodes} node{plural[1]}, {human(size)}: {(archive or to).absolute()}")
    else:
        typer.echo("no files")
    if found.partial:
        typer.echo(found.partial, err=True)
    if troubles:
        raise SystemFault(
            f"{len(troubles)} not fetched:\n  " + "\n  ".join(troubles) + "\n",
            remedy="call again: what is there already is not fetched again",
        )


@contextmanager
def bar(total: int, what: str, *, quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; what it yields is told of each so many bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = ("{task.description}", BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda size: progress.advance(task, size)
