"""The flow execute_tool on a real Prefect server, with nodes that are simulated: policies, servers and clients, cancels, many nodes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import TaskRunFilter, TaskRunFilterFlowRunId
from prefect.client.schemas.objects import State as PrefectState
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from fdn_worker.errors import Fault, FdnError
from fdn_worker.protocol import Endpoint, Reason, State, TaskOrder, now
from federation.execution import ExecutionResult, NotCompleted
from federation.local import LocalFederation
from federation.simulated import SimulatedNodes, Step, break_down, fail, hang, succeed
from flows import connection, execute_tool
from tests.support.rig import SOON, eventually

NODES = ("n1", "n2", "n3")
#: Enrolled, and never there.
ABSENT = "absent"
ONE_TASK = """\
name: nothing
tasks:
  - id: main
    timeout: 60
    command: {base: ["true"], args: [{id: level, type: int, default: 1}]}
"""
SERVER_AND_CLIENTS = """\
name: learning
tasks:
  - id: server
    single_node: true
    ports: [{container_port: 8000}]
    ends_with_clients: ENDS
    command: {base: [serve]}
  - id: client
    command: {base: [join, "%%server_host%%:%%server_port%%"]}
"""


class Fleet:
    """Simulated nodes whose behaviour a test may change, and the flow in this process."""

    def __init__(self, simulated: SimulatedNodes, folder: Path) -> None:
        self.simulated, self._folder = simulated, folder

    def behaves(self, behave: Callable[[TaskOrder], Sequence[Step]]) -> None:
        self.simulated.behave = behave
        self.simulated.orders.clear()

    def tool(self, text: str) -> str:
        file = self._folder / "tool.yaml"
        file.write_text(text)
        return str(file)

    async def call(self, **fields: Any) -> PrefectState[Any]:
        tool = fields.pop("tool", None) or self.tool(ONE_TASK)
        given = {"tool": tool, "nodes": list(NODES), "user": "ada"} | fields
        state: PrefectState[Any] = await execute_tool.execute_tool(**given, return_state=True)
        return state

    def run(self, **fields: Any) -> PrefectState[Any]:
        return asyncio.run(self.call(**fields))

    @property
    def ordered(self) -> list[tuple[str, int]]:
        return sorted((order.node, order.attempt) for order in self.simulated.orders)


@pytest.fixture(scope="module")
def federation_of_many(tmp_path_factory: pytest.TempPathFactory) -> LocalFederation:
    local = LocalFederation(tmp_path_factory.mktemp("fleet"), (*NODES, ABSENT, *(f"many-{number}" for number in range(200))))
    local.prepare()
    return local


@pytest.fixture(scope="module")
def simulated(federation_of_many: LocalFederation) -> Iterator[SimulatedNodes]:
    broker = federation_of_many.settings().broker_url.get_secret_value()
    with SimulatedNodes(broker, [node for node in federation_of_many.nodes if node != ABSENT]) as nodes:
        yield nodes


@pytest.fixture
def fleet(
    prefect_api: dict[str, str],
    federation_of_many: LocalFederation,
    simulated: SimulatedNodes,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> Iterator[Fleet]:
    for name, value in federation_of_many.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(execute_tool, "LINGER", 0.3)
    with temporary_settings({PREFECT_API_URL: prefect_api["PREFECT_API_URL"], PREFECT_HOME: prefect_api["PREFECT_HOME"]}):
        connection.centre().ensure_relay()
        records = connection.centre().records
        eventually("all are heard", lambda: sum(row.last_seen is not None for row in records.nodes()) == len(simulated.nodes))
        yield Fleet(simulated, tmp_path)
    connection.close()


def result_of(state: PrefectState[Any]) -> ExecutionResult:
    found = state.result(raise_on_failure=False)
    if isinstance(found, NotCompleted):
        found = found.result
    if not isinstance(found, ExecutionResult):
        raise found if isinstance(found, Exception) else AssertionError(f"{state.name}: {state.message}")
    return found


def ends(state: PrefectState[Any]) -> dict[str, State]:
    return {run.node: run.state for run in result_of(state).runs}


def at(node: str, otherwise: Callable[[TaskOrder], Sequence[Step]], **special: Callable[[TaskOrder], Sequence[Step]]) -> Any:
    """`special["then"]` at that node, `otherwise` elsewhere."""
    return lambda order: special["then"](order) if order.node == node else otherwise(order)


def test_all_nodes_succeed_with_four_prefect_tasks(fleet: Fleet) -> None:
    fleet.behaves(succeed)
    state = fleet.run(arguments={"level": 2, "n2": {"level": 7}})
    result = result_of(state)
    assert (state.name, result.state, result.message, result.partial) == ("Succeeded", "Succeeded", "3/3", False)
    assert ends(state) == dict.fromkeys(NODES, State.SUCCEEDED)
    assert {order.node: order.argv for order in fleet.simulated.orders} == {"n1": ("true", "2"), "n2": ("true", "7"), "n3": ("true", "2")}
    row = connection.centre().records.execution(str(result.execution))
    assert row is not None
    assert (row.state, row.outcome, row.tool, row.user) == ("SUCCEEDED", "3/3", "nothing", "ada")
    with get_client(sync_client=True) as client:
        wanted = ["dispatch main", "stage-in main", "stage-out main", "wait main"]
        # Prefect's server takes task runs, and then their names, from a queue of its own.
        eventually("its task runs are on record", lambda: _task_runs(client, state) == wanted)


def _task_runs(client: SyncPrefectClient, state: PrefectState[Any]) -> list[str]:
    of_flow = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    return sorted(task.name for task in client.read_task_runs(task_run_filter=of_flow))


@pytest.mark.parametrize(
    ("quorum", "name", "message"),
    [("2", "Degraded", "2/3"), ("60%", "Degraded", "2/3"), ("all", "Failed", "2/3 nodes succeeded, 3 were needed")],
)
def test_the_quorum_decides_and_partial_results_are_kept(fleet: Fleet, quorum: str, name: str, message: str) -> None:
    fleet.behaves(at("n3", succeed, then=fail))
    state = fleet.run(quorum=quorum)
    result = result_of(state)
    assert (state.name, result.state, result.message) == (name, name, message)
    assert result.partial
    assert "(partial)" in result.explain()
    assert ends(state) == {"n1": State.SUCCEEDED, "n2": State.SUCCEEDED, "n3": State.FAILED}


def test_a_fault_of_the_infrastructure_is_tried_again_and_the_users_never(fleet: Fleet) -> None:
    def behave(order: TaskOrder) -> Sequence[Step]:
        if order.node == "n1":
            return fail(order)
        return break_down(order) if order.attempt < 3 else succeed(order)

    fleet.behaves(behave)
    state = fleet.run(retries=2)
    assert ends(state) == {"n1": State.FAILED, "n2": State.SUCCEEDED, "n3": State.SUCCEEDED}, fleet.ordered
    assert fleet.ordered == [("n1", 1), *((node, attempt) for node in ("n2", "n3") for attempt in (1, 2, 3))]
    fleet.behaves(break_down)
    assert set(ends(fleet.run(retries=1)).values()) == {State.FAILED}
    assert len(fleet.ordered) == 6


def test_fail_fast_ends_the_rest_once_the_quorum_is_out_of_reach(fleet: Fleet) -> None:
    fleet.behaves(at("n1", hang, then=fail))
    state = fleet.run(fail_fast=True)
    assert state.name == "Failed"
    assert ends(state) == {"n1": State.FAILED, "n2": State.CANCELLED, "n3": State.CANCELLED}


def test_no_more_than_max_parallel_are_under_way(fleet: Fleet) -> None:
    under_way: list[int] = []

    def behave(order: TaskOrder) -> Sequence[Step]:
        under_way.append(sum(not taken[1] for taken in fleet.simulated._taken.values()))
        return succeed(order)

    fleet.behaves(behave)
    fleet.simulated._taken.clear()
    state = fleet.run(nodes=[f"many-{number}" for number in range(12)], max_parallel=3)
    assert state.name == "Succeeded"
    assert len(under_way) == 12
    assert max(under_way) <= 3


@pytest.mark.parametrize("policy", ["skip", "fail", "wait"])
def test_a_node_that_is_gone(fleet: Fleet, policy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.behaves(succeed)
    fields = {"nodes": [*NODES, ABSENT], "on_node_offline": policy, "quorum": "75%"}
    if policy == "wait":
        centre = connection.centre()
        centre.settings = centre.settings.model_copy(update={"patience": 0.2})
        fields["deadline"] = now() + timedelta(hours=1)

        def later() -> datetime:
            """By this clock the deadline passes once all others have ended."""
            [row] = centre.records.executions(limit=1)
            done = sum(run.state is State.SUCCEEDED for run in centre.records.runs_of(row.id))
            return now() + timedelta(hours=2 * (done == len(NODES)))

        monkeypatch.setattr("federation.waiting.HEARTBEAT", 0.1)
        monkeypatch.setattr("federation.waiting.now", later)
    state = fleet.run(**fields)
    if policy == "fail":
        error = state.result(raise_on_failure=False)
        assert isinstance(error, FdnError)
        assert (error.code, error.message) == ("node-offline", "not connected: absent")
        assert fleet.ordered == []
        return
    assert (state.name, result_of(state).message) == ("Degraded", "3/4")
    [lost] = [run for run in result_of(state).runs if run.node == ABSENT]
    assert lost.state is State.LOST
    assert lost.reason is not None
    assert lost.reason.code == ("offline" if policy == "skip" else "lost")


def test_the_same_key_is_the_same_execution(fleet: Fleet) -> None:
    fleet.behaves(succeed)
    first = result_of(fleet.run(idempotency_key="once"))
    ordered = fleet.ordered
    second = result_of(fleet.run(idempotency_key="once"))
    assert second.execution == first.execution
    assert second.message == "3/3"
    assert fleet.ordered == ordered
    other = fleet.run(idempotency_key="once", arguments={"level": 9}).result(raise_on_failure=False)
    assert isinstance(other, FdnError)
    assert other.code == "idempotency-conflict"


def test_two_hundred_nodes(fleet: Fleet) -> None:
    fleet.behaves(at("many-7", succeed, then=fail))
    state = fleet.run(nodes=[f"many-{number}" for number in range(200)], quorum="99%")
    assert (state.name, result_of(state).message) == ("Degraded", "199/200")
    assert len(fleet.ordered) == 200


def serving(*after: Step) -> Callable[[TaskOrder], Sequence[Step]]:
    """A server that listens, and then does what comes after."""
    listens = Endpoint(port=8000, host="127.0.0.1", published=20001)
    return lambda order: (State.ACCEPTED, State.RUNNING, listens, *after) if order.task == "server" else succeed(order)


def learn(fleet: Fleet, *, ends_with_clients: bool = False, **fields: Any) -> PrefectState[Any]:
    return fleet.run(tool=fleet.tool(SERVER_AND_CLIENTS.replace("ENDS", str(ends_with_clients).lower())), server_node="n1", **fields)


def test_clients_are_told_where_their_server_listens(fleet: Fleet) -> None:
    fleet.behaves(serving())
    state = learn(fleet, ends_with_clients=True)
    assert (state.name, result_of(state).message) == ("Succeeded", "3/3")
    tasks = [order.task for order in fleet.simulated.orders]
    assert tasks == ["server", "client", "client", "client"]
    for order in fleet.simulated.orders[1:]:
        assert order.argv == ("join", "127.0.0.1:20001")
        assert [(server.node, server.ports) for server in order.servers] == [("n1", {8000: 20001})]


def test_a_server_that_waits_though_its_clients_have_ended_is_ended_and_fails_the_job(fleet: Fleet) -> None:
    fleet.behaves(serving())
    state = learn(fleet)
    assert (state.name, result_of(state).message) == ("Failed", "the server at n1 ended CANCELLED; 3/3 nodes succeeded")


def test_a_server_that_never_opens_its_port_starts_no_client(fleet: Fleet) -> None:
    closed = Reason(code="port-not-open", fault=Fault.USER, message="port 8000 was not open after 120 s")
    fleet.behaves(lambda _: (State.ACCEPTED, State.RUNNING, closed))
    state = learn(fleet)
    assert state.name == "Failed"
    assert "the server at n1 ended FAILED" in result_of(state).message
    assert [order.task for order in fleet.simulated.orders] == ["server"]
    client = [run for run in result_of(state).runs if run.task == "client"]
    assert {run.state for run in client} == {State.CANCELLED}
    assert {run.reason.code for run in client if run.reason} == {"not-started"}


def test_a_server_that_fails_ends_its_clients(fleet: Fleet) -> None:
    broken = Reason(code="exit-code", fault=Fault.USER, message="the task ended with exit code 3")
    started = threading.Event()

    def behave(order: TaskOrder) -> Sequence[Step]:
        if order.task == "client":
            started.set()
            return hang(order)
        return _waits(started, serving(broken)(order))

    fleet.behaves(behave)
    state = learn(fleet)
    assert (state.name, "ended FAILED" in result_of(state).message) == ("Failed", True)
    assert {run.state for run in result_of(state).runs if run.task == "client"} == {State.CANCELLED}


def _waits(started: threading.Event, steps: Sequence[Step]) -> Any:
    for step in steps:
        if isinstance(step, Reason):
            assert started.wait(SOON)
        yield step


def test_a_cancel_reaches_every_node_and_each_confirms(fleet: Fleet) -> None:
    fleet.behaves(hang)

    async def cancelled() -> None:
        call = asyncio.create_task(fleet.call(idempotency_key="to-cancel"))
        while len(fleet.simulated.orders) < 3:
            await asyncio.sleep(0.02)
        call.cancel()
        await asyncio.wait([call])

    asyncio.run(cancelled())
    records = connection.centre().records
    [row] = [row for row in records.executions(limit=100) if row.key == "to-cancel"]
    assert {state for run in records.runs_of(row.id) for state in [run.state]} == {State.CANCELLED}
    assert (row.state, row.outcome) == ("CANCELLED", "cancelled; 0/3 nodes had succeeded")


@pytest.mark.parametrize(
    ("fields", "code", "message"),
    [
        ({"tool": "nothin"}, "unknown-tool", "nothin"),
        ({"nodes": ["n1", "n22"]}, "node-unknown", "node 'n22' is not enrolled (enrolled are: many-22, n2)"),
        ({"arguments": {"levle": 1}}, "bad-request", "level"),
        ({"arguments": {"level": "high"}}, "bad-request", "level"),
        ({"quorum": "4"}, "bad-request", "quorum 4 is more than the 3 nodes"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(fleet: Fleet, fields: dict[str, Any], code: str, message: str) -> None:
    fleet.behaves(succeed)
    error = fleet.run(**fields).result(raise_on_failure=False)
    assert isinstance(error, FdnError), error
    assert error.code == code
    assert message in str(error)
    assert fleet.ordered == []
