"""`fem learn` and `fem sessions`, with a real Prefect server and three real nodes: to the end, killed and continued, interrupted, cancelled."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterTags, TaskRunFilter, TaskRunFilterFlowRunId
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from federation.centre import Centre
from federation.learning.models import ModelFile
from federation.learning.phases import phase_execution
from federation.learning.trail import Trail
from federation.local import LocalFederation
from storage.learning import SessionRow
from tests.support.learning import step, value, write_package
from tests.support.shell import shell
from tests.support.waiting import SOON

from .conftest import BIN, until

NODES = ("site-1", "site-2", "site-3")
Fem = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    with LocalFederation(tmp_path_factory.mktemp("learners"), NODES) as local:
        yield local


@pytest.fixture(scope="module")
def centre(three: LocalFederation) -> Iterator[Centre]:
    with three.connected() as centre:
        yield centre


@pytest.fixture(scope="module")
def environment(prefect_api: dict[str, str], three: LocalFederation, centre: Centre) -> dict[str, str]:
    return shell(BIN, prefect_api, three.environment(), {"COLUMNS": "120"})


@pytest.fixture
def fem(environment: dict[str, str], tmp_path: Path) -> Fem:
    def call(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["fem", *words], env=environment | env, cwd=tmp_path, timeout=SOON, capture_output=True, text=True)

    return call


@pytest.fixture
def prefect(prefect_api: dict[str, str]) -> Iterator[SyncPrefectClient]:
    settings = {PREFECT_API_URL: prefect_api["PREFECT_API_URL"], PREFECT_HOME: prefect_api["PREFECT_HOME"]}
    with temporary_settings(settings), get_client(sync_client=True) as client:
        yield client


def write(folder: Path, **changes: Any) -> Path:
    """A session's file."""
    if not (folder / "package").exists():
        write_package(folder / "package")
    file = folder / "session.yaml"
    asked = {"name": "half-way", "package": "package", "rounds": 2, "retries": 0, "settings": {"faults": {}}}
    file.write_text(yaml.safe_dump(asked | changes))
    return file


def waiting(environment: dict[str, str], centre: Centre, folder: Path, file: Path, key: str) -> tuple[subprocess.Popen[str], SessionRow]:
    """`fem learn` that is in round 2, where site-3 is at work and does not end."""
    process = subprocess.Popen(
        ["fem", "learn", str(file), "--key", key, "--user", "ada"], env=environment | {"TMPDIR": str(folder)}, cwd=folder, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )  # fmt: skip

    def at_work() -> SessionRow | None:
        rows = [row for row in centre.records.learning.sessions() if row.key == key]
        runs = centre.records.runs_of(str(phase_execution("ada", rows[0].id, 2, "train"))) if rows else []
        return rows[0] if [run for run in runs if (run.node, run.state) == ("site-3", "RUNNING")] else None

    return process, until(at_work, SOON)


def test_a_session_that_was_killed_is_continued(
    fem: Fem, environment: dict[str, str], centre: Centre, prefect: SyncPrefectClient, tmp_path: Path, unique: str
) -> None:
    go = tmp_path / "go"
    file = write(tmp_path, settings={"faults": {"site-3": {"2": "wait"}}, "until": str(go)})
    process, row = waiting(environment, centre, tmp_path, file, unique)
    process.kill()
    process.communicate()
    go.touch()
    listed = json.loads(fem("sessions", "list", "--state", "running", "--json").stdout)
    assert [(one["id"], one["state"], one["round"]) for one in listed] == [(row.id, "RUNNING", 2)]
    done = fem("sessions", "continue", row.id[:8])
    assert done.returncode == 0, done.stderr
    assert "half-way: FINISHED after 2 rounds (2 rounds were run), distance" in done.stdout
    latest = max(centre.records.learning.models(row.id), key=lambda model: model.round)
    w = 0.0
    for _ in range(2):
        w = step(w, [1, 2, 3])
    assert value(ModelFile(Trail(centre).fetch(latest, tmp_path / "latest.safetensors"))) == pytest.approx(w, abs=1e-12)
    runs = prefect.read_flow_runs(flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[f"session:{row.id[:8]}"])))
    tasks = [prefect.read_task_runs(task_run_filter=TaskRunFilter(flow_run_id=TaskRunFilterFlowRunId(any_=[run.id]))) for run in runs]
    assert sorted(len(found) for found in tasks) == [3, 4], "the seed, and two a round, however many nodes"
    shown = fem("sessions", "show", row.id[:8])
    assert f"session {row.id} half-way: FINISHED, 2 rounds were run" in shown.stdout
    assert [line.split()[:2] for line in shown.stdout.splitlines()[-3:]] == [[node, "COUNTED"] for node in NODES]
    again = fem("sessions", "continue", row.id[:8], "--rounds", "1", "--json")
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert (found["state"], found["rounds"]) == ("FINISHED", 1)
    assert found["session"] != row.id
    assert [model.id for model in centre.records.learning.ancestors(found["model"])][1] == latest.id


def test_an_interrupted_session_is_stopped_and_its_nodes_too(
    environment: dict[str, str], centre: Centre, tmp_path: Path, unique: str
) -> None:
    file = write(tmp_path, settings={"faults": {"site-3": {"2": "hang"}}})
    process, row = waiting(environment, centre, tmp_path, file, unique)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=SOON)
    assert process.returncode == 130, said
    assert centre.records.learning.find_session(row.id).state == "STOPPED"
    states = {run.node: run.state for run in centre.records.runs_of(str(phase_execution("ada", row.id, 2, "train")))}
    assert states["site-3"] == "CANCELLED"
    assert set(states.values()) <= {"SUCCEEDED", "CANCELLED"}


def test_what_is_wrong_is_told_and_a_session_that_fails_says_why(fem: Fem, tmp_path: Path) -> None:
    wrong = fem("learn", str(write(tmp_path, stragglers="wait")))
    assert wrong.returncode == 2
    assert "session.yaml:7: stragglers: Input should be 'drop' or 'next-round'" in wrong.stderr
    assert fem("learn", "--check", str(write(tmp_path))).stdout.endswith("session.yaml: sound\n")
    everywhere = {node: {"1": "fail"} for node in NODES}
    failed = fem("learn", str(write(tmp_path, settings={"faults": everywhere})))
    assert failed.returncode == 1
    assert "fem: round 1: 0 of the 1 updates that are required: site-1: LOST (FAILED (exit-code)" in failed.stderr


def test_where_there_is_no_federation_a_session_brings_its_own(fem: Fem, tmp_path: Path) -> None:
    file = write(tmp_path, rounds=1, local={"nodes": 2, "dataset": "breast-cancer"})
    home = tmp_path / "home"
    done = fem("learn", str(file), FEM_HOME=str(home))
    assert done.returncode == 0, done.stderr
    assert "half-way: FINISHED after 1 round (" in done.stdout
    assert {path.name for path in (home / "local-data" / "site-01" / "breast-cancer").iterdir()} == {"train.npz", "test.npz"}
