"""A one-task tool and a server-and-clients tool at three nodes on RabbitMQ, MinIO and Docker: by `fem run`, from Python, from a deployment."""

from __future__ import annotations

import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from fdn_worker.protocol import State
from fdn_worker.protocol.names import execution_id
from federation.catalogue.folder import load
from federation.results import TaskResult, stage_out
from federation.sync import carry_out, differing
from flows import connection
from flows.execute_tool import execute_tool
from tests.conftest import Services
from tests.support.rig import Rig, census
from tests.support.services import serving_rig
from tests.support.shell import shell
from tests.support.waiting import SOON, eventually

from .conftest import BIN, ROOT

#: A port range that no other test uses.
SITE = {"ports": "27500-27549"}
USER = "ada"

#: Starts the tool with these parameters of the flow, waits for its end and returns its execution.
Way = Callable[[str, dict[str, Any]], UUID]


@pytest.fixture(scope="module")
def house(services: Services) -> Iterator[Rig]:
    """Three nodes with a dataset, and the catalogue's tools."""
    names = tuple(f"{site}-{time.time_ns():x}" for site in ("a", "b", "c"))
    with tempfile.TemporaryDirectory(prefix="fem-three-") as folder:
        home = Path(folder)
        with serving_rig(services, home / "fem", names, names[0], datasets=census(home, names), options=SITE) as running:
            for name in names:
                running.start(name)
            catalogue = load(ROOT / "deployments/catalogue")
            carry_out(running.centre, catalogue, differing(running.centre, catalogue))
            running.federation.wait_connected(running.centre)
            yield running


@pytest.fixture(scope="module", name="shell")
def _shell(house: Rig, prefect_api: dict[str, str]) -> dict[str, str]:
    """What the shell of somebody at the centre has set."""
    return shell(BIN, prefect_api, house.federation.environment())


@contextmanager
def by_command(shell: dict[str, str]) -> Iterator[Way]:
    def run(tool: str, parameters: dict[str, Any]) -> UUID:
        server = ["--server-node", parameters["server_node"]] if "server_node" in parameters else []
        words = ["fem", "run", tool, "--node", "all", "--args", "arguments.json", "--user", USER, *server, "--json"]
        folder = Path(shell["FEM_HOME"])
        (folder / "arguments.json").write_text(json.dumps(parameters["arguments"]))
        done = subprocess.run(words, env=shell, cwd=folder, capture_output=True, text=True, timeout=SOON)
        assert done.returncode == 0, done.stderr
        return UUID(json.loads(done.stdout)["execution"])

    yield run


@contextmanager
def by_python(shell: dict[str, str]) -> Iterator[Way]:
    settings = {PREFECT_API_URL: shell["PREFECT_API_URL"], PREFECT_HOME: shell["PREFECT_HOME"]}

    def run(tool: str, parameters: dict[str, Any]) -> UUID:
        return asyncio.run(execute_tool(tool=tool, user=USER, **parameters)).execution

    with temporary_settings(settings), pytest.MonkeyPatch.context() as patch:
        for name, value in shell.items():
            if name.startswith("FEM_"):
                patch.setenv(name, value)
        try:
            yield run
        finally:
            connection.close()


@contextmanager
def by_deployment(shell: dict[str, str]) -> Iterator[Way]:
    pool = f"three-{time.time_ns():x}"
    subprocess.run(["prefect", "work-pool", "create", "--type", "process", pool], env=shell, check=True, capture_output=True)
    with temporary_settings({PREFECT_API_URL: shell["PREFECT_API_URL"]}), get_client(sync_client=True) as client:
        deployment = client.create_deployment(
            client.create_flow_from_name("execute-tool"), pool, entrypoint="flows.execute_tool.execute_tool", work_pool_name=pool,
            enforce_parameter_schema=False, pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
        )  # fmt: skip

        def run(tool: str, parameters: dict[str, Any]) -> UUID:
            started = client.create_flow_run_from_deployment(deployment, parameters={"tool": tool, "user": USER, **parameters})

            def ended() -> str:
                state = client.read_flow_run(started.id).state
                return state.name if state is not None and state.is_final() else ""

            assert eventually("the deployment's run ends", ended, 120) == "Succeeded"
            return execution_id(USER, str(started.id))

        worker = subprocess.Popen(
            ["prefect", "worker", "start", "--pool", pool], env=shell | {"PREFECT_WORKER_QUERY_SECONDS": "1"},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            yield run
        finally:
            worker.kill()
            worker.wait()


@pytest.mark.timeout(300)
@pytest.mark.parametrize("way", [by_command, by_python, by_deployment])
def test_tools_at_three_nodes(way: Callable[[dict[str, str]], Any], house: Rig, shell: dict[str, str]) -> None:
    nodes = list(house.federation.nodes)
    with way(shell) as run:
        summary = results(house, run("data-summary", {"nodes": nodes, "arguments": {"dataset": "census"}}))
        values = {node: {"value": number} for number, node in enumerate(nodes, 1)}
        learned = results(house, run("fl-demo", {"nodes": nodes, "server_node": nodes[1], "arguments": values}))

    assert sorted(summary) == sorted(("summary", node) for node in nodes)
    for (_, node), result in summary.items():
        told = json.loads(house.output(result, "outputs/summary.json"))
        assert (told["node"], told["files"]["people.csv"]["rows"]) == (node, 10)

    assert sorted(learned) == sorted([("server", nodes[1]), *(("client", node) for node in nodes)])
    assert json.loads(house.output(learned.pop(("server", nodes[1])), "outputs/mean.json")) == {"mean": 2.0, "nodes": sorted(nodes)}
    for result in learned.values():
        assert json.loads(house.output(result, "outputs/result.json")) == {"mean": 2.0, "clients": 3}


def results(house: Rig, execution: UUID) -> dict[tuple[str, str], TaskResult]:
    """(task, node) -> what came of it, checked against the store; all succeeded, and each in one attempt."""
    found = {(one.task, one.node): stage_out(house.centre, one) for one in house.centre.submissions(execution)}
    assert {result.state for result in found.values()} == {State.SUCCEEDED}
    assert [run.attempt for run in house.centre.records.runs_of(str(execution))] == [1] * len(found)
    return found
