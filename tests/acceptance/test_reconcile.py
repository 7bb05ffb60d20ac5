"""The three layers of a cancel on a real Prefect server with a process worker: the flow's process, its hook, and the reconciler."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from datetime import timedelta

import pytest
from prefect.client.schemas.objects import FlowRun
from prefect.states import Cancelling

from tests.support.prefect_pool import Pool, automation, pool
from tests.support.waiting import eventually


@pytest.fixture(scope="module")
def waits(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    with pool("cancels", tmp_path_factory.mktemp("cancels"), environment) as made:
        yield made


def running(waits: Pool, **parameters: float) -> FlowRun:
    """A run whose three nodes are at work."""
    run = waits.start(**parameters)
    waits.all_are(run, "RUNNING")
    return run


def reconcile(waits: Pool, grace: float = 0) -> list[str]:
    """`fem reconcile`, by hand; what it did."""
    return waits.command("fem", "reconcile", "--grace", str(grace)).stdout.splitlines()


def check_reconciled(waits: Pool, run: FlowRun, state: str) -> None:
    """The reconciler ends it at the nodes, each of which confirms; the next pass closes it, and the one after has nothing to do."""
    execution = waits.execution(run).id
    assert reconcile(waits) == [f"cancelled {execution}", "1 open executions; 1 cancelled, 0 closed, 0 resumed, 0 left"]
    waits.all_are(run, "CANCELLED")
    assert reconcile(waits) == [f"closed {execution}", "1 open executions; 0 cancelled, 1 closed, 0 resumed, 0 left"]
    assert waits.execution(run).state == state
    assert reconcile(waits) == ["0 open executions; 0 cancelled, 0 closed, 0 resumed, 0 left"]


def test_cancelled_in_the_ui_every_node_confirms(waits: Pool) -> None:
    run = running(waits)
    waits.client.set_flow_run_state(run.id, Cancelling())
    waits.all_are(run, "CANCELLED")
    waits.reach(run, "Cancelled")
    eventually("the flow's process closed it", lambda: waits.execution(run).state == "CANCELLED")
    assert waits.execution(run).outcome == "cancelled; 0/3 nodes had succeeded"


def test_a_suspended_one_that_is_cancelled_has_no_process_to_hear_of_it(waits: Pool) -> None:
    run = running(waits, suspend_after=1)
    waits.reach(run, "Suspended")
    waits.client.set_flow_run_state(run.id, Cancelling())
    waits.reach(run, "Cancelled")
    assert set(waits.states(run)) == {"RUNNING"}
    check_reconciled(waits, run, "CANCELLED")


def test_a_process_that_was_killed_leaves_its_nodes_to_the_reconciler(waits: Pool) -> None:
    run = running(waits)
    os.kill(waits.processes_of(run)[0], signal.SIGKILL)
    waits.reach(run, "Crashed")
    execution = waits.execution(run).id
    assert reconcile(waits, 600) == ["1 open executions; 0 cancelled, 0 closed, 0 resumed, 0 left"], "a retry may take it up"
    assert set(waits.states(run)) == {"RUNNING"}, execution
    check_reconciled(waits, run, "FAILED")


@pytest.mark.timeout(480)
def test_a_worker_of_prefects_that_was_terminated(waits: Pool) -> None:
    dead_runs = automation("federation-dead-runs")
    dead_runs.trigger.within = timedelta(seconds=45)
    automation_id = waits.client.create_automation(dead_runs)
    run = running(waits)
    waits.worker.send_signal(signal.SIGTERM)
    waits.worker.wait(60)
    eventually("the flow's process is gone", lambda: not waits.processes_of(run))
    left = waits.flow_run(run).state
    assert left is not None
    assert left.name == "Running", "nobody has told Prefect"
    assert reconcile(waits)[-1] == "1 open executions; 0 cancelled, 0 closed, 0 resumed, 0 left"
    # Once the heartbeats, every 30 s, have stopped.
    waits.reach(run, "Crashed", seconds=300)
    check_reconciled(waits, run, "FAILED")
    waits.client.delete_automation(automation_id)
    waits.start_worker()
