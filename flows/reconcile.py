"""The reconciler as a flow, for a schedule, and as `fem reconcile`: how Prefect's flow runs stand, told to federation.reconciling."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State
from prefect.client.schemas.responses import SetStateStatus
from prefect.states import Completed
from pydantic import Field

from federation import reconciling
from federation.centre import Centre
from federation.reconciling import GRACE, FlowRunLife, Life, Reconciled
from flows import connection
from flows.waking import emit
from storage.records import ExecutionRow


@flow(name="reconcile", persist_result=False)
async def reconcile(grace: Annotated[float, Field(ge=0)] = GRACE) -> State[Reconciled]:
    """End at the nodes what no live flow run wants, and resume suspended executions whose wake-up was lost.

    Args:
        grace: Seconds after a flow run's crash or failure in which a retry may take up what it started.
    """
    done = await asyncio.to_thread(one_pass, connection.centre(), grace)
    for execution in done.left:
        get_run_logger().warning("execution %s could not be dealt with; the next pass tries again", execution)
    return Completed(message=done.explain(), data=done)


def one_pass(centre: Centre, grace: float = GRACE) -> Reconciled:
    """One pass, with the Prefect server of this process's settings."""
    with get_client(sync_client=True) as client:

        def resume(row: ExecutionRow) -> bool:
            # By the call itself, whose answer says whether it worked; the event is for whoever listens.
            emit(row)
            return client.resume_flow_run(UUID(row.flow_run)).status is SetStateStatus.ACCEPT

        return reconciling.reconcile(centre, lambda ids: _lives(client, ids), resume, grace=grace)


def _lives(client: SyncPrefectClient, ids: Sequence[str]) -> Mapping[str, FlowRunLife]:
    wanted = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(id_) for id_ in set(ids)]))
    found = client.read_flow_runs(flow_run_filter=wanted, limit=reconciling.PAGE)
    return {str(run.id): _life(run.state) for run in found}


def _life(state: State | None) -> FlowRunLife:
    if state is None:
        return FlowRunLife(Life.LIVE, None, "new")
    if state.is_cancelled() or state.is_cancelling():
        life = Life.CANCELLED
    elif state.is_final():
        life = Life.OVER
    else:
        life = Life.SUSPENDED if state.is_paused() and state.state_details.pause_reschedule else Life.LIVE
    return FlowRunLife(life, state.timestamp, str(state.name))
