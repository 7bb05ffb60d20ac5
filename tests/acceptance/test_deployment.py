"""prefect.yaml on a real server with a process worker that clones the repository: runs started, scheduled, cancelled, killed and retried."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from fdn_worker.protocol.names import execution_id
from federation.catalogue.tool import Tool
from federation.centre import Centre
from tests.support.checkout import clone, commit

from .conftest import ROOT, Run, until


@pytest.fixture(scope="module")
def worker_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("worker") / "worker.log"


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This checkout as a Git repository of its own, what is not committed included."""
    return clone(tmp_path_factory.mktemp("repository") / "federation")


@pytest.fixture(scope="module")
def deployer(environment: dict[str, str], repository: Path) -> dict[str, str]:
    """The variables of whoever deploys from that repository."""
    return environment | {"FEM_BLOCKS": "default", "FEM_REPOSITORY": f"file://{repository}", "FEM_BRANCH": "main"}


def apply(repository: Path, deployer: dict[str, str]) -> str:
    done = subprocess.run(["fem", "apply"], env=deployer, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def deployed(deployer: dict[str, str], repository: Path, worker_log: Path) -> Iterator[SyncPrefectClient]:
    """`fem apply` once, and a worker started that knows the federation by its blocks alone, and the code by its clone."""
    # What is scheduled would come in the middle of another test.
    file = repository / "prefect.yaml"
    file.write_text(re.sub(r"\{slug: (\w+),", r"{slug: \1, active: false,", file.read_text()))
    apply(repository, deployer)
    known = {name: value for name, value in deployer.items() if not name.startswith("FEM_")}
    with worker_log.open("wb") as log:
        worker = subprocess.Popen(
            ["prefect", "worker", "start", "--pool", "federation"], env=known | {"PREFECT_WORKER_QUERY_SECONDS": "1"}, stdout=log, stderr=log,
            cwd=worker_log.parent,
        )  # fmt: skip
        with temporary_settings({PREFECT_API_URL: deployer["PREFECT_API_URL"]}), get_client(sync_client=True) as client:
            yield client
        worker.kill()
        worker.wait()


SCHEDULED = """
  - name: scheduled
    description: Of the test alone.
    entrypoint: flows.federated_task.federated_task
    tags: [federation]
    parameters: {node: site-b}
    schedules:
      - {slug: soon, interval: 15, parameters: {argv: [/bin/echo, by schedule]}}
    work_pool: *pool
"""


def start(client: SyncPrefectClient, **parameters: Any) -> FlowRun:
    deployment = client.read_deployment_by_name("federated-task/default")
    return client.create_flow_run_from_deployment(deployment.id, parameters={"node": "site-b"} | parameters)


def final(client: SyncPrefectClient, run: UUID) -> FlowRun:
    def ended() -> FlowRun | None:
        found = client.read_flow_run(run)
        return found if found.state is not None and found.state.is_final() else None

    return until(ended)


def prints(centre: Centre, run: FlowRun, line: str) -> str:
    """Wait for a line of the run's task; the run's id."""

    def seen() -> str | None:
        for row in centre.records.runs_of(str(execution_id(run.parameters.get("user", ""), str(run.id)))):
            if any(line in event.lines for event in centre.records.events_of(row.id, row.attempt)):
                return row.id
        return None

    return until(seen)


def test_a_deployed_run_ends_completed(deployed: SyncPrefectClient, centre: Centre) -> None:
    run = final(deployed, start(deployed, argv=["/bin/echo", "deployed"]).id)
    assert run.state is not None
    assert (run.state.name, run.state.type.value) == ("Succeeded", "COMPLETED")
    assert run.name == "echo at site-b"


def test_a_merge_changes_the_federation(deployed: SyncPrefectClient, centre: Centre, repository: Path) -> None:
    deployment = deployed.read_deployment_by_name("sync/default")

    def synced() -> FlowRun:
        return final(deployed, deployed.create_flow_run_from_deployment(deployment.id).id)

    run = synced()
    assert (run.state_name, run.state and run.state.type.value) == ("Changed", "COMPLETED")
    assert "hello" in {tool.name for tool in centre.records.catalogue.tools()}
    greeting = repository / "deployments/catalogue/tools/scripts/hello.py"
    greeting.write_text(greeting.read_text() + "print('merged')\n")
    commit(repository, "another greeting")
    assert synced().state_name == "Changed"
    tool = centre.records.catalogue.tool("hello")
    assert tool is not None
    assert b"merged" in Tool.model_validate_json(tool.document).contents["scripts/hello.py"]
    assert synced().state_name == "Unchanged"


def test_a_tool_runs_at_two_nodes_from_its_deployment(deployed: SyncPrefectClient, centre: Centre) -> None:
    deployment = deployed.read_deployment_by_name("execute-tool/default")
    parameters = {"tool": str(ROOT / "deployments/catalogue/tools/hello.yaml"), "nodes": ["site-a", "site-b"], "user": "ada"}
    run = final(deployed, deployed.create_flow_run_from_deployment(deployment.id, parameters=parameters).id)
    assert (run.state_name, run.state and run.state.type.value) == ("Succeeded", "COMPLETED")
    rows = centre.records.runs_of(str(execution_id("ada", str(run.id))))
    assert {(row.node, row.state) for row in rows} == {("site-a", "SUCCEEDED"), ("site-b", "SUCCEEDED")}


def test_nodes_are_asked_how_they_are_from_a_deployment(deployed: SyncPrefectClient) -> None:
    deployment = deployed.read_deployment_by_name("health-check/default")
    assert [(schedule.slug, schedule.active) for schedule in deployment.schedules] == [("hourly", False)]
    run = final(deployed, deployed.create_flow_run_from_deployment(deployment.id).id)
    assert run.state is not None
    # This machine may have something to mend.
    assert run.state_name in ("Healthy", "Degraded"), run.state.message


@pytest.mark.timeout(300)
def test_what_is_scheduled_runs_by_itself(deployed: SyncPrefectClient, repository: Path, deployer: dict[str, str]) -> None:
    before = (repository / "prefect.yaml").read_text()
    (repository / "prefect.yaml").write_text(before + SCHEDULED)
    assert "+ deployment federated-task/scheduled" in apply(repository, deployer)
    deployment = deployed.read_deployment_by_name("federated-task/scheduled")
    ended = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment.id]}, "state": {"type": {"any_": ["COMPLETED"]}}})
    run = until(lambda: deployed.read_flow_runs(flow_run_filter=ended), seconds=100)[0]
    assert (run.state_name, run.auto_scheduled) == ("Succeeded", True)
    (repository / "prefect.yaml").write_text(before)
    assert "- deployment federated-task/scheduled" in apply(repository, deployer)


