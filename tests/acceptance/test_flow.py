"""The flow: called in Python, its traces in Prefect, retries, and what survives a SIGKILL."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    LogFilter,
    LogFilterFlowRunId,
    TaskRunFilter,
    TaskRunFilterFlowRunId,
)
from prefect.client.schemas.objects import FlowRun, State, TaskRun
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from fdn_worker.protocol import State as RunState
from federation.centre import Centre
from federation.local import LocalFederation
from federation.results import NotSucceeded
from flows import connection
from flows.federated_task import federated_task
from tests.support.waiting import SOON, eventually

from .conftest import SEED


@pytest.fixture(autouse=True)
def in_this_process(
    prefect_api: dict[str, str], federation: LocalFederation, centre: Centre, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Have flows of this process use the room's server and federation."""
    for name, value in federation.environment().items():
        monkeypatch.setenv(name, value)
    with temporary_settings({PREFECT_API_URL: prefect_api["PREFECT_API_URL"], PREFECT_HOME: prefect_api["PREFECT_HOME"]}):
        yield
    connection.close()


@pytest.fixture
def prefect(in_this_process: None) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def call(**parameters: Any) -> State[Any]:
    """Call the flow at site-a, and return its final state."""

    async def in_loop() -> State[Any]:
        state: State[Any] = await federated_task(**({"node": "site-a"} | parameters), return_state=True)
        return state

    return asyncio.run(in_loop())


def flow_run_of(prefect: SyncPrefectClient, state: State[Any]) -> FlowRun:
    assert state.state_details.flow_run_id is not None
    return prefect.read_flow_run(state.state_details.flow_run_id)


def tasks_of(prefect: SyncPrefectClient, run: UUID) -> list[str]:
    """Names of the run's task runs in order; Prefect writes them a moment later."""
    wanted = TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run]))

    def ended() -> list[TaskRun]:
        found = prefect.read_task_runs(task_run_filter=wanted)
        return found if len(found) >= 4 and all(task.state is not None and task.state.is_final() for task in found) else []

    found = eventually(f"the task runs of {run} have ended", ended)
    return [task.name.rpartition("-")[0] for task in sorted(found, key=lambda task: task.start_time or task.expected_start_time)]


def test_a_call_returns_the_result() -> None:
    result = asyncio.run(federated_task(node="site-a", argv=["/bin/sh", "-c", "echo 7 > n.txt"], outputs=["*.txt"], user="ada"))
    assert result.state is RunState.SUCCEEDED
    assert [file.path for file in result.outputs] == ["outputs/n.txt"]
    assert b"".join(connection.centre().store.get(result.outputs[0].key)) == b"7\n"


def test_a_call_raises_what_did_not_succeed() -> None:
    with pytest.raises(NotSucceeded, match=r"site-a: FAILED \(exit-code\): the task ended with exit code 3") as caught:
        asyncio.run(federated_task(node="site-a", argv=["/bin/sh", "-c", "echo said; exit 3"]))
    assert (caught.value.result.report.exit_code, caught.value.result.tail) == (3, ("said",))


def test_four_tasks_a_name_log_lines_and_an_artifact(prefect: SyncPrefectClient) -> None:
    state = call(argv=["/bin/sh", "-c", "echo one; echo two; echo 1 > out.csv"], outputs=["out.csv"])
    assert (state.name, state.is_completed()) == ("Succeeded", True)
    run = flow_run_of(prefect, state)
    assert run.name == "sh at site-a"
    assert tasks_of(prefect, run.id) == ["stage-in", "dispatch", "wait", "stage-out"]

    [artifact] = prefect.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run.id])))
    for part in ("# SUCCEEDED at site-a", "| RUNNING |", "CPU seconds", "outputs/out.csv", "one\ntwo"):
        assert part in str(artifact.data)

    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=10)
    logs = "\n".join(log.message for log in prefect.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))))
    assert "one\ntwo" in logs


@pytest.mark.parametrize(
    ("parameters", "name", "message"),
    [
        ({"argv": ["/bin/false"]}, "Failed", "exit code 1"),
        ({"argv": ["/bin/true"], "datasets": ["none"]}, "Rejected", "no dataset 'none'"),
        ({"argv": ["/bin/sleep", "30"], "timeout": 0.5}, "Failed", "longer than its timeout"),
        ({"argv": ["/bin/true"], "outputs": ["missing.csv"]}, "Failed", "no output that matches 'missing.csv'"),
        ({"argv": ["/no/such/program"]}, "Failed", "/no/such/program"),
    ],
)
def test_what_goes_wrong_is_a_named_state(parameters: dict[str, Any], name: str, message: str) -> None:
    state = call(**parameters)
    assert (state.name, state.is_failed()) == (name, True)
    assert message in str(state.message)


def test_parameters_are_checked_when_a_run_is_made() -> None:
    state = call(argv=[])
    assert state.is_failed()
    assert "argv: List should have at least 1 item" in str(state.message)


def test_bad_input_sends_nothing(centre: Centre) -> None:
    state = call(argv=["/bin/true"], memory="2GBB", user="bad")
    assert state.is_failed()
    assert "'2GBB' is no size" in str(state.result(raise_on_failure=False))
    assert centre.records.executions(user="bad") == []


def test_a_second_submission_with_the_key_is_the_first(centre: Centre) -> None:
    argv = ["/bin/sh", "-c", "echo $$ > pid.txt"]
    first, second = (call(argv=argv, outputs=["pid.txt"], user="twice", idempotency_key="k1").result() for _ in range(2))
    assert second == first
    assert len(centre.records.attempts_of(str(first.run))) == 1
    other = call(argv=["/bin/true"], user="twice", idempotency_key="k1")
    assert "k1" in str(other.result(raise_on_failure=False))


def test_an_infrastructure_fault_gets_a_new_attempt_and_a_users_does_not(centre: Centre) -> None:
    # The task ends the shim that watches it, so that its exit status is lost. The worker would wait for a shim that has not yet told of the start.
    killer = ["/bin/sh", "-c", "sleep 1; kill -9 $PPID; sleep 5"]
    lost = call(argv=killer, retries=1, user="retries", idempotency_key="lost")
    assert (lost.name, lost.is_failed()) == ("Lost", True)
    result = lost.result(raise_on_failure=False).result
    assert result.attempt == 2
    assert result.reason.fault == "infrastructure"
    failed = call(argv=["/bin/false"], retries=3, user="retries", idempotency_key="failed")
    assert failed.result(raise_on_failure=False).result.attempt == 1


def test_without_a_server_prefect_starts_its_own(environment: dict[str, str], centre: Centre, tmp_path: Any) -> None:
    (home := tmp_path / "prefect").mkdir()
    # To migrate a database of its own takes Prefect half a minute.
    shutil.copy(SEED, home / "prefect.db")
    own = {name: value for name, value in environment.items() if name != "PREFECT_API_URL"} | {"PREFECT_HOME": str(home)}
    ran = subprocess.run(
        ["fem", "run", "--node", "site-a", "--", "/bin/echo", "alone"], env=own, capture_output=True, text=True, timeout=SOON
    )
    assert ran.returncode == 0, ran.stderr
    assert "site-a | alone" in ran.stderr
    with closing(sqlite3.connect(home / "prefect.db")) as database:
        assert database.execute("SELECT count(*) FROM flow_run").fetchone() == (1,), "a server of Prefect's own was used"
