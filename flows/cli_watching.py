"""`fem status`, `logs`, `cancel`: how executions stand, what their tasks say, and their end; from records and broker, without Prefect."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli_records import Execution, Json, find, print_json

if TYPE_CHECKING:
    from fdn_worker.protocol import TaskEvent
    from federation.centre import Centre, Submission
    from flows.live import Board
    from storage.records import ExecutionRow

#: Rows of a table that is printed once.
ALL = 1_000_000
#: Characters of a terminal that has room for whole ids.
ROOMY = 100


def add_to(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (status, logs, cancel):
        app.command()(command)


def status(
    execution: Annotated[str | None, typer.Argument(help="One execution; without it, the latest ones.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="How many.")] = 20,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on showing it until it ends.")] = False,
    json: Json = False,
) -> None:
    """How executions stand."""
    from rich.console import Console

    from flows import connection

    console = Console(markup=False, highlight=False)
    centre = connection.centre()
    if execution is None:
        if watch:
            raise typer.BadParameter("--watch is of one execution: name it")
        _latest(centre.records.executions(limit=limit), console, json)
        return
    row = centre.records.find_execution(execution)
    if watch:
        _watch(centre, row, console)
        row = centre.records.find_execution(row.id)
    if json:
        attempts = {attempt.run: attempt for _, attempt in centre.records.current_attempts(row.id)}
        print_json([
            {"run": run.id, "node": run.node, "task": run.task, "attempt": run.attempt, "state": run.state,
             "since": attempts[run.id].state_at if run.id in attempts else None,
             "reason": attempts[run.id].reason_message if run.id in attempts else None}
            for run in centre.records.runs_of(row.id)
        ])  # fmt: skip
        return
    board = _recorded(centre, row)
    console.print(_title(row))
    if len(board.rows) > 1:
        console.print(board.header())
    console.print(board.table(ALL, whole=True))


def _latest(rows: Sequence[ExecutionRow], console: Any, json: bool) -> None:
    from flows.listing import listing

    if json:
        print_json([
            {"execution": row.id, "state": row.state, "outcome": row.outcome, "user": row.user, "project": row.project, "tool": row.tool,
             "created": row.created, "closed": row.closed}
            for row in rows
        ])  # fmt: skip
        return
    # As many of an id's characters as fit; commands take the first ones as well.
    characters = 36 if console.width >= ROOMY else 13
    table = listing(
        ("execution", "state", "created (UTC)", "user", "for", "outcome"),
        [
            (row.id[:characters], row.state, f"{row.created:%m-%d %H:%M:%S}", row.user, row.tool or row.project, row.outcome or "")
            for row in rows
        ],
        wrap=("for", "outcome"),
    )
    console.print(table if rows else "no executions yet")


def _title(row: ExecutionRow) -> str:
    """The execution in a line or two."""
    what = " ".join([row.tool, *([f"for {row.user}"] if row.user else []), *([f"({row.project})"] if row.project else [])]).strip()
    return f"execution {row.id}\n{what + ': ' if what else ''}{row.state}{f', {row.outcome}' if row.outcome else ''}"


def _recorded(centre: Centre, row: ExecutionRow) -> Board:
    from flows.live import Board

    board = Board((run.task, run.node) for run in centre.records.runs_of(row.id))
    for run, attempt in centre.records.current_attempts(row.id):
        shown = board.rows[run.task, run.node]
        shown.attempt = attempt.attempt
        board.put(shown, attempt.state, attempt.state_at, attempt.reason_message or "")
    return board


def _watch(centre: Centre, row: ExecutionRow, console: Any) -> None:
    """Until its end; where there is no terminal, in silence."""
    from flows.live import LiveTable

    if not console.is_terminal:
        _look_on(centre, row.id, lambda _: True, "status", lambda _: None)
        return
    runs = [(run.task, run.node) for run in centre.records.runs_of(row.id)]
    with LiveTable(console, _title(row).partition("\n")[0], runs, lines=False) as live:
        _look_on(centre, row.id, lambda _: True, "status", live.show)


def _look_on(
    centre: Centre, execution: str, wanted: Callable[[Submission], bool], follower: str, show: Callable[[TaskEvent], None]
) -> None:
    import asyncio
    import os
    from uuid import UUID

    from federation.onlooker import look_on

    async def shown() -> None:
        async for due in look_on(centre, UUID(execution), wanted, f"{follower}-{os.getpid()}"):
            for event in due:
                show(event)

    asyncio.run(shown())


def logs(
    execution: Execution,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until it ends.")] = False,
    node: Annotated[list[str] | None, typer.Option("--node", "-n", help="Of this node alone; may be given again.")] = None,
    task: Annotated[str | None, typer.Option("--task", "-t", help="Of this task alone.")] = None,
    json: Json = False,
) -> None:
    """The log lines that came, of all nodes by time; the whole log is among the files."""
    from storage.log_lines import merged

    centre, submissions = find(execution, node or (), task)
    show = _json_line if json else _shower(submissions)
    if follow:
        wanted = {one.run for one in submissions}
        _look_on(centre, str(submissions[0].execution), lambda one: one.run in wanted, "log", show)
        return
    for event in merged(centre.records.database, [(str(one.run), one.attempt) for one in submissions]):
        show(event)


def _json_line(event: TaskEvent) -> None:
    import json

    for line in event.lines:
        typer.echo(json.dumps({"node": event.node, "task": event.task, "at": event.at, "line": line}, default=str))


def _shower(submissions: Sequence[Submission]) -> Callable[[TaskEvent], None]:
    """Prints lines, after their node where there are several, each in its colour on a terminal."""
    import sys

    from flows.live import NODE_COLOURS, harmless

    names, terminal = _labels(submissions), sys.stdout.isatty()
    colours = {node: NODE_COLOURS[number % len(NODE_COLOURS)] for number, node in enumerate(sorted({one.node for one in submissions}))}

    def show(event: TaskEvent) -> None:
        before = f"{names[event.task, event.node]} | " if len(names) > 1 else ""
        for line in event.lines:
            typer.echo(typer.style(before, fg=colours[event.node]) + harmless(line) if terminal else before + line)

    return show


def _labels(submissions: Sequence[Submission]) -> dict[tuple[str, str], str]:
    """Each run's node, with its task where there are several."""
    several = len({one.task for one in submissions}) > 1
    return {(one.task, one.node): f"{one.node} {one.task}" if several else one.node for one in submissions}


