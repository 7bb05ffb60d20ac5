"""`fem serve`: executions as flow runs in its process or of a deployment, their cancel and retry, an end by a signal and a new start."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from federation.catalogue.folder import load_tool
from federation.centre import Centre
from federation.gateway.settings import GatewaySettings
from federation.gateway.submitting import submit
from federation.local import LocalFederation
from federation.request import BadRequest
from federation.simulated import SimulatedNodes, fail, hang, succeed
from federation.tool_request import ToolRequest
from flows import connection
from flows.submitting import FlowSubmitter, PrefectUnavailable
from storage.records import ExecutionRow
from tests.acceptance.conftest import BIN, until
from tests.support.child import child

NODES = ("n1", "n2")
TOOL = """\
name: nothing
tasks:
  - id: main
    timeout: 60
    command: {base: ["true"]}
"""
ASKED = ToolRequest(tool="nothing", nodes=NODES, user="anna")
UI = "http://127.0.0.1:4200"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> LocalFederation:
    local = LocalFederation(tmp_path_factory.mktemp("serve"), NODES)
    local.prepare()
    return local


@pytest.fixture(scope="module")
def nodes(home: LocalFederation) -> Iterator[SimulatedNodes]:
    with SimulatedNodes(home.settings().broker_url.get_secret_value(), NODES) as nodes:
        yield nodes


@pytest.fixture
def centre(
    prefect_api: dict[str, str], home: LocalFederation, nodes: SimulatedNodes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Centre]:
    for name, value in home.environment().items():
        monkeypatch.setenv(name, value)
    with temporary_settings({PREFECT_API_URL: prefect_api["PREFECT_API_URL"], PREFECT_HOME: prefect_api["PREFECT_HOME"]}):
        centre = connection.centre()
        centre.ensure_relay()
        (tmp_path / "nothing.yaml").write_text(TOOL)
        centre.records.catalogue.put_tool("nothing", load_tool(tmp_path / "nothing.yaml").model_dump_json())
        until(lambda: all(row.last_seen for row in centre.records.nodes()))
        yield centre
    connection.close()


@pytest.fixture
def submitter(centre: Centre) -> Iterator[FlowSubmitter]:
    submitter = FlowSubmitter(centre, GatewaySettings(prefect_ui=UI))
    yield submitter
    submitter.close()


def row_of(centre: Centre, execution: UUID) -> ExecutionRow:
    row = centre.records.execution(str(execution))
    assert row is not None
    return row


def ended(centre: Centre, execution: UUID) -> ExecutionRow:
    return until(lambda: row if (row := row_of(centre, execution)).state != "OPEN" else None, 100)


def under_way(centre: Centre, execution: UUID) -> bool:
    return any(attempt.dispatched for _, attempt in centre.records.current_attempts(str(execution)))


def test_a_submission_is_on_record_at_once_and_runs_once(centre: Centre, submitter: FlowSubmitter, nodes: SimulatedNodes) -> None:
    nodes.behave = succeed
    nodes.orders.clear()
    job = submit(centre, submitter, ASKED, "once")
    assert row_of(centre, job.execution).state == "OPEN"
    assert submit(centre, submitter, ASKED, "once").execution == job.execution
    row = ended(centre, job.execution)
    assert (row.state, row.user) == ("SUCCEEDED", "anna")
    assert submitter.page(row) == f"{UI}/runs/flow-run/{row.flow_run}"
    with get_client(sync_client=True) as client:
        assert "tool:nothing" in client.read_flow_run(UUID(str(row.flow_run))).tags
    assert submit(centre, submitter, ASKED, "once").execution == job.execution
    assert sorted(order.node for order in nodes.orders) == list(NODES)


def test_what_would_be_of_the_gateways_own_disk_is_refused_and_leaves_nothing(
    centre: Centre, submitter: FlowSubmitter, tmp_path: Path
) -> None:
    before = len(centre.records.executions())
    for changes in ({"tool": str(tmp_path / "nothing.yaml")}, {"tool": "nothing.yaml"}, {"inputs": ("/etc/passwd",)}, {"tool": "no-such"}):
        with pytest.raises(BadRequest):
            submit(centre, submitter, ASKED.model_copy(update=changes))
    assert len(centre.records.executions()) == before


def test_a_cancel_ends_it_at_the_nodes_and_on_record(centre: Centre, submitter: FlowSubmitter, nodes: SimulatedNodes) -> None:
    nodes.behave = hang
    job = submit(centre, submitter, ASKED)
    until(lambda: under_way(centre, job.execution))
    with pytest.raises(BadRequest, match="still going on"):
        submitter.retry(row_of(centre, job.execution))
    submitter.cancel(row_of(centre, job.execution), "anna asked")
    assert ended(centre, job.execution).state == "CANCELLED"
    assert {str(run.state) for run in centre.records.runs_of(str(job.execution))} == {"CANCELLED"}


def test_a_retry_does_again_what_ended_badly(centre: Centre, submitter: FlowSubmitter, nodes: SimulatedNodes) -> None:
    nodes.behave = lambda order: fail(order) if order.node == "n2" else succeed(order)
    job = submit(centre, submitter, ASKED)
    assert ended(centre, job.execution).state == "FAILED"
    nodes.behave = succeed
    until(lambda: not submitter._here)
    submitter.retry(row_of(centre, job.execution))
    until(lambda: row_of(centre, job.execution).state == "SUCCEEDED", 100)
    assert {run.node: run.attempt for run in centre.records.runs_of(str(job.execution))} == {"n1": 1, "n2": 2}


def test_what_an_earlier_process_left_is_taken_up(centre: Centre, submitter: FlowSubmitter, nodes: SimulatedNodes) -> None:
    nodes.behave = hang
    job = submit(centre, submitter, ASKED)
    until(lambda: under_way(centre, job.execution))
    submitter.close()
    assert row_of(centre, job.execution).state == "OPEN"
    again = FlowSubmitter(centre, GatewaySettings())
    assert again.take_up() == 1
    again.cancel(row_of(centre, job.execution), "seen enough")
    assert ended(centre, job.execution).state == "CANCELLED"
    again.close()


@pytest.fixture
def client(centre: Centre) -> Iterator[SyncPrefectClient]:
    with get_client(sync_client=True) as client:
        yield client


def test_of_a_deployment(centre: Centre, client: SyncPrefectClient) -> None:
    submitter = FlowSubmitter(centre, GatewaySettings(deployment="gateway", prefect_ui=UI))
    client.create_deployment(client.create_flow_from_name("execute-tool"), "gateway")
    job = submit(centre, submitter, ASKED, "deployed")
    row = row_of(centre, job.execution)
    run = client.read_flow_run(UUID(str(row.flow_run)))
    assert (run.state_name, run.parameters["idempotency_key"], run.parameters["nodes"]) == ("Scheduled", row.key, list(NODES))
    assert run.deployment_id is not None
    submitter.start(row)
    assert row_of(centre, job.execution).flow_run == row.flow_run, "never two"
    submitter.cancel(row, "anna asked")
    assert client.read_flow_run(run.id).state_name in ("Cancelling", "Cancelled")
    row = row_of(centre, job.execution)
    assert (row.state, row.outcome) == ("CANCELLED", "cancelled before anything was sent")
    submitter.retry(row)
    assert client.read_flow_run(run.id).state_name == "AwaitingRetry"
    submitter.close()


def test_a_server_of_prefects_that_is_away_is_told_and_leaves_nothing_open_for_ever(centre: Centre, client: SyncPrefectClient) -> None:
    submitter = FlowSubmitter(centre, GatewaySettings(deployment="gateway"))
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:1/api"}):
        with pytest.raises(PrefectUnavailable):
            submit(centre, submitter, ASKED)
        (lost,) = centre.records.executions(1)
        assert lost.state == "FAILED"
        assert str(lost.outcome).startswith("not started: Prefect's server: ")
        with pytest.raises(PrefectUnavailable):
            submit(centre, submitter, ASKED, "sent again")
    (waiting,) = centre.records.executions(1, state="OPEN")
    client.create_deployment(client.create_flow_from_name("execute-tool"), "gateway")
    assert str(submit(centre, submitter, ASKED, "sent again").execution) == waiting.id
    assert row_of(centre, UUID(waiting.id)).flow_run, "the same key has it started"
    submitter.close()


def test_the_command_serves_until_it_is_told_to_end(prefect_api: dict[str, str], tmp_path: Path) -> None:
    environment = os.environ | prefect_api | {"FEM_HOME": str(tmp_path)}
    with child([BIN / "fem", "serve", "--port", "0"], env=environment, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        said = process.stderr.readline() + process.stderr.readline()
        password, address = re.findall(r"password (\S+), .*\n.*serving at (\S+)", said)[0]
        assert httpx.get(f"{address}/health/ready", timeout=60).json()["status"] == "ok"
        form = {"grant_type": "password", "username": "administrator", "password": password}
        token = httpx.post(f"{address}/api/v2/token", data=form, timeout=60).json()["access_token"]
        me = httpx.get(f"{address}/api/v2/me", headers={"Authorization": f"Bearer {token}"}, timeout=60)
        assert me.json()["role"] == "administrator"
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
