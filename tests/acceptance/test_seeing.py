"""What Prefect is told of an execution, on a real server: artifacts of a constant number, and events to react to."""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import Artifact
from prefect.client.schemas.objects import State as PrefectState
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from fdn_worker.errors import Fault
from fdn_worker.protocol import Reason, State, TaskOrder, now
from federation.execution import ExecutionResult, NotCompleted
from federation.local import LocalFederation
from federation.simulated import SimulatedNodes, Step, fail, succeed
from flows import connection, seeing
from flows.execute_tool import execute_tool
from flows.federated_task import federated_task
from tests.support.waiting import eventually

NODES = [f"n{number:03d}" for number in range(120)]
TOOL = "name: nothing\ntasks:\n  - id: main\n    timeout: 60\n    command: {base: ['true']}\n"


def one_fails(order: TaskOrder) -> Sequence[Step]:
    return fail(order) if order.node == NODES[0] else succeed(order)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> LocalFederation:
    local = LocalFederation(tmp_path_factory.mktemp("seeing"), tuple(NODES))
    local.prepare()
    return local


@pytest.fixture
def nodes(prefect_api: dict[str, str], fleet: LocalFederation, monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatedNodes]:
    """Simulated nodes, and flows of this process that use them and the room's server."""
    for name, value in fleet.environment().items():
        monkeypatch.setenv(name, value)
    client = {PREFECT_API_URL: prefect_api["PREFECT_API_URL"], PREFECT_HOME: prefect_api["PREFECT_HOME"]}
    with temporary_settings(client), SimulatedNodes(fleet.settings().broker_url.get_secret_value(), NODES) as simulated:
        yield simulated
    connection.close()


@pytest.fixture
def prefect(nodes: SimulatedNodes) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def call(folder: Path, count: int, **fields: Any) -> PrefectState[Any]:
    (folder / "tool.yaml").write_text(TOOL)

    async def in_loop() -> PrefectState[Any]:
        state: PrefectState[Any] = await execute_tool(
            tool=str(folder / "tool.yaml"), nodes=NODES[:count], user="ada", project="ages", return_state=True, **fields
        )
        return state

    return asyncio.run(in_loop())


def outcome_of(state: PrefectState[Any]) -> ExecutionResult:
    found = state.result(raise_on_failure=False)
    found = found.result if isinstance(found, NotCompleted) else found
    assert isinstance(found, ExecutionResult), found
    return found


def artifacts_of(prefect: SyncPrefectClient, state: PrefectState[Any]) -> dict[str, Artifact]:
    """By the first word of their keys."""
    run = state.state_details.flow_run_id
    assert run is not None
    found = prefect.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run])))
    named = {str(artifact.key).partition("-")[0]: artifact for artifact in found}
    assert len(named) == len(found), [artifact.key for artifact in found]
    return named


def events_of(prefect: SyncPrefectClient, resource: str, wanted: int) -> list[dict[str, Any]]:
    """The events about a resource, oldest first, once there are so many; Prefect writes them a moment later."""
    asked = {"filter": {"resource": {"id_prefix": [resource]}, "order": "ASC"}, "limit": 50}

    def found() -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = prefect._client.post("/events/filter", json=asked).json()["events"]
        return events if len(events) >= wanted else []

    return eventually(f"{wanted} events about {resource}", found)


