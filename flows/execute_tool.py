"""A tool at many nodes, as a Prefect flow: the four steps once for each of its tasks, over all nodes at once.

Per-node state is rows of the records, never Prefect tasks. A server's task is started before its clients, which are told
where it listens; the end of one side ends the other. What came of it is a named state: Succeeded, Degraded (with its
share), Failed or Cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import State as PrefectState
from prefect.runtime import flow_run as current
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from fdn_worker.protocol import Server, State
from federation import execution, following
from federation.catalogue.arguments import Role
from federation.catalogue.find import find_tool
from federation.centre import Centre, Submission
from federation.execution import ExecutionResult, Job, NotCompleted
from federation.request import build
from federation.results import TaskResult
from federation.tool_request import ToolRequest
from flows import connection, suspending
from flows.seeing import Seeing
from flows.steps import CONFIRM_SECONDS, STEP, cancel_at_nodes, give_name, plain

#: Seconds that the one side of a server and its clients has to end once the other one has.
LINGER = 60.0


@task(name="stage-in", task_run_name="stage-in {role.task}", **STEP)
async def stage_in(job: Job, role: Role, servers: tuple[Server, ...]) -> list[Submission]:
    """Inputs into the store, and the orders of all nodes into the records. Nothing is sent."""
    return await asyncio.to_thread(execution.stage_in, connection.centre(), job, role, servers)


@task(name="dispatch", task_run_name="dispatch {role.task}", **STEP)
async def dispatch(job: Job, role: Role, submissions: Sequence[Submission]) -> int:
    """The orders to their nodes, each once; as many as may be under way at once."""
    due = following.first_of(job, submissions)
    sent = await asyncio.to_thread(connection.centre().dispatch_all, due, job.execution)
    get_run_logger().info("%s: %d orders sent, %d of %d under way", role.task, sent, len(due), len(submissions))
    return sent


@task(name="wait", task_run_name="wait {role.task}", **STEP)
async def wait(job: Job, role: Role, submissions: Sequence[Submission], seen: Seeing) -> dict[str, int]:
    """The nodes' events until the last one; the tasks' log lines go into this run's log. How many ended in which state."""
    logger = get_run_logger()
    with suspending.in_peace():
        async for event in following.follow(connection.centre(), job, role, submissions):
            seen.heard(event)
            if connection.watcher is not None:
                connection.watcher(event)
            if event.lines:
                logger.info("\n".join(f"{event.node} | {line}" for line in event.lines))
            if event.state is not None and event.state.terminal:
                logger.info("%s at %s: %s%s", event.task, event.node, event.state, f" ({event.reason.message})" if event.reason else "")
    ends = [str(job.states[role.task, node]) for node in role.nodes]
    return {end: ends.count(end) for end in sorted(set(ends))}


@task(name="stage-out", task_run_name="stage-out {role.task}", **STEP)
async def stage_out(job: Job, role: Role) -> list[TaskResult]:
    """The manifests of all nodes checked against the store."""
    return await asyncio.to_thread(execution.stage_out, connection.centre(), job, role)


@flow(name="execute-tool", on_cancellation=[cancel_at_nodes], persist_result=False, validate_parameters=True)
async def execute_tool(
    tool: Annotated[str, Field(min_length=1)],
    nodes: Annotated[list[str], Field(min_length=1)],
    server_node: str = "",
    arguments: dict[str, Any] = {},  # noqa: B006 (never changed; Prefect's form is at its best with plain types)
    inputs: list[str] = [],  # noqa: B006
    quorum: str = "all",
    on_node_offline: str = "wait",
    deadline: datetime | None = None,
    retries: Annotated[int, Field(ge=0, le=100)] = 0,
    fail_fast: bool = False,
    max_parallel: Annotated[int, Field(ge=0)] = 0,
    user: str = "",
    project: str = "",
    idempotency_key: str = "",
    suspend_after: Annotated[float, Field(ge=0)] = 600.0,
) -> ExecutionResult | PrefectState[Any]:
    """Run a tool of the catalogue at many nodes.

    Returns the ExecutionResult where enough nodes succeeded, and raises NotCompleted, which carries it, otherwise; with
    `return_state=True` a state of Prefect's named Succeeded, Degraded, Failed or Cancelled.

    Args:
        tool: Name of the tool, or the path of its YAML file where the flow runs.
        nodes: Ids of the nodes.
        server_node: Where a server's task runs; empty for a tool without one.
        arguments: Argument id to value; an entry named after a node, or server, has values for that one alone.
        inputs: Files where the flow runs, as PATH or NAME=PATH; read-only at $INPUT_PATH.
        quorum: How many nodes must succeed: all, a number, or a share such as 80%.
        on_node_offline: For a node that is gone: wait, skip or fail.
        deadline: Compute ends by this moment; empty gives each task's timeout and a day of waiting.
        retries: New attempts of a run after faults of the infrastructure.
        fail_fast: End what still runs as soon as the quorum cannot be reached.
        max_parallel: Nodes of a task that run at once; 0 is all.
        user: For whom.
        project: For what.
        idempotency_key: A second submission with it is the first one; empty takes this flow run's id.
        suspend_after: Seconds of waiting after which a deployment's run lets go of its process; 0 keeps it.
    """
    fields = plain(**locals()) | {"max_parallel": max_parallel or None}
    key, patience = fields.pop("idempotency_key", current.id), fields.pop("suspend_after")
    naming = asyncio.create_task(give_name(f"{tool} at {nodes[0] if len(nodes) == 1 else f'{len(nodes)} nodes'}"))
    try:
        return await _execute(connection.centre(), build(ToolRequest, **fields), key, patience)
    finally:
        await naming


