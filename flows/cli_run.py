"""`fem run`: the flow, called in this process, with its events shown as they come."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import typer
from prefect import tags
from prefect.client.schemas.objects import State
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fdn_worker.errors import FdnError, SystemFault
from fdn_worker.protocol import TaskEvent
from federation.results import NotSucceeded, TaskResult
from flows import connection
from flows.federated_task import federated_task
from flows.report import human

COLOURS = {"SUCCEEDED": "green", "FAILED": "red", "REJECTED": "red", "LOST": "red", "CANCELLED": "yellow"}


def submit(fields: dict[str, Any], *, quiet: bool) -> TaskResult:
    """Run the flow to its end; the errors that it meets are raised as they were."""
    console = Console(stderr=True, quiet=quiet, highlight=False)
    connection.watcher = lambda event: _show(event, console)
    with console.status("starting ..."):
        state = asyncio.run(_flow_run(fields))
    outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, NotSucceeded):
        outcome = outcome.result
    if isinstance(outcome, FdnError):
        raise outcome
    if not isinstance(outcome, TaskResult):
        if state.is_cancelled() or state.is_crashed():
            typer.echo(f"fem: {state.message}", err=True)
            sys.exit(130)
        raise SystemFault(f"the flow ended {state.name}: {state.message}", remedy="see its log in the Prefect UI")
    if not quiet:
        show_result(outcome, console)
    return outcome


async def _flow_run(fields: dict[str, Any]) -> State[Any]:
    with tags("federation", f"node:{fields['node']}"):
        state: State[Any] = await federated_task(**fields, return_state=True)
    return state


def _show(event: TaskEvent, console: Console) -> None:
    for line in event.lines:
        console.print(f"[dim]{event.node} |[/] {escape(line)}", soft_wrap=True)
    if event.state is not None:
        why = f": {escape(event.reason.message)}" if event.reason else ""
        console.print(f"[bold {COLOURS.get(event.state, 'blue')}]{event.at:%H:%M:%S} {event.node} {event.state}[/]{why}", soft_wrap=True)


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
