"""Seeing three real nodes at work: the live table, status, logs and cancel over all of them, and their health."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId
from prefect.client.schemas.objects import State as PrefectState
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings

from federation.centre import Centre
from federation.local import LocalFederation
from flows import connection
from flows.health_check import health_check
from tests.support.child import child
from tests.support.shell import shell
from tests.support.waiting import SOON

from .conftest import BIN

NODES = ("site-a", "site-b", "site-c")
TOOL = """\
name: greet
tasks:
  - id: main
    timeout: 60
    command: {base: [/bin/sh, -c, 'echo hello from $NODE_NAME; echo second; SCRIPT']}
"""
Fem = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    with LocalFederation(tmp_path_factory.mktemp("three"), NODES) as local:
        yield local


@pytest.fixture(scope="module")
def centre(three: LocalFederation) -> Iterator[Centre]:
    with three.connected() as centre:
        yield centre


@pytest.fixture
def environment(prefect_api: dict[str, str], three: LocalFederation, centre: Centre) -> dict[str, str]:
    return shell(BIN, prefect_api, three.environment(), {"COLUMNS": "120", "TERM": "xterm"})


@pytest.fixture
def fem(environment: dict[str, str], tmp_path: Path) -> Fem:
    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["fem", *words], env=environment, cwd=tmp_path, timeout=SOON, capture_output=True, text=True)

    return call


def tool(folder: Path, script: str) -> str:
    (folder / "greet.yaml").write_text(TOOL.replace("SCRIPT", script))
    return "greet.yaml"


def on_a_terminal(words: list[str], environment: dict[str, str], folder: Path) -> tuple[int, str]:
    """Exit code, and all that was written to the terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(words, env=environment, cwd=folder, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    text, end = b"", time.monotonic() + SOON
    while process.poll() is None or select.select([ours], [], [], 0)[0]:
        assert time.monotonic() < end, text.decode()
        if select.select([ours], [], [], 0.2)[0]:
            try:
                text += os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
    os.close(ours)
    return process.wait(), text.decode()


def test_the_live_table_and_what_is_seen_afterwards(environment: dict[str, str], fem: Fem, tmp_path: Path) -> None:
    file = tool(tmp_path, "test $NODE_NAME != site-b")
    code, text = on_a_terminal(["fem", "run", file, "--node", "all", "--quorum", "2", "--user", "ada"], environment, tmp_path)
    assert code == 0, text
    for expected in ("greet at 3 nodes", "3/3", "2 SUCCEEDED", "hello from site-a", "hello from site-c", "greet: Degraded, 2/3"):
        assert expected in text
    execution = text.partition("execution ")[2].split()[0]
    assert f"fem download {execution}" in text.replace("\x1b[1m", "").replace("\x1b[0m", "")

    status = fem("status", execution[:8]).stdout
    for expected in (f"execution {execution}", "greet for ada: DEGRADED, 2/3", "3/3", "2 SUCCEEDED", "exit code 1"):
        assert expected in status
    rows = json.loads(fem("status", execution, "--json").stdout)
    assert [(row["node"], row["state"], row["attempt"]) for row in rows] == [
        ("site-a", "SUCCEEDED", 1), ("site-b", "FAILED", 1), ("site-c", "SUCCEEDED", 1)
    ]  # fmt: skip
    assert all(row["since"] for row in rows)
    assert fem("status", execution, "--watch").stdout.splitlines()[0] == f"execution {execution}"

    lines = fem("logs", execution).stdout.splitlines()
    assert sorted(lines) == sorted(line for node in NODES for line in (f"{node} | hello from {node}", f"{node} | second"))
    assert [line for line in lines if line.startswith("site-a")] == ["site-a | hello from site-a", "site-a | second"]
    two = [json.loads(line) for line in fem("logs", execution, "-n", "site-a", "-n", "site-c", "--json").stdout.splitlines()]
    assert {line["node"] for line in two} == {"site-a", "site-c"}
    assert [line["at"] for line in two] == sorted(line["at"] for line in two)
    assert fem("logs", execution, "--node", "site-a", "--task", "main").stdout == "hello from site-a\nsecond\n"
    assert fem("logs", execution, "--follow").stdout.count("second") == 3
    assert "has no run at node 'site-d' (it has runs at site-a, site-b, site-c)" in fem("logs", execution, "-n", "site-d").stderr
    assert "has no task 'x' (its tasks are main)" in fem("logs", execution, "-t", "x").stderr


def test_one_follower_and_one_cancel_for_all_nodes(environment: dict[str, str], fem: Fem, centre: Centre, tmp_path: Path) -> None:
    words = ["fem", "run", tool(tmp_path, "sleep 60"), "--node", "all", "--user", "cancelled"]
    with child(words, env=environment, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        seen = ""
        while seen.count("| second") < 3:
            seen += (line := process.stderr.readline())
            assert line, seen
        [execution] = centre.records.executions(user="cancelled")
        followed = subprocess.Popen(["fem", "logs", "-f", execution.id], env=environment, stdout=subprocess.PIPE, text=True)
        cancelled = fem("cancel", execution.id[:8])
        assert (cancelled.returncode, cancelled.stdout) == (0, "".join(f"{node}: CANCELLED\n" for node in NODES)), cancelled.stderr
        process.stderr.read()
        process.wait(SOON)
    assert followed.communicate(timeout=SOON)[0].count("second") == 3
    assert followed.returncode == 0


def check(**fields: Any) -> PrefectState[Any]:
    async def in_loop() -> PrefectState[Any]:
        state: PrefectState[Any] = await health_check(return_state=True, **fields)
        return state

    return asyncio.run(in_loop())


def test_health_and_images(fem: Fem) -> None:
    asked = fem("health")
    assert "3/3 healthy" in asked.stdout, asked
    assert asked.returncode == 0
    assert fem("health", "site-a", "--ping").stdout.splitlines()[1].split()[:2] == ["site-a", "connected"]
    [one] = json.loads(fem("health", "site-b", "--json").stdout)
    assert (one["node"], one["answered"], one["problems"]) == ("site-b", True, [])
    assert abs(one["offset"]) < 5
    missing = fem("health", "site-a", "--image", "python:3.11")
    assert (missing.returncode, "image python:3.11 is missing" in missing.stdout) == (3, True)
    refused = fem("images", "pull", "site-a", "python:3.11")
    assert refused.returncode == 4, refused
    assert refused.stderr.startswith("fem: node site-a ")
    assert "node 'site-d' is not enrolled" in fem("images", "list", "site-d").stderr


def test_the_health_check_as_a_flow(
    prefect_api: dict[str, str], three: LocalFederation, centre: Centre, fem: Fem, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in three.environment().items():
        monkeypatch.setenv(name, value)
    with temporary_settings({PREFECT_API_URL: prefect_api["PREFECT_API_URL"], PREFECT_HOME: prefect_api["PREFECT_HOME"]}):
        try:
            state = check()
            assert (state.name, state.message, state.is_completed()) == ("Healthy", "3/3 healthy", True)
            with get_client(sync_client=True) as prefect:
                run = state.state_details.flow_run_id
                assert run is not None
                found = prefect.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run])))
            assert sorted((artifact.key, artifact.type) for artifact in found) == [("health", "markdown"), ("health-of-nodes", "table")]
            three.stop("site-c", signal.SIGKILL)
            degraded = check(seconds=6.0)
            assert (degraded.name, degraded.is_completed()) == ("Degraded", True)
            assert str(degraded.message).startswith("2/3 healthy: site-c ")
            failed = check(nodes=["site-c"], seconds=0.5)
            assert (failed.is_failed(), str(failed.message).startswith("no node answered")) == (True, True)
        finally:
            connection.close()
    gone = fem("health", "--wait", "2")
    assert (gone.returncode, "site-c" in gone.stdout) == (3, True)
    # It is back as soon as it is there again.
    three.start("site-c")
    three.wait_connected(centre)
    assert fem("health").returncode == 0
