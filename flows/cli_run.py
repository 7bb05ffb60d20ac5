"""`fem run`: the flow, called in this process, with its events shown as they come."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import typer
from prefect import tags
from prefect.client.schemas.objects import State
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fdn_worker.errors import FdnError, SystemFault
from fdn_worker.protocol import State as RunState
from fdn_worker.protocol import TaskEvent
from federation.execution import ExecutionResult, NotCompleted
from federation.plan import Plan
from federation.results import NotSucceeded, TaskResult
from federation.tool_request import ToolRequest
from flows import connection
from flows.execute_tool import execute_tool
from flows.federated_task import federated_task
from flows.live import COLOURS, MOST_ROWS, LiveTable, harmless
from flows.report import human

Result = TypeVar("Result", TaskResult, ExecutionResult)


def submit(fields: dict[str, Any], *, quiet: bool) -> TaskResult:
    """Run the flow to its end; the errors that it meets are raised as they were."""
    console = Console(stderr=True, quiet=quiet, highlight=False)
    connection.watcher = lambda event: _show(event, console)
    with console.status("starting ..."):
        state = asyncio.run(_flow_run(federated_task, fields, f"node:{fields['node']}"))
    outcome = _outcome(state, TaskResult)
    if not quiet:
        show_result(outcome, console)
    return outcome


def submit_tool(asked: ToolRequest, key: str, plan: Plan, *, quiet: bool) -> ExecutionResult:
    """The same for a tool at many nodes, as it was planned."""
    console = Console(stderr=True, quiet=quiet, highlight=False)
    given = {name: value for name, value in asked.model_dump().items() if value is not None}
    fields = given | {"nodes": list(asked.nodes), "inputs": list(asked.inputs), "quorum": str(asked.quorum), "idempotency_key": key}
    where = plan.nodes[0] if len(plan.nodes) == 1 else f"{len(plan.nodes)} nodes"
    with _watching(console, f"{plan.tool} at {where}", [(run.task, run.node) for run in plan.runs]):
        state = asyncio.run(_flow_run(execute_tool, fields, f"tool:{asked.tool}"))
    outcome = _outcome(state, ExecutionResult)
    if not quiet:
        show_execution(outcome, console)
    return outcome


@contextmanager
def _watching(console: Console, title: str, runs: Sequence[tuple[str, str]]) -> Iterator[None]:
    """Show events as they come: in a table that is kept up to date, or a line each where there is no terminal."""
    if console.is_terminal and not console.is_dumb_terminal and not console.quiet:
        whole = False
        try:
            with LiveTable(console, title, runs) as live:
                connection.watcher = live.show
                yield
                whole = True
        finally:
            if not whole:
                # Interrupted: nothing else will say how far it was.
                console.print(live.board.header())
                console.print(f"execution {live.board.execution}: fem status" if live.board.execution else "nothing was heard yet")
    else:
        several = len({task for task, _ in runs}) > 1
        connection.watcher = lambda event: _show(event, console, several)
        yield


async def _flow_run(of: Any, fields: dict[str, Any], tag: str) -> State[Any]:
    with tags("federation", tag):
        state: State[Any] = await of(**fields, return_state=True)
    return state


def _outcome(state: State[Any], kind: type[Result]) -> Result:
    """What the flow came to; its errors are raised."""
    outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, NotSucceeded | NotCompleted):
        outcome = outcome.result
    if isinstance(outcome, FdnError):
        raise outcome
    if not isinstance(outcome, kind):
        if state.is_cancelled() or state.is_crashed():
            typer.echo(f"fem: {state.message}", err=True)
            sys.exit(130)
        raise SystemFault(f"the flow ended {state.name}: {state.message}", remedy="see its log in the Prefect UI")
    return outcome


def _show(event: TaskEvent, console: Console, several: bool = False) -> None:
    """`several`: of a tool with more tasks than one, so that a node alone does not say whose state or line it is."""
    where = f"{event.node} {event.task}" if several else event.node
    for line in event.lines:
        console.print(f"[dim]{where} |[/] {escape(harmless(line))}", soft_wrap=True)
    if event.state is not None:
        why = f": {escape(harmless(event.reason.message))}" if event.reason else ""
        console.print(f"[bold {COLOURS.get(event.state, 'blue')}]{event.at:%H:%M:%S} {where} {event.state}[/]{why}", soft_wrap=True)


def show_result(result: TaskResult, console: Console) -> None:
    """The table of outputs, and what to do with them."""
    usage = result.report.usage
    if result.files:
        table = Table("output", "size", "SHA-256", box=None, pad_edge=False)
        for file in result.files:
            table.add_row(escape(file.path), human(file.size), file.sha256[:16])
        console.print(table)
    if result.report.exit_code is not None:
        console.print(f"{usage.cpu_seconds:.2f} CPU seconds, {human(usage.peak_memory)} of memory at most")
    console.print(f"execution {result.execution}")
    if result.files:
        console.print(f"fetch the files: [bold]fem download {result.execution}[/]")


def show_execution(result: ExecutionResult, console: Console) -> None:
    """How each node ended, and what to do with what it left."""
    table = Table("node", "task", "state", "outputs", "why", box=None, pad_edge=False)
    shown = (
        result.runs if len(result.runs) <= MOST_ROWS else [run for run in result.runs if run.state is not RunState.SUCCEEDED][:MOST_ROWS]
    )
    for run in shown:
        colour = COLOURS.get(run.state, "blue")
        why = escape(harmless(run.reason.message)) if run.reason else ""
        table.add_row(run.node, run.task, f"[{colour}]{run.state}[/]", str(len(run.outputs)), why)
    if shown:
        console.print(table)
    if len(shown) < len(result.runs):
        console.print(f"and {len(result.runs) - len(shown):,} more: [bold]fem status {result.execution}[/]")
    console.print(f"[bold]{result.explain()}[/]")
    console.print(f"execution {result.execution}")
    if any(run.files for run in result.runs):
        console.print(f"fetch the files: [bold]fem download {result.execution}[/]")
