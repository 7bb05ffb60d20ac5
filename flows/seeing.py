"""What Prefect is told of an execution: artifacts for its pages, and events that automations can react to.

The number of calls depends on how long an execution takes, never on its nodes. What Prefect does not take is logged,
and the execution goes on: Prefect is the view.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

import httpx
from prefect import get_client, get_run_logger
from prefect.artifacts import Artifact, ImageArtifact, LinkArtifact, MarkdownArtifact, ProgressArtifact, TableArtifact
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.events import emit_event
from prefect.exceptions import PrefectException

from fdn_worker.protocol import Reason, State, TaskEvent, now
from fdn_worker.protocol.names import NAMESPACE
from federation.centre import Centre
from federation.execution import ExecutionResult, Job
from federation.gateway.settings import load_settings
from federation.results import TaskResult, links
from flows.report import execution_markdown, human
from flows.timeline import data_url, timeline

#: Runs up to which an execution tells all their states as events; of more, the ends alone.
ALL_STATES = 100
#: Seconds between two updates of the progress bar, and between two of the table once the first minute is over.
PROGRESS_EVERY, TABLE_EVERY, TABLE_AFTER = 2.0, 15.0, 60.0
#: Files that the report links to, and nodes that an event names.
LINKED, NAMED = 200, 100


def labels(execution: UUID, *, tool: str, user: str, project: str) -> dict[str, str]:
    """What stands with every event of an execution."""
    return {"execution": str(execution), "tool": tool, "user": user, "project": project}


def tell_run(
    of: Mapping[str, str], task: str, node: str, run: UUID, attempt: int, state: State, at: datetime, reason: Reason | None = None
) -> None:
    """Emit `fem.run.<state>`. Telling it again tells nothing new: the event's id follows from what it says."""
    emit_event(
        f"fem.run.{state.lower()}",
        resource={"prefect.resource.id": f"fem.run.{run}", "prefect.resource.name": f"{task} at {node}", "node": node, "task": task, **of},
        payload={"attempt": attempt, "at": at.isoformat(), "reason": reason.model_dump(mode="json") if reason else None},
        id=uuid5(NAMESPACE, f"{run}.{attempt}.{state}"),
    )


def tell_event(of: Mapping[str, str], event: TaskEvent) -> None:
    """The same of what a node said, if it said a state."""
    if event.state is not None:
        tell_run(of, event.task, event.node, event.run, event.attempt, event.state, event.at, event.reason)


def tell_execution(of: Mapping[str, str], state: str, message: str, results: Sequence[TaskResult]) -> None:
    """Emit `fem.execution.<state>`, which names the nodes that did not succeed."""
    bad = sorted({result.node for result in results if result.state is not State.SUCCEEDED})
    emit_event(
        f"fem.execution.{state.lower()}",
        resource={"prefect.resource.id": f"fem.execution.{of['execution']}", "prefect.resource.name": of["tool"] or of["execution"], **of},
        payload={"message": message, "runs": len(results), "not_succeeded": bad[:NAMED]},
    )


