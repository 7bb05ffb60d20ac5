"""The gateway's executions as flow runs of `execute_tool`: of a deployment where one is named, else in this process.

In this process they share one event loop in a thread of its own. They are not ended with it: the nodes go on, and the next
start takes them up.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
from prefect import tags
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.states import AwaitingRetry, Cancelling

from fdn_worker.errors import FdnError, SystemFault
from federation.centre import Centre
from federation.gateway.settings import GatewaySettings
from federation.gateway.submitting import OURS
from federation.request import BadRequest
from federation.tool_request import ToolRequest
from flows.execute_tool import execute_tool
from flows.federated_learning import federated_learning
from flows.steps import by_hand
from storage.learning_rows import SessionRow
from storage.records import OPEN, ExecutionRow

log = logging.getLogger(__name__)

#: Open executions that a start takes up.
MOST = 10_000


class PrefectUnavailable(SystemFault):
    """Prefect's server cannot be reached, or refuses us."""

    code = "prefect-unavailable"


class FlowSubmitter:
    """The gateway's Submitter. Safe from any thread."""

    def __init__(self, centre: Centre, settings: GatewaySettings) -> None:
        self._centre, self._settings = centre, settings
        self._lock = threading.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="gateway-flows", daemon=True)
        #: Execution or session -> its flow run in this process. The loop's thread alone changes it.
        self._here: dict[str, asyncio.Task[None]] = {}

    def take_up(self) -> int:
        """Go on with what an earlier process of this gateway left; how many there are."""
        if self._settings.deployment:
            return 0
        left = [row for row in self._centre.records.executions(MOST, state=OPEN) if row.key.startswith(OURS) and row.document]
        for row in left:
            self._begin(row, again=False)
        return len(left)

    def start(self, row: ExecutionRow) -> None:
        if self._settings.deployment:
            self._deployed(row)
        else:
            self._begin(row, again=False)

    def cancel(self, row: ExecutionRow, why: str) -> None:
        here = self._here.get(row.id)
        if here is not None:
            self._centre.records.audit.write("cancelled", execution=row.id, why=why)
            self._loop.call_soon_threadsafe(here.cancel)
        elif not (self._settings.deployment and row.flow_run and self._cancelled_at_prefect(row)):
            self._centre.cancel(UUID(row.id), why)

    def retry(self, row: ExecutionRow) -> None:
        if row.state == OPEN or row.id in self._here:
            raise BadRequest(f"execution {row.id} is still going on", code="still-running", remedy="cancel it, or wait for its end")
        if row.document is None:
            raise BadRequest(f"execution {row.id} is a single task's", remedy="retry its flow run in Prefect")
        if self._settings.deployment and row.flow_run:
            flow_run = UUID(row.flow_run)
            with _prefect() as client:
                client.set_flow_run_state(flow_run, AwaitingRetry(), force=True)
        else:
            self._begin(row, again=True)

    def learn(self, row: SessionRow) -> None:
        if not self._settings.deployment:
            self._hold(row.id, lambda: self._session(row))
            return
        # What has been done to it since is part of the key: each time that it is to go on it may have one more.
        key = f"session {row.id} {row.changed.isoformat()}"
        self._ordered("federated-learning", {"session": row.id}, key, ["federation", f"session:{row.id[:8]}"])

    def page(self, row: ExecutionRow | SessionRow) -> str | None:
        if not (self._settings.prefect_ui and row.flow_run):
            return None
        return f"{self._settings.prefect_ui.rstrip('/')}/runs/flow-run/{row.flow_run}"

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    # Of a deployment

    def _deployed(self, row: ExecutionRow) -> None:
        # The same execution never has two.
        run = self._ordered("execute-tool", _parameters(row), f"execution {row.id}", _tags(row))
        self._centre.records.claim_execution(row.id, run)

    def _ordered(self, flow: str, parameters: dict[str, Any], key: str, tagged: list[str]) -> str:
        """The flow run of the deployment with this key, made or found."""
        name = f"{flow}/{self._settings.deployment}"
        with _prefect() as client:
            try:
                deployment = client.read_deployment_by_name(name)
            except ObjectNotFound as error:
                raise SystemFault(
                    f"there is no deployment {name}", code="no-deployment", remedy="`fem apply`, or mend deployment"
                ) from error
            run = client.create_flow_run_from_deployment(deployment.id, parameters=parameters, idempotency_key=key, tags=tagged)
        return str(run.id)

    def _cancelled_at_prefect(self, row: ExecutionRow) -> bool:
        """Whether its flow run could be told: its hook then tells the nodes, and the reconciler closes it."""
        with _prefect() as client:
            try:
                found = client.read_flow_run(UUID(str(row.flow_run)))
            except ObjectNotFound:
                return False
            if found.state is None or found.state.is_final():
                return False
            client.set_flow_run_state(found.id, Cancelling())
        if not self._centre.records.current_attempts(row.id):
            self._centre.records.close_execution(row.id, "CANCELLED", "cancelled before anything was sent")
        return True

    # In this process

    def _begin(self, row: ExecutionRow, *, again: bool) -> None:
        self._hold(row.id, lambda: self._run(row, again))

    def _hold(self, id_: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Have the loop run it, unless it does already."""
        with self._lock:
            if not self._thread.is_alive():
                self._thread.start()
        asyncio.run_coroutine_threadsafe(self._one_task(id_, run), self._loop).result()

    async def _one_task(self, id_: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if id_ not in self._here:
            self._here[id_] = asyncio.create_task(run(), name=f"flow of {id_}")

    async def _run(self, row: ExecutionRow, again: bool) -> None:
        said, end = "its flow run ended before it did", "FAILED"
        by_hand.set(again)
        try:
            with tags(*_tags(row)):
                state: State[Any] = await execute_tool(**_parameters(row), return_state=True)
            said = state.message or said
        except asyncio.CancelledError:
            said, end = "cancelled", "CANCELLED"
        except (RuntimeError, httpx.HTTPError) as error:
            # No server of Prefect's, not even one of this process.
            log.error("execution %s: %s", row.id, error, extra={"action": "flow-failed"})
            said = f"no flow run could be started: {error}"
        await asyncio.to_thread(self._settled, row.id, end, said)
        del self._here[row.id]

    async def _session(self, row: SessionRow) -> None:
        """What went wrong with it stands in its records, or it may be gone on with again."""
        try:
            with tags("federation", f"session:{row.id[:8]}"):
                await federated_learning(session=row.id, return_state=True)
        except (RuntimeError, httpx.HTTPError) as error:
            log.error("session %s: %s", row.id, error, extra={"action": "flow-failed"})
        del self._here[row.id]

    def _settled(self, execution: str, end: str, said: str) -> None:
        """Nobody else will close what its flow run left open."""
        try:
            row = self._centre.records.execution(execution)
            if row is None or row.state != OPEN:
                return
            self._centre.cancel(UUID(execution), said)
            self._centre.records.close_execution(execution, end, said)
        except FdnError as error:
            log.error("execution %s stays open: %s", execution, error, extra={"action": "flow-failed"})


@contextmanager
def _prefect() -> Iterator[SyncPrefectClient]:
    try:
        with get_client(sync_client=True) as client:
            yield client
    except (httpx.HTTPError, RuntimeError) as error:
        raise PrefectUnavailable(f"Prefect's server: {error}", remedy="see PREFECT_API_URL, and whether it runs") from error


def _parameters(row: ExecutionRow) -> dict[str, Any]:
    given = ToolRequest.model_validate_json(row.request).model_dump(mode="json", exclude_none=True)
    return given | {"quorum": str(given["quorum"]), "idempotency_key": row.key}


def _tags(row: ExecutionRow) -> list[str]:
    return ["federation", f"tool:{row.tool}"]
