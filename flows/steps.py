"""What the flows share: how a step is tried again, whether a flow run was begun before, its name, and the wait for confirmed cancels."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client, get_run_logger
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.objects import State as PrefectState
from prefect.runtime import flow_run as current

from fdn_worker.errors import SystemFault
from fdn_worker.protocol.names import execution_id
from flows import connection

#: Seconds that a cancelled flow waits for the nodes' confirmation.
CONFIRM_SECONDS = 15.0
#: Tries of a step that may be taken again, and the mean pause between them, in seconds.
TRIES, PAUSE = 3, 2.0

#: Set by whoever has a new flow run do again what an earlier one's execution came to: a person's retry.
by_hand: ContextVar[bool] = ContextVar("by_hand", default=False)
#: Flow runs that began in this process: what comes again here is an automatic retry.
_begun: set[str] = set()


def _may_pass(_task: Any, _run: Any, state: PrefectState[Any]) -> bool:
    """Only a fault of the infrastructure that may pass is worth another try."""
    error = state.data  # the exception itself; `result()` would be a coroutine here
    return isinstance(error, SystemFault) and error.retryable


#: Options of a Prefect task that is a step.
STEP: dict[str, Any] = {
    "cache_policy": NO_CACHE, "persist_result": False, "retries": TRIES, "retry_delay_seconds": PAUSE, "retry_jitter_factor": 1.0,
    "retry_condition_fn": _may_pass,
}  # fmt: skip


def begun_before() -> bool:
    """Whether this flow run was begun in another process: a person retries it, or it was suspended. Asked once a flow run."""
    again = current.id not in _begun and (current.run_count > 1 or by_hand.get())
    _begun.add(current.id)
    return again


async def give_name(name: str) -> None:
    """Name the flow run while its steps go on; Prefect's own `flow_run_name` holds them up by some 40 ms of its server's."""
    try:
        async with get_client() as client:
            await client.set_flow_run_name(UUID(current.id), name)
    except httpx.HTTPError as error:
        get_run_logger().warning("this run keeps its random name: %s", error)


def cancel_at_nodes(flow: Any, flow_run: FlowRun, state: PrefectState[Any]) -> None:  # noqa: ARG001 (Prefect names them)
    """The hook: whatever process of Prefect's notices a cancelled run, the nodes are told."""
    key = flow_run.parameters.get("idempotency_key") or str(flow_run.id)
    connection.centre().cancel(execution_id(flow_run.parameters.get("user") or "", key), "the flow run was cancelled")


def plain(**fields: Any) -> dict[str, Any]:
    """A flow's parameters that were given: empty ones stand for what is left out, since unions make bad forms."""
    return {name: value for name, value in fields.items() if value not in ("", None)}