class Seeing:
    """Shows one execution while it is entered; `heard` is quick and calls nobody. `close` tells the end."""

    def __init__(self, centre: Centre, job: Job) -> None:
        self._centre, self._job, self._begun = centre, job, now()
        self._labels = labels(job.execution, tool=job.tool.name, user=job.asked.user, project=job.asked.project)
        self._runs = sum(len(role.nodes) for role in job.roles)
        #: Where the gateway's pages are, if there are some.
        self._pages = load_settings().public_url
        self._ends: set[tuple[UUID, int]] = set()
        self._changed, self._ended = asyncio.Event(), asyncio.Event()
        self._outcome: ExecutionResult | None = None

    async def __aenter__(self) -> Seeing:
        self._showing = asyncio.create_task(self._show())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._showing.cancel()
        await asyncio.gather(self._showing, return_exceptions=True)

    def heard(self, event: TaskEvent) -> None:
        """A node said something."""
        if event.state is None:
            return
        self._changed.set()
        if event.state.terminal:
            self._ends.add((event.run, event.attempt))
        if event.state.terminal or self._runs <= ALL_STATES:
            tell_event(self._labels, event)

    async def close(self, outcome: ExecutionResult) -> None:
        """It has ended: tell the ends that no node told, and leave what is to be looked at afterwards."""
        for result in outcome.runs:
            if result.state.terminal and (result.run, result.attempt) not in self._ends:
                tell_run(self._labels, result.task, result.node, result.run, result.attempt, result.state, now(), result.reason)
        tell_execution(self._labels, outcome.state, outcome.message, outcome.runs)
        self._outcome = outcome
        self._ended.set()
        self._changed.set()
        await self._showing

    async def _show(self) -> None:
        logger = get_run_logger()
        try:
            async with get_client() as client:
                await self._show_with(client)
        except (httpx.HTTPError, PrefectException) as error:
            logger.warning("what Prefect shows of this execution stays behind: %s", error)

    async def _show_with(self, client: PrefectClient) -> None:
        """A bar from the start, a table too if it takes long, and all of it at the end."""
        loop, bar, table, shown = asyncio.get_running_loop(), await put(client, self._bar()), None, 0.0
        due = loop.time() + TABLE_AFTER
        if self._pages:
            page = f"{self._pages.rstrip('/')}/ui/executions/{self._job.execution}"
            await put(
                client, LinkArtifact(key=f"page-{self._job.execution}", link=page, link_text="This execution in the federation's pages")
            )
        while self._outcome is None:
            await self._changed.wait()
            self._changed.clear()
            if (percent := self._percent()) - shown >= 1.0:
                await put(client, self._bar(), bar)
                shown = percent
            if loop.time() >= due:
                table, due = await put(client, self._table(self._standing()), table), loop.time() + TABLE_EVERY
            try:
                await asyncio.wait_for(self._ended.wait(), PROGRESS_EVERY)
            except TimeoutError:
                continue
        outcome, key = self._outcome, self._job.execution
        address = await asyncio.to_thread(self._links, outcome.runs)
        picture = data_url(await asyncio.to_thread(timeline, outcome.runs, self._begun))
        report = execution_markdown(outcome, address)
        await asyncio.gather(
            put(client, self._bar(), bar),
            put(client, self._table([_row(result) for result in outcome.runs]), table),
            put(client, ImageArtifact(key=f"timeline-{key}", description="Stages of each run", image_url=picture)),
            put(client, MarkdownArtifact(key=f"execution-{key}", description=outcome.explain(), markdown=report)),
        )

    def _bar(self) -> ProgressArtifact:
        states = list(self._job.states.values())
        told = ", ".join(f"{states.count(state)} {state}" for state in State if state in states)
        return ProgressArtifact(key=f"progress-{self._job.execution}", description=told or None, progress=self._percent())

    def _table(self, rows: list[dict[str, Any]]) -> TableArtifact:
        return TableArtifact(key=f"nodes-{self._job.execution}", description=f"Nodes of {self._job.tool.name}", table=rows)

    def _percent(self) -> float:
        return 100.0 * sum(state.terminal for state in self._job.states.values()) / max(1, self._runs)

    def _standing(self) -> list[dict[str, Any]]:
        return [{"node": node, "task": task, "state": str(state)} for (task, node), state in sorted(self._job.states.items())]

    def _links(self, results: Sequence[TaskResult]) -> dict[str, str]:
        """Key of an output in the store -> a URL that gives it, for as many as the report links to."""
        found: dict[str, str] = {}
        for result in results:
            if len(found) >= LINKED:
                break
            urls = links(self._centre, result)
            found |= {file.key: urls[file.path] for file in result.outputs}
        return found


async def put(client: PrefectClient, artifact: Artifact, known: UUID | None = None) -> UUID:
    """Make it, or change the known one in its place; its id."""
    if known is None:
        return (await artifact.acreate(client=client)).id
    await client.update_artifact(known, ArtifactUpdate(data=await artifact.aformat(), description=artifact.description))
    return known


def _row(result: TaskResult) -> dict[str, Any]:
    """A run as a row of the table."""
    usage = result.report.usage
    return {
        "node": result.node, "task": result.task, "state": str(result.state), "why": result.reason.message if result.reason else "",
        "attempt": result.attempt, "seconds": round(sum(stage.seconds for stage in result.stages), 1),
        "CPU seconds": round(usage.cpu_seconds, 1),
        "peak memory": human(usage.peak_memory), "outputs": len(result.outputs),
    }  # fmt: skip
