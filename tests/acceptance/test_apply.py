"""`fem apply` on a real Prefect server: made, changed, pruned, and nothing the second time; dead runs and failed ones are noticed."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL, temporary_settings

from .conftest import Run, until

#: Of this module alone: the server is shared.
FEDERATION = """\
name: of_test
federation_blocks: of-test
work_pools:
  test-pool: {type: process, concurrency_limit: 5}
concurrency_limits:
  test-limit: {limit: 2}
blocks:
  webhook/test-alerts:
    values: {url: "{{ $TEST_URL }}"}
automations:
  test-failed:
    trigger:
      posture: Reactive
      expect: ["prefect.flow-run.*"]
      match: {"prefect.resource.id": "prefect.flow-run.*", "prefect.state-type": [FAILED, CRASHED]}
      match_related: {"prefect.resource.id": "prefect.tag.watched", "prefect.resource.role": tag}
    actions:
      - {type: call-webhook, block: webhook/test-alerts, payload: "{{ flow_run.state.name }} {{ flow_run.id }}"}
  test-dead:
    trigger:
      posture: Proactive
      after: ["prefect.flow-run.heartbeat"]
      expect: ["prefect.flow-run.*"]
      match: {"prefect.resource.id": "prefect.flow-run.*"}
      match_related: {"prefect.resource.id": "prefect.tag.watched", "prefect.resource.role": tag}
      for_each: ["prefect.resource.id"]
      within: 10
    actions:
      - {type: change-flow-run-state, state: CRASHED, message: no heartbeat}
"""
DEPLOYMENTS = """\
name: of-test
prefect-version: 3.8.8
pull:
  - prefect.deployments.steps.set_working_directory: {directory: /tmp}
deployments:
  - name: one
    description: One.
    entrypoint: flows.federated_task.federated_task
    tags: [x]
    parameters: {node: site-a}
    concurrency_limit: {limit: 3, collision_strategy: ENQUEUE}
    schedules:
      - {slug: nightly, cron: "0 3 * * *", parameters: {argv: [backup]}}
      - {slug: hourly, interval: 3600, active: false, parameters: {argv: [look]}}
    work_pool: {name: test-pool, job_variables: {env: {A: b}}}
  - name: two
    description: Two.
    entrypoint: flows.federated_task.federated_task
    work_pool: {name: test-pool}