def labels_of(event: dict[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in event["resource"].items()}


def test_five_artifacts_whatever_the_number_of_nodes(
    prefect: SyncPrefectClient, nodes: SimulatedNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.behave = one_fails
    monkeypatch.setenv("FEM_SERVE_PUBLIC_URL", "https://fem.example/")
    for count in (3, 120):
        state = call(tmp_path, count, quorum="50%")
        assert (state.name, state.message and state.message.partition(",")[0]) == ("Degraded", "nothing: Degraded")
        found = artifacts_of(prefect, state)
        assert {name: artifact.type for name, artifact in found.items()} == {
            "progress": "progress", "nodes": "table", "timeline": "image", "execution": "markdown", "page": "markdown",
        }  # fmt: skip
        assert f"https://fem.example/ui/executions/{outcome_of(state).execution})" in str(found["page"].data)
        assert float(str(found["progress"].data)) == 100.0
        rows = json.loads(str(found["nodes"].data))
        assert [(row["node"], row["state"]) for row in rows[:2]] == [("n000", "FAILED"), ("n001", "SUCCEEDED")]
        assert (len(rows), rows[0]["why"]) == (count, "the task ended with exit code 1")
        assert str(found["timeline"].data).startswith("data:image/svg+xml;base64,")
        assert b"n001" in base64.b64decode(str(found["timeline"].data).partition(",")[2])
        assert f"Degraded, {count - 1}/{count}" in str(found["execution"].data)


def test_an_automation_can_react(prefect: SyncPrefectClient, nodes: SimulatedNodes, tmp_path: Path) -> None:
    nodes.behave = one_fails
    state = call(tmp_path, 2)
    outcome = outcome_of(state)
    assert outcome.state == "Failed"
    [ended] = events_of(prefect, f"fem.execution.{outcome.execution}", 1)
    assert (ended["event"], ended["payload"]["not_succeeded"]) == ("fem.execution.failed", ["n000"])
    for run in outcome.runs:
        told = events_of(prefect, f"fem.run.{run.run}", 3)
        names = [event["event"] for event in told]
        assert names[0] == "fem.run.accepted"
        assert names[-1] == f"fem.run.{run.state.lower()}"
        assert labels_of(told[0]) | {
            "node": run.node, "task": "main", "execution": str(outcome.execution), "tool": "nothing", "user": "ada", "project": "ages",
        } == labels_of(told[0])  # fmt: skip
        assert f"prefect.flow-run.{state.state_details.flow_run_id}" in [one["prefect.resource.id"] for one in told[0]["related"]]
    assert told[-1]["payload"]["attempt"] == 1


def test_of_many_runs_the_ends_alone(prefect: SyncPrefectClient, nodes: SimulatedNodes, tmp_path: Path) -> None:
    nodes.behave = one_fails
    outcome = outcome_of(call(tmp_path, 120, quorum="1"))
    events_of(prefect, f"fem.execution.{outcome.execution}", 1)
    for run in outcome.runs[:3]:
        assert [event["event"] for event in events_of(prefect, f"fem.run.{run.run}", 1)] == [f"fem.run.{run.state.lower()}"]


def test_a_single_task_tells_the_same(prefect: SyncPrefectClient, nodes: SimulatedNodes) -> None:
    nodes.behave = succeed

    async def in_loop() -> PrefectState[Any]:
        state: PrefectState[Any] = await federated_task(node=NODES[1], argv=["true"], user="ada", return_state=True)
        return state

    result = asyncio.run(in_loop()).result()
    names = [event["event"] for event in events_of(prefect, f"fem.run.{result.run}", 5)]
    assert names == ["fem.run.accepted", "fem.run.staging_in", "fem.run.running", "fem.run.staging_out", "fem.run.succeeded"]
    [ended] = events_of(prefect, f"fem.execution.{result.execution}", 1)
    assert (ended["event"], ended["payload"]["not_succeeded"]) == ("fem.execution.succeeded", [])


def test_what_is_told_again_tells_nothing_new(prefect: SyncPrefectClient, nodes: SimulatedNodes) -> None:
    run = uuid.uuid4()
    reason = Reason(code="exit-code", fault=Fault.USER, message="why")
    of = seeing.labels(uuid.uuid4(), tool="t", user="ada", project="")
    for state in (State.RUNNING, State.FAILED, State.FAILED, State.RUNNING):
        seeing.tell_run(of, "main", "n001", run, 1, state, now(), reason if state is State.FAILED else None)
    seeing.tell_run(of, "main", "n001", run, 2, State.RUNNING, now())
    told = events_of(prefect, f"fem.run.{run}", 3)
    assert [(event["event"], event["payload"]["attempt"]) for event in told] == [
        ("fem.run.running", 1), ("fem.run.failed", 1), ("fem.run.running", 2)
    ]  # fmt: skip
    assert told[1]["payload"]["reason"] == {"code": "exit-code", "fault": "user", "message": "why"}
