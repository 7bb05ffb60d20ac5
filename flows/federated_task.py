"""One federated task at one node, as a Prefect flow of four tasks: stage_in, dispatch, wait, stage_out.

Prefect is the view: broker, journal, store and records hold the truth, so the flow may die at any moment and be run
again. A retry by a person gives a run that ended badly a new attempt; an automatic one only attaches again.
"""

from __future__ import annotations

import asyncio
import functools
import random
from dataclasses import replace
from datetime import datetime
from typing import Annotated, Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State as PrefectState
from prefect.runtime import flow_run as current
from prefect.states import Cancelled, Completed, Failed
from pydantic import Field

from fdn_worker.errors import Fault
from fdn_worker.protocol import State
from federation import waiting
from federation.centre import Centre, Submission
from federation.request import TaskRequest, build
from federation.results import NotSucceeded, TaskResult, links
from federation.results import stage_out as check_and_close
from flows import connection, seeing, suspending
from flows.report import markdown
from flows.steps import CONFIRM_SECONDS, PAUSE, STEP, cancel_at_nodes, give_name, plain


@task(name="stage-in", **STEP)
async def stage_in(request: TaskRequest, key: str, new_attempt: bool) -> Submission:
    """Inputs into the store, execution and order into the records. Nothing is sent."""
    flow_run = suspending.flow_run_on_record()
    return await asyncio.to_thread(connection.centre().stage_in, request, key, new_attempt=new_attempt, flow_run=flow_run)


@task(name="dispatch", **STEP)
async def dispatch(submission: Submission) -> Submission:
    """The order to the node, once."""
    sent = await asyncio.to_thread(connection.centre().dispatch, submission)
    logger = get_run_logger()
    logger.info(
        "attempt %d of run %s %s", submission.attempt, submission.run,
        f"was sent to {submission.node}" if sent else "had been sent before; taking up its wait",
    )  # fmt: skip
    return submission


@task(name="wait", **STEP)
async def wait(submission: Submission, labels: dict[str, str]) -> State:
    """The node's events until the last one; the task's log lines go into this run's log."""
    logger, state = get_run_logger(), State.QUEUED
    with suspending.in_peace():
        async for event in waiting.events(connection.centre(), submission):
            seeing.tell_event(labels, event)
            if connection.watcher is not None:
                connection.watcher(event)
            if event.lines:
                logger.info("\n".join(event.lines))
            if event.state is not None:
                state = event.state
                logger.info("%s: %s%s", event.node, event.state, f" ({event.reason.message})" if event.reason else "")
    return state


@task(name="stage-out", **STEP)
async def stage_out(submission: Submission) -> TaskResult:
    """The manifest checked against the store, the record closed, the account left as an artifact."""
    centre = connection.centre()
    result = await asyncio.to_thread(check_and_close, centre, submission)
    await acreate_markdown_artifact(markdown(result, links(centre, result)), key=f"task-{submission.run}", description=result.explain())
    return result