def test_block_types_have_a_picture_and_a_description(deployed: SyncPrefectClient) -> None:
    for slug in ("federation-broker", "federation-store", "federation-records"):
        block = deployed.read_block_type_by_slug(slug)
        assert "federation" in str(block.description)
        picture = httpx.get(str(block.logo_url))
        assert (picture.status_code, picture.headers["content-type"]) == (200, "image/svg+xml")


def test_the_form_has_plain_fields_with_a_word_on_each(deployed: SyncPrefectClient) -> None:
    schema = deployed.read_deployment_by_name("federated-task/default").parameter_openapi_schema
    assert schema is not None
    assert schema["required"] == ["node", "argv"]
    for name, field in schema["properties"].items():
        assert field["description"], name
        assert name == "deadline" or "anyOf" not in field, "unions make bad forms"


def test_the_server_refuses_parameters_that_cannot_be(deployed: SyncPrefectClient) -> None:
    from prefect.exceptions import PrefectHTTPStatusError

    with pytest.raises(PrefectHTTPStatusError, match="409"):
        start(deployed, argv=["/bin/true"], cpus=-1)


def test_cancelled_in_the_ui_it_is_cancelled_at_the_node(deployed: SyncPrefectClient, centre: Centre) -> None:
    run = start(deployed, argv=["/bin/sh", "-c", "echo up; sleep 60"])
    of = prints(centre, run, "up")
    deployed.set_flow_run_state(run.id, Cancelling())
    state = final(deployed, run.id).state
    assert state is not None
    assert state.is_cancelled()
    assert until(lambda: centre.records.run(of) if centre.records.run(of).state != "RUNNING" else None).state in (
        "CANCELLED",
        "STAGING_OUT",
    )  # type: ignore[union-attr]
    until(lambda: centre.records.run(of).state == "CANCELLED")  # type: ignore[union-attr]


