"""Suspended waits on a real Prefect server: no process while the nodes work, and the end of the runs brings one back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.exceptions import Pause
from prefect.flow_engine import run_flow_async
from prefect.settings import PREFECT_HOME, temporary_settings
from prefect.states import Pending

from fdn_worker.errors import Fault
from fdn_worker.protocol import Reason
from flows import connection, suspending
from flows.execute_tool import execute_tool
from flows.server import prefect_server
from tests.support.prefect_pool import NODES, Pool, automation, pool, resident
from tests.support.rig import eventually

from .conftest import SEED

#: Executions that are suspended at once, and bytes that the relay may grow meanwhile, for whatever reason.
MANY, GROWTH = 500, 8 * 2**20


@pytest.fixture(scope="module")
def waits(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with pool("waits", tmp_path_factory.mktemp("waits"), environment) as made:
        automation_id = made.client.create_automation(automation("federation-resume"))
        yield made
        made.client.delete_automation(automation_id)


def suspended(waits: Pool, **parameters: Any) -> FlowRun:
    """A run whose process is gone while its nodes work."""
    run = waits.start(suspend_after=1, **parameters)
    waits.reach(run, "Suspended")
    eventually("its process is gone", lambda: not waits.processes_of(run))
    waits.all_are(run, "RUNNING")
    assert waits.execution(run).suspended is not None
    return run


def check_done_once(waits: Pool, run: FlowRun) -> None:
    """It ended well, in its second process, and each node was sent one order."""
    ended = waits.reach(run, "Succeeded")
    assert ended.state is not None
    assert ended.state.message == "nothing: Succeeded, 3/3, 0 outputs"
    row = waits.execution(run)
    assert (row.state, row.suspended, row.flow_run) == ("SUCCEEDED", None, str(run.id))
    assert sorted(order.node for order in waits.nodes.orders if str(order.execution) == row.id) == list(NODES)


def test_the_end_of_the_runs_resumes_it_in_another_process(waits: Pool) -> None:
    run = suspended(waits)
    waits.gates.open("n1")
    eventually("one has ended", lambda: "SUCCEEDED" in waits.states(run))
    assert waits.execution(run).id not in waits.log("relay"), "there is nothing to do yet"
    waits.gates.open("n2", "n3")
    check_done_once(waits, run)


def test_an_answer_between_the_look_and_the_suspension_is_not_lost(waits: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The flow in this process, so that the answer comes at just that moment: the relay's announcement then finds nothing to resume."""
    for name, value in waits.environment.items():
        if name.startswith(("FEM_", "PREFECT_")):
            monkeypatch.setenv(name, value)
    run = waits.client.create_flow_run_from_deployment(waits.deployment, parameters={"suspend_after": 1}, state=Pending())

    async def late(**options: Any) -> None:
        waits.gates.open(*NODES)
        await asyncio.to_thread(waits.all_are, run, "SUCCEEDED")
        announced = f"{waits.execution(run).id} has something to do again"
        await asyncio.to_thread(eventually, "it was announced", lambda: announced in waits.log("relay"))
        await asuspend(**options)

    asuspend: Any = suspending.suspend_flow_run
    monkeypatch.setattr(suspending, "suspend_flow_run", late)
    parameters = execute_tool.validate_parameters(run.parameters)
    with temporary_settings({PREFECT_HOME: waits.environment["PREFECT_HOME"]}), pytest.raises(Pause):
        asyncio.run(run_flow_async(execute_tool, flow_run=waits.flow_run(run), parameters=parameters))  # type: ignore[arg-type]
    connection.close()
    check_done_once(waits, run)


def test_a_wait_that_could_not_be_resumed_is_not_suspended(waits: Pool) -> None:
    run = waits.start(suspend_after=0)
    waits.all_are(run, "RUNNING")
    waits.gates.open(*NODES)
    check_done_once(waits, run)
    states = [state.name for state in waits.client.read_flow_run_states(run.id)]
    assert "Suspended" not in states


def test_what_a_new_attempt_may_mend_resumes_it(waits: Pool) -> None:
    run = suspended(waits, retries=1)
    broken = Reason(code="launcher-unavailable", fault=Fault.INFRASTRUCTURE, message="Docker does not answer")
    waits.gates.open("n2", end=broken)
    eventually("the second attempt is ordered", lambda: 2 in {order.attempt for order in waits.nodes.orders})
    waits.gates.open(*NODES)
    waits.reach(run, "Succeeded")
    attempts = [len(waits.centre.records.attempts_of(row.id)) for row in waits.centre.records.runs_of(waits.execution(run).id)]
    assert attempts == [1, 2, 1]


def test_hundreds_of_suspended_executions_cost_no_memory(waits: Pool) -> None:
    run = suspended(waits)
    row = waits.execution(run)
    before = resident(waits.relay.pid)
    for _ in range(MANY - 1):
        name, of = str(uuid4()), str(uuid4())
        waits.centre.records.create_execution(
            name, user="", project="", tool=row.tool, key=name, request_json=row.request, runs=[(of, "main", "n1")],
            document=row.document, flow_run=str(uuid4()),
        )  # fmt: skip
        waits.centre.records.wanted.suspend(name, str(waits.centre.records.execution(name).flow_run))  # type: ignore[union-attr]
    waits.gates.open(*NODES)
    check_done_once(waits, run)
    grown = resident(waits.relay.pid) - before
    print(f"relay: {before / 2**20:.0f} MiB, {grown / 2**20:+.1f} MiB with {MANY} suspended executions")
    assert grown < GROWTH
    page = waits.centre.records.wanted.page(None, MANY)
    assert len([one for one in page if one.suspended]) == MANY - 1, "none but the right one was resumed"


def test_a_restart_of_the_server_meanwhile(environment: dict[str, str], tmp_path: Path) -> None:
    home = tmp_path / "prefect"
    with ExitStack() as stack:
        with prefect_server(home, seed=SEED) as api:
            waits = stack.enter_context(pool("restart", tmp_path / "waits", environment | api))
            waits.client.create_automation(automation("federation-resume"))
            run = suspended(waits)
        stack.enter_context(prefect_server(home, port=int(api["PREFECT_API_URL"].rpartition(":")[2].partition("/")[0])))
        waits.gates.open(*NODES)
        check_done_once(waits, run)
