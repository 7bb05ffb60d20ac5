"""One execution: how it stands, its runs over time, what they say, what they left; cancel, retry, and the way to its flow run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from nicegui import ui

from fdn_worker.protocol import State, now
from federation.gateway.access import Action, Caller, decide
from federation.gateway.pages import outputs, shared
from federation.gateway.pages.frame import Visit, note
from federation.gateway.pages.gantt import Bar, Part, gantt
from federation.gateway.services import Services
from storage.listing import heads, lines_after, story
from storage.records import OPEN, AttemptRow, ExecutionRow, RunRow

#: Seconds between two looks; events of a run that the log begins with; lines that it holds, and events that one look brings.
EVERY, TAIL, LINES, AT_ONCE = 2.0, 200, 3000, 500
COLUMNS = ("node", "task", "state", "attempt", "why")
#: Rows of the table of runs.
MOST = 1000


@dataclass(frozen=True)
class Seen:
    """An execution and its runs at one moment."""

    row: ExecutionRow
    runs: tuple[tuple[str, str, str, int, str], ...]
    bars: tuple[Bar, ...]
    link: str | None

    @property
    def states(self) -> tuple[tuple[str, int], ...]:
        """By which the outputs are asked for again."""
        return tuple((run[2], run[3]) for run in self.runs)


async def one(visit: Visit) -> None:
    """The page."""
    id_ = visit.request.path_params["execution"]
    head, buttons = shared.Part(ui.column().classes("full-width fem-body")), shared.Part(ui.row().classes("items-center"))
    shared.heading("Timeline")
    chart = gantt()
    table = shared.table("Runs", COLUMNS, [], links={"node": "to"}, rows_at_most=MOST)
    shared.heading("Log")
    log = ui.log(max_lines=LINES).classes("fem-log").props('role="log" aria-label="Log lines as they come" tabindex="0"')
    shared.file("All log lines as a text", f"/executions/{id_}/log")
    shared.heading("Outputs")
    files = ui.column().classes("full-width fem-body")
    before: tuple[tuple[str, int], ...] | None = None

    async def show(seen: Seen) -> None:
        nonlocal before
        visit.named(seen.row.tool or "Single task")
        head.show(seen.row, lambda: _facts(seen))
        buttons.show((seen.row.state, seen.link), lambda: _buttons(visit, seen))
        chart.show(seen.bars)
        table.rows = shared.marked(
            [
                dict(zip(("id", *COLUMNS), (f"{run[1]} {run[0]}", *run), strict=True)) | {"to": shared.at(f"/nodes/{run[0]}")}
                for run in seen.runs
            ]
        )
        if seen.states != before:
            before = seen.states
            await outputs.show(visit, files, seen.row)

    await visit.live(EVERY, lambda services, who: look(services, who, id_), show)
    heard: dict[tuple[str, int], int] = {}

    async def follow() -> None:
        lines = await visit.act(said, id_, heard)
        for line in lines or ():
            log.push(line)

    await follow()
    visit.timers.append((EVERY, follow))


def look(services: Services, who: Caller, id_: str) -> Seen:
    """How it stands."""
    row = services.gate.execution(who, Action.EXECUTIONS_READ, id_)
    records = services.centre.records
    current = {run.id: attempt for run, attempt in records.current_attempts(row.id)}
    runs = records.runs_of(row.id)
    steps: dict[str, list[tuple[State, datetime]]] = {}
    for step in story(records.database, row.id):
        steps.setdefault(step.run, []).append((step.state, step.at))
    bars = tuple(_bar(row, run, current[run.id], steps.get(run.id, [])) for run in runs if run.id in current)
    told = tuple((run.node, run.task, str(run.state), run.attempt, _why(current.get(run.id))) for run in runs)
    return Seen(row, told, bars, services.submitter.page(row))


def _why(attempt: AttemptRow | None) -> str:
    return attempt.reason.message if attempt and attempt.reason else ""


def _bar(row: ExecutionRow, run: RunRow, attempt: AttemptRow, steps: list[tuple[State, datetime]]) -> Bar:
    """From the moment that the execution was submitted; where two clocks differ nothing is shorter than nothing."""
    ends = attempt.state_at if State(attempt.state).terminal else now()
    times = [
        (State.QUEUED, attempt.issued),
        *(step for step in steps if not step[0].terminal),
        (State(run.state), max(ends, attempt.issued)),
    ]
    parts = tuple(Part(str(state), max(0.0, round((after - at).total_seconds(), 1))) for (state, at), (_, after) in pairwise(times))
    return Bar(run.node, run.task, str(run.state), max(0.0, round((attempt.issued - row.created).total_seconds(), 1)), parts)


def said(services: Services, who: Caller, id_: str, heard: dict[tuple[str, int], int]) -> list[str]:
    """The lines that came since; `heard` is brought up to them. Of a long log the end alone."""
    row = services.gate.execution(who, Action.EXECUTIONS_LOGS, id_)
    database = services.centre.records.database
    found = []
    standing = heads(database, row.id)
    several = len({head.task for head in standing}) > 1
    for head in standing:
        key = (head.run, head.attempt)
        begin = heard.setdefault(key, max(0, head.last - TAIL))
        if head.last > begin:
            for event in lines_after(database, head.run, head.attempt, begin, AT_ONCE):
                heard[key] = event.number
                where = f"{head.node} {head.task}" if several else head.node
                found += [(event.at, f"{where} | {line}" if len(standing) > 1 else line) for line in event.lines]
    return [line for _, line in sorted(found, key=lambda pair: pair[0])]


def _facts(seen: Seen) -> None:
    row = seen.row
    shared.state(row.state)
    if row.outcome and row.state != "SUCCEEDED":
        note("info", row.outcome)
    shared.facts(
        {
            "Execution": row.id, "User": row.user, "Project": row.project, "Begun": shared.moment(row.created),
            "Ended": shared.moment(row.closed), "Suspended since": shared.moment(row.suspended), "Files deleted": shared.moment(row.cleaned),
        }
    )  # fmt: skip


def _buttons(visit: Visit, seen: Seen) -> None:
    row = seen.row
    live = row.state == OPEN

    async def cancel() -> None:
        if await shared.confirmed("End it at all its nodes?", "End it", "Let it go on") and await visit.act(cancelled, row.id):
            ui.notify("The nodes are asked to end it.")

    async def retry() -> None:
        if await visit.act(again, row.id):
            ui.notify("What ended badly is done again.")

    if live and decide(visit.who, Action.EXECUTIONS_CANCEL, row):
        ui.button("Cancel", icon="stop_circle", on_click=cancel).props("no-caps outline")
    if not live and row.state != "SUCCEEDED" and row.document and decide(visit.who, Action.EXECUTIONS_RETRY, row):
        ui.button("Retry", icon="replay", on_click=retry).props("no-caps outline")
    if row.document and decide(visit.who, Action.EXECUTIONS_SUBMIT):
        ui.link("Run this tool anew", f"/tools/{row.tool}?like={row.id}")
    if seen.link:
        ui.link("Flow run in Prefect", seen.link, new_tab=True)


def cancelled(services: Services, who: Caller, id_: str) -> bool:
    """Ask for its end; what has ended stays as it is."""
    row = services.gate.execution(who, Action.EXECUTIONS_CANCEL, id_)
    if row.state == OPEN:
        services.submitter.cancel(row, f"cancelled by {who.name}")
    return True


def again(services: Services, who: Caller, id_: str) -> bool:
    """Have done again what ended badly."""
    services.submitter.retry(services.gate.execution(who, Action.EXECUTIONS_RETRY, id_))
    return True
