"""prefect.yaml on a real server with a process worker: a run, a cancel in the UI's way, a SIGKILL and its retry."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling

from fdn_worker.protocol.names import execution_id
from federation.centre import Centre

from .conftest import ROOT, Run

Value = TypeVar("Value")


@pytest.fixture(scope="module")
def worker_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("worker") / "worker.log"


@pytest.fixture(scope="module")
def deployed(environment: dict[str, str], worker_log: Path) -> Iterator[SyncPrefectClient]:
    """Blocks saved, deployments made, a worker started that knows the federation by its blocks alone."""

    def run(*words: str) -> None:
        done = subprocess.run(
            words, env=environment | {"FEM_CHECKOUT": str(ROOT), "FEM_BLOCKS": "default"}, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr

    run("prefect", "work-pool", "create", "--type", "process", "federation")
    run("fem", "blocks")
    run("prefect", "--no-prompt", "deploy", "--all")
    known = {name: value for name, value in environment.items() if not name.startswith("FEM_")}
    with worker_log.open("wb") as log:
        worker = subprocess.Popen(
            ["prefect", "worker", "start", "--pool", "federation"], env=known | {"PREFECT_WORKER_QUERY_SECONDS": "1"}, stdout=log, stderr=log
        )  # fmt: skip
        with temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}), get_client(sync_client=True) as client:
            yield client
        worker.kill()
        worker.wait()


def until(condition: Callable[[], Value | None], seconds: float = 40) -> Value:
    """Wait for what another process brings about."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)
    return value


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


def test_a_persons_retry_of_a_failed_run_is_a_new_attempt(deployed: SyncPrefectClient, centre: Centre, run: Run, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    flow_run = start(deployed, argv=["/bin/sh", "-c", f"test -e {flag}"], user="person")
    failed = final(deployed, flow_run.id).state
    assert failed is not None
    assert failed.name == "Failed"
    flag.touch()
    assert run("prefect", "flow-run", "retry", str(flow_run.id)).returncode == 0
    until(lambda: deployed.read_flow_run(flow_run.id).state.name == "Succeeded")  # type: ignore[union-attr]
    [of] = centre.records.runs_of(str(execution_id("person", str(flow_run.id))))
    assert [row.state for row in centre.records.attempts_of(of.id)] == ["FAILED", "SUCCEEDED"]


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