"""

#: Seconds for an automation of Prefect's to have come about, on a machine that has other things to do as well.
SOON = 200


@pytest.fixture(scope="module")
def alerts() -> Iterator[tuple[str, queue.Queue[str]]]:
    """A service that takes alerts: its address, and what it was told."""
    told: queue.Queue[str] = queue.Queue()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.put(self.rfile.read(int(self.headers["content-length"])).decode())
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/", told
    server.shutdown()


@pytest.fixture
def client(environment: dict[str, str]) -> Iterator[SyncPrefectClient]:
    with temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}), get_client(sync_client=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "federation.yaml").write_text(FEDERATION)
    (folder / "prefect.yaml").write_text(DEPLOYMENTS)
    return folder


@pytest.fixture
def apply(run: Run, files: Path, alerts: tuple[str, queue.Queue[str]]) -> Run:
    def call(*words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = run("fem", "apply", "federation.yaml", *words, cwd=files, env={"TEST_URL": alerts[0]})
        assert done.returncode == code, done.stdout + done.stderr
        return done

    return call


ALL = [
    "+ work pool test-pool", "+ concurrency limit test-limit", "+ block webhook/test-alerts", "+ block federation-broker/of-test",
    "+ block federation-store/of-test", "+ block federation-records/of-test", "+ deployment federated-task/one",
    "+ deployment federated-task/two", "+ automation test-failed", "+ automation test-dead",
]  # fmt: skip


def test_a_dry_run_shows_all_and_makes_nothing(apply: Run, client: SyncPrefectClient) -> None:
    assert apply("--dry-run").stdout.splitlines() == [*ALL, "10 to change"]
    with pytest.raises(ObjectNotFound):
        client.read_work_pool("test-pool")


def test_applied_once_all_is_there_and_twice_it_is_the_same(apply: Run, client: SyncPrefectClient) -> None:
    assert apply().stdout.splitlines() == [*ALL, "10 changed"]
    one = client.read_deployment_by_name("federated-task/one")
    assert {schedule.slug: schedule.active for schedule in one.schedules} == {"nightly": True, "hourly": False}
    assert one.global_concurrency_limit is not None
    assert one.global_concurrency_limit.limit == 3
    assert client.read_work_pool("test-pool").concurrency_limit == 5
    assert apply().stdout == "nothing to change\n"


@pytest.mark.timeout(300)
def test_a_failed_flow_run_is_told_to_the_alert_address(
    run: Run, alerts: tuple[str, queue.Queue[str]], client: SyncPrefectClient
) -> None:  # fmt: skip
    script = "from prefect import tags\nfrom flows.federated_task import federated_task as f\nimport asyncio\n"
    script += "with tags('watched'): asyncio.run(f(node='site-b', argv=['/bin/false'], return_state=True))\n"
    assert run(sys.executable, "-c", script).returncode == 0
    told = alerts[1].get(timeout=SOON)
    assert told.startswith("Failed ")
    assert client.read_flow_run(told.split()[1]).state_name == "Failed"


@pytest.mark.timeout(300)
def test_a_run_whose_process_is_gone_ends_as_crashed(
    environment: dict[str, str], alerts: tuple[str, queue.Queue[str]], client: SyncPrefectClient
) -> None:  # fmt: skip
    script = (
        "import asyncio\nfrom prefect import flow, tags\nfrom prefect.runtime import flow_run\n"
        "@flow\nasync def waits():\n    print(flow_run.id, flush=True)\n    await asyncio.sleep(600)\n"
        "with tags('watched'): asyncio.run(waits())\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], env=environment | {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    run = process.stdout.readline().strip()
    heard = {"filter": {"event": {"name": ["prefect.flow-run.heartbeat"]}, "resource": {"id": [f"prefect.flow-run.{run}"]}}}
    try:
        # Its first heartbeat is the only one that the server hears.
        until(lambda: client.request("POST", "/events/filter", json=heard).json()["total"])
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    # The alert of the run before may come once more: Prefect tells at least once.
    told = alerts[1].get(timeout=SOON)
    while told.startswith("Failed "):
        told = alerts[1].get(timeout=SOON)
    assert told == f"Crashed {run}"
    state = client.read_flow_run(run).state  # type: ignore[arg-type]
    assert state is not None
    assert (state.is_crashed(), state.message) == (True, "no heartbeat")


def test_what_the_files_change_is_changed_and_what_they_drop_goes(apply: Run, files: Path, client: SyncPrefectClient) -> None:
    changed = FEDERATION.replace("concurrency_limit: 5", "concurrency_limit: 6").replace(
        "  test-limit: {limit: 2}", "  other-limit: {limit: 2}"
    )
    (files / "federation.yaml").write_text(changed[: changed.index("  test-dead:")])
    deployments = DEPLOYMENTS.replace('"0 3 * * *"', '"0 4 * * *"').replace("tags: [x]", "tags: [x, y]")
    lines = [line for line in deployments[: deployments.index("  - name: two")].splitlines() if "hourly" not in line]
    (files / "prefect.yaml").write_text("\n".join(lines) + "\n")
    dry = apply("--dry-run").stdout
    assert dry.splitlines()[-1] == "6 to change"
    done = apply().stdout.splitlines()
    assert done[:-1] == dry.splitlines()[:-1]
    assert "    concurrency_limit: 5 -> 6" in done
    assert "    schedules.nightly.cron: '0 3 * * *' -> '0 4 * * *'" in done
    assert [line for line in done if line.startswith(("+", "~", "-"))] == [
        "~ work pool test-pool", "+ concurrency limit other-limit", "~ deployment federated-task/one", "- automation test-dead",
        "- deployment federated-task/two", "- concurrency limit test-limit",
    ]  # fmt: skip
    assert [schedule.slug for schedule in client.read_deployment_by_name("federated-task/one").schedules] == ["nightly"]
    assert apply().stdout == "nothing to change\n"


def test_a_hands_change_on_the_server_is_put_right(apply: Run, client: SyncPrefectClient) -> None:
    client.delete_global_concurrency_limit_by_name("other-limit")
    one = client.read_deployment_by_name("federated-task/one")
    client.request("PATCH", f"/deployments/{one.id}", json={"parameters": {"node": "elsewhere"}})
    done = apply().stdout.splitlines()
    assert done == [
        "+ concurrency limit other-limit", "~ deployment federated-task/one", "    parameters.node: 'elsewhere' -> 'site-a'", "2 changed",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("file", "old", "new", "told"),
    [
        ("federation.yaml", "posture: Reactive", "postur: Reactive", "automation test-failed: unknown key 'postur' (right would be: posture)"),
        ("federation.yaml", "block: webhook/test-alerts", "block: webhook/alerts", "block 'webhook/alerts' is not declared"),
        ("federation.yaml", "type: process", "type: proces", "there is no type 'proces' here"),
        ("prefect.yaml", "flows.federated_task.federated_task", "flows.federated_task.no_such", "no_such"),
        ("prefect.yaml", "work_pool: {name: test-pool", "work_pool: {nam: test-pool", "nam: unknown key, did you mean name?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_before_anything_changes(file: str, old: str, new: str, told: str, apply: Run, files: Path) -> None:
    path = files / file
    before = path.read_text()
    limits = files / "federation.yaml"
    try:
        limits.write_text(limits.read_text().replace("other-limit", "never-made"))
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
        done = apply(code=2)
        assert told in done.stderr
        assert done.stdout == ""
    finally:
        limits.write_text(limits.read_text().replace("never-made", "other-limit"))
        path.write_text(before)


def test_left_with_nothing_it_takes_away_all_that_it_made_and_no_more(apply: Run, files: Path, client: SyncPrefectClient) -> None:
    (files / "federation.yaml").write_text("name: of_test\n")
    (files / "prefect.yaml").write_text("name: of-test\nprefect-version: 3.8.8\npull: []\ndeployments: []\n")
    names = {pool.name for pool in client.read_work_pools()}
    apply()
    assert names - {pool.name for pool in client.read_work_pools()} == {"test-pool"}
    assert client.read_automations_by_name("test-failed") == []
    variable = client.read_variable_by_name("fem_applied_of_test")
    assert variable is not None
    assert isinstance(variable.value, dict)
    assert not any(variable.value.values())
