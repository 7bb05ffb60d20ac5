"""`fem simulate` as it is typed, and the flow on a real server."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from flows.simulation import simulation
from tests.support.waiting import SOON

FEM = str(Path(sys.executable).parent / "fem")
SMALL = """
simulation: {repetitions: 1, num_rounds: 2}
data: {dataset: synthetic, num_examples_mean: 50}
workers: {number: 1, chunk: 4}
variants: {fedavg: {}, fedprox: {algorithms: {federated_algorithm: fedprox}}}
"""


@pytest.fixture
def small(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(SMALL)
    return path


def typed(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([FEM, "simulate", *words], cwd=folder, capture_output=True, text=True, timeout=SOON)


def test_a_sweep_with_worker_processes(small: Path, tmp_path: Path) -> None:
    done = typed(str(small), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["variant", "fedavg", "fedprox"]
    assert (tmp_path / "simulation-results/report.html").exists()
    document = json.loads((tmp_path / "simulation-results/fedprox/simulation.json").read_text())
    assert document["status"][0]["rounds"] == 2


def test_a_wrong_file_is_bad_usage_in_one_line(small: Path, tmp_path: Path) -> None:
    small.write_text("devices:\n  p_fail: 1.2\n")
    done = typed("small.yaml", folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "fem: small.yaml:2: devices.p_fail: Input should be less than or equal to 1\n"


def test_the_flow_keeps_its_summary(prefect_api: dict[str, str], small: Path, tmp_path: Path) -> None:
    with temporary_settings({PREFECT_API_URL: prefect_api["PREFECT_API_URL"], PREFECT_HOME: prefect_api["PREFECT_HOME"]}):
        state = asyncio.run(simulation(str(small), str(tmp_path / "out"), return_state=True))  # type: ignore[call-overload]
        rows = asyncio.run(state.aresult())
        with get_client(sync_client=True) as client:
            there = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id]))
            [artifact] = client.read_artifacts(artifact_filter=there)
    assert [row["variant"] for row in rows] == ["fedavg", "fedprox"]
    assert json.loads(str(artifact.data)) == rows
    assert (tmp_path / "out/summary.csv").exists()