@flow(
    name="federated-task", on_cancellation=[cancel_at_nodes], persist_result=False, validate_parameters=True,
)  # fmt: skip
async def federated_task(
    node: str,
    argv: Annotated[list[str], Field(min_length=1)],
    image: str = "",
    image_digest: str = "",
    launcher: str = "",
    environment: dict[str, str] = {},  # noqa: B006 (never changed; Prefect's form is at its best with plain types)
    datasets: list[str] = [],  # noqa: B006
    inputs: list[str] = [],  # noqa: B006
    outputs: list[str] = [],  # noqa: B006
    cpus: Annotated[float, Field(gt=0)] = 1.0,
    memory: str = "1GiB",
    gpus: Annotated[int, Field(ge=0)] = 0,
    disk: str = "1GiB",
    network: bool = False,
    timeout: Annotated[float, Field(gt=0)] = 3600.0,
    deadline: datetime | None = None,
    repository: str = "",
    commit: str = "",
    retries: Annotated[int, Field(ge=0, le=100)] = 0,
    task: str = "main",
    user: str = "",
    project: str = "",
    tool: str = "",
    idempotency_key: str = "",
    suspend_after: Annotated[float, Field(ge=0)] = 600.0,
) -> TaskResult | PrefectState[Any]:
    """Run one container at one node.

    Returns the TaskResult of a run that SUCCEEDED, and raises NotSucceeded, which carries it, for one that did not;
    with `return_state=True` a state of Prefect's that is named after the run's own.

    Args:
        node: Id of the node.
        argv: The command, an entry a word; no shell is involved.
        image: Container image, name:tag. Needed with docker.
        image_digest: sha256:..., to insist on these bytes.
        launcher: docker or process; empty leaves it to the node.
        environment: Environment variables.
        datasets: Datasets of the node, read-only at $DATA_PATH/NAME.
        inputs: Files where the flow runs, as PATH or NAME=PATH; read-only at $INPUT_PATH.
        outputs: Patterns of files below $SANDBOX_PATH that are to come back; ** crosses folders.
        cpus: Processors.
        memory: Such as 512MiB or 2GB.
        gpus: How many.
        disk: Size of the sandbox, such as 1GiB.
        network: Ask for the network; the node decides.
        timeout: Seconds from the task's start to its end by force.
        deadline: Compute ends by this moment; empty gives the timeout and a day of waiting.
        repository: Git repository, an https:// address; read-only at $SOURCE_PATH.
        commit: Its commit, 40 hexadecimal digits.
        retries: New attempts after faults of the infrastructure.
        task: Id of the task within its execution.
        user: For whom.
        project: For what.
        tool: Name of the tool.
        idempotency_key: A second submission with it is the first one; empty takes this flow run's id.
        suspend_after: Seconds of waiting after which a deployment's run lets go of its process; 0 keeps it.
    """
    fields = plain(**locals())
    key, patience = fields.pop("idempotency_key", current.id), fields.pop("suspend_after")
    naming = asyncio.create_task(give_name(f"{tool or argv[0].rpartition('/')[2]} at {node}"))
    try:
        return await _steps(build(TaskRequest, **fields), key, patience)
    finally:
        await naming


async def _steps(request: TaskRequest, key: str, patience: float) -> PrefectState[Any]:
    """The four tasks; the middle two again for each further attempt."""
    centre = connection.centre()
    again = await asyncio.to_thread(suspending.take_up, centre, request.user, key)
    submission = await stage_in(request, key, again)
    labels = seeing.labels(submission.execution, tool=request.tool, user=request.user, project=request.project)
    seconds = suspending.patience(centre, patience)
    try:
        while True:
            await dispatch(submission)
            await suspending.until_done(functools.partial(_wait, submission, labels), centre, submission.execution, seconds)
            if submission.retries <= 0 or not await asyncio.to_thread(_another_attempt, centre, submission):
                break
            submission = replace(submission, attempt=submission.attempt + 1, retries=submission.retries - 1)
            await asyncio.sleep(random.uniform(0, PAUSE))
    except asyncio.CancelledError:
        await asyncio.shield(_cancelled(centre, submission, labels))
        raise
    result = await stage_out(submission)
    _tell_end(labels, result)
    if result.state is State.SUCCEEDED:
        return Completed(name="Succeeded", message=result.explain(), data=result)
    if result.state is State.CANCELLED:
        return Cancelled(message=result.explain())
    return Failed(name=result.state.title(), message=result.explain(), data=NotSucceeded(result))


async def _wait(submission: Submission, labels: dict[str, str]) -> None:
    # As an asyncio task of its own, whose end in peace does not hide that this one is cancelled.
    await asyncio.gather(wait(submission, labels))


def _another_attempt(centre: Centre, submission: Submission) -> bool:
    """After a fault of the infrastructure: write the next order."""
    row = centre.attempt(submission.run, submission.attempt)
    if row.reason_fault != Fault.INFRASTRUCTURE or State(row.state) not in (State.FAILED, State.LOST):
        return False
    centre.order_again(submission.run, submission.attempt + 1)
    return True


def _tell_end(labels: dict[str, str], result: TaskResult) -> None:
    name = {State.SUCCEEDED: "Succeeded", State.CANCELLED: "Cancelled"}.get(result.state, "Failed")
    seeing.tell_execution(labels, name, result.explain(), [result])


async def _cancelled(centre: Centre, submission: Submission, labels: dict[str, str]) -> None:
    """Tell the node, and wait a while for its word."""
    await asyncio.to_thread(centre.cancel, submission.execution, "the flow was cancelled")
    try:
        async with asyncio.timeout(CONFIRM_SECONDS):
            async for event in waiting.events(centre, submission, follower="cancel"):
                if event.state is not None and event.state.terminal:
                    seeing.tell_event(labels, event)
                    if connection.watcher is not None:
                        connection.watcher(event)
        _tell_end(labels, await asyncio.to_thread(check_and_close, centre, submission))
    except TimeoutError:
        get_run_logger().warning("node %s has not confirmed the cancel yet; it will be told until it does", submission.node)
