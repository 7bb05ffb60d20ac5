"""`fem status`, `logs`, `files`, `download`, `cancel`: from records and store, without Prefect."""

from __future__ import annotations

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
    for command in (status, logs, files, download, cancel):
        app.command()(command)


def _find(execution: str, node: str | None = None) -> tuple[Centre, list[Submission]]:
    from uuid import UUID

    from federation.request import BadRequest
    from flows import connection

    centre = connection.centre()
    submissions = centre.submissions(UUID(centre.records.find_execution(execution).id))
    wanted = [submission for submission in submissions if node in (None, submission.node)]
    if not wanted:
        nodes = ", ".join(submission.node for submission in submissions)
        raise BadRequest(f"execution {execution} has no run at node {node!r}", remedy=f"it has runs at {nodes}")
    return centre, wanted


def _json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, default=str))


def status(
    execution: Annotated[str | None, typer.Argument(help="One execution; without it, the latest ones.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many.")] = 20,
    json: Json = False,
) -> None:
    """How executions stand."""
    from rich.console import Console
    from rich.table import Column, Table

    from flows import connection

    if execution is None:
        rows = connection.centre().records.executions(limit=limit)
        if json:
            _json(
                [
                    {
                        "execution": row.id,
                        "state": row.state,
                        "user": row.user,
                        "project": row.project,
                        "tool": row.tool,
                        "created": row.created,
                    }
                    for row in rows
                ]
            )
            return
        table = Table(
            Column("execution", no_wrap=True), "state", Column("created (UTC)", no_wrap=True), "user", "for", box=None, pad_edge=False
        )
        for row in rows:
            table.add_row(row.id, row.state, f"{row.created:%m-%d %H:%M:%S}", row.user, row.tool or row.project)
        Console(markup=False, highlight=False).print(table if rows else "no executions yet")
        return
    centre, submissions = _find(execution)
    attempts = [(submission, centre.attempt(submission.run, submission.attempt)) for submission in submissions]
    if json:
        _json([
            {"run": each.run, "node": each.node, "task": each.task, "attempt": each.attempt, "state": now.state, "reason": now.reason_message}
            for each, now in attempts
        ])  # fmt: skip
        return
    table = Table("node", "task", "attempt", "state", "why", box=None, pad_edge=False)
    for each, now in attempts:
        table.add_row(each.node, each.task, str(each.attempt), now.state, now.reason_message or "")
    Console(markup=False, highlight=False).print(f"execution {submissions[0].execution}", table)


def logs(
    execution: Execution,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    node: Node = None,
    json: Json = False,
) -> None:
    """The log lines that came; the whole log is among the files."""
    import asyncio

    from federation import waiting

    centre, submissions = _find(execution, node)

    def show(at: Any, of: str, line: str) -> None:
        import json as encoder

        typer.echo(
            encoder.dumps({"node": of, "at": at, "line": line}, default=str) if json else f"{of} | {line}" if len(submissions) > 1 else line
        )

    async def one(submission: Submission) -> None:
        import os

        async for event in waiting.events(centre, submission, follower=f"log-{os.getpid()}"):
            for line in event.lines:
                show(event.at, event.node, line)

    async def all_of_them() -> None:
        await asyncio.gather(*(one(submission) for submission in submissions))

    if follow:
        asyncio.run(all_of_them())
        return
    for submission in submissions:
        for event in centre.records.events_of(str(submission.run), submission.attempt):
            for line in event.lines:
                show(event.at, event.node, line)


def _results(execution: str, node: str | None) -> tuple[Centre, list[TaskResult]]:
    from federation.results import FilesDeleted, describe

    centre, submissions = _find(execution, node)
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
        _json([{"node": result.node, **file.model_dump()} for result in results for file in result.files])
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
        _json(done)
    else:
        typer.echo("\n".join(done) if done else "no files")


def cancel(
    execution: Execution,
    why: Annotated[str, typer.Option(help="For the record.")] = "cancelled by hand",
    wait: Annotated[float, typer.Option(help="Seconds to wait for the nodes' confirmation.")] = 30.0,
    json: Json = False,
) -> None:
    """End an execution at all its nodes; each confirms."""
    import asyncio

    from fdn_worker.errors import SystemFault
    from federation import waiting

    centre, submissions = _find(execution)

    async def ended(submission: Submission) -> None:
        async for _ in waiting.events(centre, submission, follower="cancel"):
            pass

    async def confirm() -> None:
        async with asyncio.timeout(wait):
            await asyncio.gather(*(ended(submission) for submission in submissions if submission.run in asked))

    asked = set(centre.cancel(submissions[0].execution, why))
    try:
        asyncio.run(confirm())
    except TimeoutError as error:
        raise SystemFault("not every node has confirmed yet", remedy="they will when they are back; see `fem status`") from error
    states = {submission.node: centre.attempt(submission.run, submission.attempt).state for submission in submissions}
    if json:
        _json(states)
    else:
        typer.echo("\n".join(f"{node}: {state}" for node, state in states.items()))