def cancel(
    execution: Execution,
    why: Annotated[str, typer.Option(help="For the record.")] = "cancelled by hand",
    wait: Annotated[float, typer.Option(help="Seconds to wait for the nodes' confirmation.")] = 30.0,
    json: Json = False,
) -> None:
    """End an execution at all its nodes; each confirms."""
    import asyncio

    from fdn_worker.errors import SystemFault
    from federation.waiting import Watch

    centre, submissions = find(execution)
    asked = set(centre.cancel(submissions[0].execution, why))

    async def confirm() -> list[str]:
        """The nodes that have not confirmed."""
        async with Watch(centre, submissions[0].execution, "cancel") as watch:
            await watch.add([one for one in submissions if one.run in asked])
            await watch.look()
            try:
                async with asyncio.timeout(wait):
                    while watch.open:
                        await watch.next()
            except TimeoutError:
                pass
            return sorted({one.submission.node for one in watch.open})

    if asked and (silent := asyncio.run(confirm())):
        some = ", ".join(silent[:5]) + ", ..." * (len(silent) > 5)
        raise SystemFault(f"{len(silent)} not confirmed yet: {some}", remedy="they will when they are back; see `fem status`")
    names = _labels(submissions)
    states = {names[run.task, run.node]: str(run.state) for run in centre.records.runs_of(str(submissions[0].execution)) if run.attempt}
    if json:
        print_json(states)
    else:
        typer.echo("\n".join(f"{name}: {state}" for name, state in states.items()))