async def _execute(centre: Centre, asked: ToolRequest, key: str, patience: float) -> PrefectState[Any]:
    tool = await asyncio.to_thread(find_tool, centre.records, asked.tool)
    again = await asyncio.to_thread(suspending.take_up, centre, asked.user, key)
    on_record = suspending.flow_run_on_record()
    job = await asyncio.to_thread(execution.open_job, centre, tool, asked, key, flow_run=on_record, again=again)
    get_run_logger().info("execution %s of %s at %d nodes", job.execution, job.tool.name, len(asked.nodes))
    async with Seeing(centre, job) as seen:
        try:
            await suspending.until_done(lambda: _run(centre, job, seen), centre, job.execution, suspending.patience(centre, patience))
        except asyncio.CancelledError:
            await asyncio.shield(_cancelled(centre, job, seen))
            raise
        results = [result for role in job.roles for result in await stage_out(job, role)]
        outcome = await asyncio.to_thread(execution.close, centre, job, results)
        await seen.close(outcome)
    if outcome.state == "Cancelled":
        return Cancelled(message=outcome.explain())
    if outcome.state == "Failed":
        return Failed(name="Failed", message=outcome.explain(), data=NotCompleted(outcome))
    return Completed(name=outcome.state, message=outcome.explain(), data=outcome)


async def _run(centre: Centre, job: Job, seen: Seeing) -> None:
    """Servers first, then their clients; the end of the one side ends the other."""
    serving = {role.task: await _start(job, role, (), seen) for role in job.servers}
    try:
        servers = await _listening(job, serving)
        if servers is None:
            for role in job.clients:
                await asyncio.to_thread(execution.never_started, centre, job, role, "its server ended before it took connections")
            return
        clients = [await _start(job, role, servers, seen) for role in job.clients]
        try:
            await _until_done(centre, job, list(serving.values()), clients)
        finally:
            await _settled(clients)
    finally:
        await _settled(list(serving.values()))
        # Taken again by this process, it does nothing anew.
        job.renewed = frozenset()


async def _start(job: Job, role: Role, servers: tuple[Server, ...], seen: Seeing) -> asyncio.Task[dict[str, int]]:
    """Stage a task in and send it; its wait, under way."""
    if role.server:
        job.listening[role.task] = asyncio.get_running_loop().create_future()
    submissions = await stage_in(job, role, servers)
    await dispatch(job, role, submissions)
    return asyncio.create_task(wait(job, role, submissions, seen))


async def _listening(job: Job, serving: dict[str, asyncio.Task[dict[str, int]]]) -> tuple[Server, ...] | None:
    """Where the servers listen, once all do; None when one ended before it did."""
    found = []
    for name, waiting in serving.items():
        if job.tool.task(name).ports:
            ready: list[asyncio.Future[Any]] = [job.listening[name], waiting]
            await asyncio.wait(ready, return_when=asyncio.FIRST_COMPLETED)
            if not job.listening[name].done():
                waiting.result()  # a fault of the wait itself is told as what it is
                return None
            found.append(job.listening[name].result())
            get_run_logger().info("%s listens at %s, ports %s", name, found[-1].host, found[-1].ports)
    return tuple(found)


async def _until_done(centre: Centre, job: Job, serving: list[asyncio.Task[Any]], clients: list[asyncio.Task[Any]]) -> None:
    if not serving:
        await asyncio.gather(*clients)
        return
    all_serving, all_clients = asyncio.gather(*serving), asyncio.gather(*clients)
    await asyncio.wait([all_serving, all_clients], return_when=asyncio.FIRST_COMPLETED)
    if all_clients.done():
        all_clients.result()
        for role in job.servers:
            patience = 0.0 if job.may_be_ended(role) else LINGER
            if not await _ends_within(all_serving, patience):
                await following.end(centre, job, "its clients have ended", role)
    else:
        all_serving.result()
        failed = any(job.states[role.task, node] is not State.SUCCEEDED for role in job.servers for node in role.nodes)
        if not await _ends_within(all_clients, 0.0 if failed else LINGER):
            for role in job.clients:
                await following.end(centre, job, "their server has ended", role)
    await asyncio.gather(all_serving, all_clients)


async def _ends_within(work: asyncio.Future[Any], seconds: float) -> bool:
    done, _ = await asyncio.wait([work], timeout=seconds)
    return bool(done)


async def _settled(waits: Sequence[asyncio.Task[Any]]) -> None:
    """Leave no wait behind when something else failed."""
    for waiting in waits:
        if not waiting.done():
            waiting.cancel()
    await asyncio.gather(*waits, return_exceptions=True)


async def _cancelled(centre: Centre, job: Job, seen: Seeing) -> None:
    """Tell the nodes, and wait a while for each one's word."""
    job.cancelled = True
    await following.end(centre, job, "the flow was cancelled")
    try:
        async with asyncio.timeout(CONFIRM_SECONDS):
            await asyncio.gather(*(_confirmed(centre, job, role, seen) for role in job.roles))
    except TimeoutError:
        get_run_logger().warning("not every node has confirmed the cancel yet; they will be told until they do")
        return
    results = [one for role in job.roles for one in await asyncio.to_thread(execution.stage_out, centre, job, role)]
    await seen.close(await asyncio.to_thread(execution.close, centre, job, results))


async def _confirmed(centre: Centre, job: Job, role: Role, seen: Seeing) -> None:
    submissions = [one for one in await asyncio.to_thread(centre.submissions, job.execution) if one.task == role.task and one.attempt]
    async for event in following.follow(centre, job, role, submissions, follower="cancel"):
        if event.state is not None and event.state.terminal:
            seen.heard(event)
            if connection.watcher is not None:
                connection.watcher(event)