def test_killed_in_its_wait_and_retried_it_dispatches_nothing_twice(
    deployed: SyncPrefectClient, centre: Centre, run: Run, worker_log: Path, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    script = f"echo run >> count; echo up; while [ ! -e {go} ]; do sleep 0.05; done; echo late"
    flow_run = start(deployed, argv=["/bin/sh", "-c", script], outputs=["count"])
    of = prints(centre, flow_run, "up")
    os.kill(process_of(flow_run), signal.SIGKILL)
    crashed = final(deployed, flow_run.id).state
    assert crashed is not None
    assert crashed.is_crashed()
    # Runner and worker of Prefect report a crash each, and a retry that comes between the two is undone by the second.
    until(lambda: worker_log.read_text().count("Check whether the flow run exceeded") == 2)
    go.touch()
    # The answer comes while no flow lives.
    until(lambda: centre.records.run(of).state == "SUCCEEDED")  # type: ignore[union-attr]

    retried = run("prefect", "flow-run", "retry", str(flow_run.id))
    assert retried.returncode == 0, retried.stdout + retried.stderr
    until(lambda: not deployed.read_flow_run(flow_run.id).state.is_crashed())  # type: ignore[union-attr]
    after = final(deployed, flow_run.id)
    assert after.state is not None
    assert (after.state.name, after.run_count) == ("Succeeded", 2)
    assert len(centre.records.attempts_of(of)) == 1
    execution = str(execution_id("", str(flow_run.id)))
    files = json.loads(run("fem", "files", execution, "--json").stdout)
    assert {file["path"] for file in files} == {"outputs/count", "logs/run.log"}
    assert run("fem", "download", execution, "--to", str(tmp_path)).returncode == 0
    assert (tmp_path / "site-b/outputs/count").read_text() == "run\n", "it ran once"


def test_retried_in_the_ui_a_failed_run_gets_a_new_attempt_each_time(deployed: SyncPrefectClient, centre: Centre, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    script = f"echo run >> {tmp_path}/count; test -e {flag}"
    flow_run = start(deployed, argv=["/bin/sh", "-c", script], user="person")
    assert final(deployed, flow_run.id).state_name == "Failed"
    # What the pages send: the old ones, and the new ones.
    for force in (False, True):
        if force:
            flag.touch()
        state = {"type": "SCHEDULED", "name": "AwaitingRetry", "message": "Retry from the UI"}
        answer = deployed.request("POST", f"/flow_runs/{flow_run.id}/set_state", json={"state": state, "force": force})
        assert answer.json()["status"] == "ACCEPT"
        assert final(deployed, flow_run.id).state_name == ("Succeeded" if force else "Failed")
    [of] = centre.records.runs_of(str(execution_id("person", str(flow_run.id))))
    assert [row.state for row in centre.records.attempts_of(of.id)] == ["FAILED", "FAILED", "SUCCEEDED"]
    assert (tmp_path / "count").read_text() == "run\n" * 3, "each attempt ran once"


def process_of(flow_run: FlowRun) -> int:
    """The process in which the worker runs a flow: its environment names the run."""
    wanted = f"PREFECT__FLOW_RUN_ID={flow_run.id}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if re.fullmatch(r"\d+", folder.name):
            try:
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except (FileNotFoundError, ProcessLookupError, PermissionError):
                continue
    # The task at the node has a clean environment, so this is Prefect's process and no other.
    return min(found)
