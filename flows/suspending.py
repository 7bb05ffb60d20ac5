"""Suspended waits: a flow that waits for long lets go of its process, and Prefect starts another once there is something to do.

Only a top-level run of a deployment can be started again, and only where the relay is a service does somebody write
down what the nodes say meanwhile: all others wait on. The new process begins at the flow's first line; its steps find
what stands already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar
from uuid import UUID, uuid4

import httpx
from prefect import get_client, get_run_logger
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.flow_runs import suspend_flow_run
from prefect.runtime import flow_run as current
from prefect.settings import PREFECT_API_URL

from fdn_worker.protocol import now
from fdn_worker.protocol.names import execution_id
from federation.centre import Centre
from federation.suspension import due
from flows.steps import begun_before

T = TypeVar("T")

#: The limit of the wait that is under way.
_limit: ContextVar[asyncio.Timeout | None] = ContextVar("limit", default=None)


def flow_run_on_record() -> str:
    """This flow run's id, if others can ask a server how it stands; "" with a server that lives as long as the process."""
    return current.id if PREFECT_API_URL.value() else ""


def take_up(centre: Centre, user: str, key: str) -> bool:
    """This flow run wants the execution from now on. Whether a person retries it, and runs that ended badly are to be done again."""
    again = begun_before()
    if flow_run := flow_run_on_record():
        was_suspended = centre.records.claim_execution(str(execution_id(user, key)), flow_run) is not None
        return again and not was_suspended
    return again


def patience(centre: Centre, seconds: float) -> float | None:
    """Seconds after which this flow run lets go of its process; None where it keeps it."""
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    may = run is not None and run.deployment_id and not run.parent_task_run_id and centre.settings.relay == "service"
    return seconds if may and seconds > 0 else None


@contextmanager
def in_peace() -> Iterator[None]:
    """Within a step that waits: it ends as done, not as crashed, when it is cancelled because its time is over."""
    try:
        yield
    except asyncio.CancelledError:
        limit, task = _limit.get(), asyncio.current_task()
        if limit is None or not limit.expired() or task is None:
            raise
        task.uncancel()


async def until_done(steps: Callable[[], Awaitable[T]], centre: Centre, execution: UUID, seconds: float | None) -> T:
    """Take the steps, which may be taken again, to their end. When they last longer, the flow run is suspended, and this raises Pause."""
    while True:
        limit = asyncio.timeout(seconds)
        _limit.set(limit)
        try:
            async with limit:
                return await steps()
        except TimeoutError:
            if not limit.expired():
                raise
        await _suspend(centre, execution)


async def _suspend(centre: Centre, execution: UUID) -> None:
    """Suspend this flow run, unless there is something to do at once; then, or if it cannot be, return.

    An answer may come at any moment. Once the mark stands, the relay announces it; what it announced before Prefect
    had the state resumed nothing, so there is a look after either.
    """
    wanted, name = centre.records.wanted, str(execution)
    if not await asyncio.to_thread(wanted.suspend, name, current.id):
        get_run_logger().info("another flow run waits for execution %s too; this one keeps its process", execution)
        return
    try:
        if not await asyncio.to_thread(_has_work, centre, name):
            # A key of its own: Prefect suspends but once for each.
            await suspend_flow_run(key=str(uuid4()))  # type: ignore[misc]
    except Pause:
        if await asyncio.to_thread(_has_work, centre, name):
            async with get_client() as client:
                await client.resume_flow_run(UUID(current.id))
        raise
    except (httpx.HTTPError, RuntimeError) as error:
        get_run_logger().warning("not suspended, this process waits on: %s", error)
    await asyncio.to_thread(wanted.wake, name)


def _has_work(centre: Centre, execution: str) -> bool:
    row = centre.records.execution(execution)
    return row is not None and bool(due(centre, row, now()))
