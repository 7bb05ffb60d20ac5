"""The reconciler's pass, with flow runs that stand as the test says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import pytest

from fdn_worker.errors import StoreUnavailable
from fdn_worker.protocol import State, now
from fdn_worker.protocol.names import command_queue, control_queue
from federation import execution, reconciling
from federation.centre import Centre
from federation.execution import Job
from federation.reconciling import FlowRunLife, Life, Reconciled
from federation.request import TaskRequest
from storage.records import ExecutionRow
from tests.unit.jobs import NODES, SERVED, begin, row_of, says, states_of

LONG_AGO = timedelta(hours=1)


class Prefect:
    """How flow runs stand, and which were resumed."""

    def __init__(self) -> None:
        self.runs: dict[str, FlowRunLife] = {}
        self.resumed: list[str | None] = []

    def stands(self, life: Life, *, ago: timedelta = LONG_AGO, run: str = "flow", state: str = "So") -> None:
        self.runs[run] = FlowRunLife(life, now() - ago, state)

    def lives(self, ids: Sequence[str]) -> Mapping[str, FlowRunLife]:
        return {run: life for run, life in self.runs.items() if run in ids}

    def resume(self, row: ExecutionRow) -> bool:
        self.resumed.append(row.flow_run)
        return True


@pytest.fixture
def prefect() -> Prefect:
    return Prefect()


Pass = Callable[[], Reconciled]


@pytest.fixture
def once(centre: Centre, prefect: Prefect) -> Pass:
    return lambda: reconciling.reconcile(centre, prefect.lives, prefect.resume)


def controls(centre: Centre, node: str) -> int:
    depth = centre.broker.depth(control_queue(node))
    assert depth is not None
    return depth.messages


def sent(centre: Centre, **asked: object) -> Job:
    job = begin(centre, **asked)  # type: ignore[arg-type]
    for node in NODES:
        says(centre, job, node, State.RUNNING)
    return job


@pytest.mark.parametrize("life", [Life.LIVE, Life.SUSPENDED])
def test_what_a_live_flow_run_wants_goes_on(centre: Centre, prefect: Prefect, once: Pass, life: Life) -> None:
    job = sent(centre)
    prefect.stands(life)
    assert once() == Reconciled(looked=1)
    assert (states_of(centre, job), controls(centre, "site-a")) == (["RUNNING", "RUNNING"], 0)


def test_a_cancelled_one_is_ended_at_once_and_closed_when_the_nodes_have(centre: Centre, prefect: Prefect, once: Pass) -> None:
    job = sent(centre)
    name = str(job.execution)
    centre.records.wanted.suspend(name, "flow")
    prefect.stands(Life.CANCELLED, ago=timedelta(0))
    assert once() == Reconciled(looked=1, cancelled=[name])
    assert [controls(centre, node) for node in NODES] == [1, 1]
    assert row_of(centre, job).suspended is None, "what a person retries was not suspended"
    says(centre, job, "site-a", State.CANCELLED)
    assert once() == Reconciled(looked=1, cancelled=[name])
    assert [controls(centre, node) for node in NODES] == [1, 2], "told until it confirms"
    says(centre, job, "site-b", State.CANCELLED)
    assert once() == Reconciled(looked=1, closed=[name])
    assert (row_of(centre, job).state, row_of(centre, job).outcome) == ("CANCELLED", "cancelled; 0/2 nodes had succeeded")
    assert once() == Reconciled(looked=0)


def test_a_crashed_one_has_its_grace(centre: Centre, prefect: Prefect, once: Pass) -> None:
    job = sent(centre)
    prefect.stands(Life.OVER, ago=timedelta(minutes=9), state="Crashed")
    assert once() == Reconciled(looked=1)
    prefect.stands(Life.OVER, ago=timedelta(minutes=11), state="Crashed")
    assert once().cancelled == [str(job.execution)]
    for node in NODES:
        says(centre, job, node, State.CANCELLED)
    assert once().closed == [str(job.execution)]
    assert (row_of(centre, job).state, row_of(centre, job).outcome) == ("FAILED", "0/2 nodes succeeded, 2 were needed")


def test_one_that_prefect_does_not_know_has_its_grace_from_its_submission(
    centre: Centre, once: Pass, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = sent(centre)
    assert once() == Reconciled(looked=1)
    later = now() + timedelta(minutes=11)
    monkeypatch.setattr(reconciling, "now", lambda: later)
    assert once().cancelled == [str(job.execution)]


def test_what_all_nodes_have_done_is_closed_with_its_verdict(centre: Centre, prefect: Prefect, once: Pass) -> None:
    job = sent(centre, quorum=1)
    says(centre, job, "site-a", State.SUCCEEDED)
    says(centre, job, "site-b", State.CANCELLED)
    prefect.stands(Life.OVER)
    assert once() == Reconciled(looked=1, closed=[str(job.execution)])
    assert (row_of(centre, job).state, row_of(centre, job).outcome) == ("DEGRADED", "1/2")


def test_what_was_not_sent_is_ended_where_it_is(centre: Centre, prefect: Prefect, once: Pass) -> None:
    job = begin(centre, send=False)
    prefect.stands(Life.OVER)
    done = once()
    assert (done.cancelled, done.closed) == ([str(job.execution)], [str(job.execution)])
    assert states_of(centre, job) == ["CANCELLED", "CANCELLED"]
    assert centre.broker.depth(command_queue("site-a")).messages == 0  # type: ignore[union-attr]


def test_clients_that_were_never_ordered_are_part_of_the_verdict(centre: Centre, prefect: Prefect, once: Pass) -> None:
    job = begin(centre, SERVED)
    says(centre, job, "site-a", State.SUCCEEDED, task="server")
    prefect.stands(Life.OVER)
    assert once().closed == [str(job.execution)]
    assert row_of(centre, job).outcome == "0/2 nodes succeeded, 2 were needed"


def test_a_single_task_and_one_without_an_order(centre: Centre, prefect: Prefect, once: Pass) -> None:
    request = TaskRequest(node="site-a", argv=("true",))
    submission = centre.stage_in(request, "sent", flow_run="flow")
    centre.dispatch(submission)
    centre.lose(submission, "gone")
    bare = "0b0e4a70-7d3c-5f0a-9a51-3f1c52d2a009"
    run = ("1b0e4a70-7d3c-5f0a-9a51-3f1c52d2a009", "main", "site-a")
    centre.records.create_execution(bare, user="", project="", tool="", key="x", request_json="{}", runs=[run], flow_run="flow")
    prefect.stands(Life.OVER)
    assert set(once().closed) == {str(submission.execution), bare}
    found = [centre.records.execution(name) for name in (str(submission.execution), bare)]
    assert [row.state for row in found if row is not None] == ["LOST", "CANCELLED"]


def test_a_node_that_never_answers_ends_as_lost(centre: Centre, prefect: Prefect, once: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    job = sent(centre)
    prefect.stands(Life.CANCELLED)
    later = now() + timedelta(days=3)
    monkeypatch.setattr(reconciling, "now", lambda: later)
    done = once()
    assert (done.cancelled, done.closed) == ([str(job.execution)], [str(job.execution)])
    assert states_of(centre, job) == ["LOST", "LOST"]


def test_nodes_are_not_told_forever(centre: Centre, prefect: Prefect, once: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    sent(centre)
    prefect.stands(Life.CANCELLED)
    once()
    later = now() + timedelta(seconds=reconciling.INSIST + 60)
    monkeypatch.setattr(reconciling, "now", lambda: later)
    assert once() == Reconciled(looked=1)
    assert controls(centre, "site-a") == 1


def test_a_suspended_one_whose_wake_up_was_lost_is_resumed(centre: Centre, prefect: Prefect, once: Pass) -> None:
    job = sent(centre)
    centre.records.wanted.suspend(str(job.execution), "flow")
    prefect.stands(Life.SUSPENDED)
    assert once() == Reconciled(looked=1)
    for node in NODES:
        says(centre, job, node, State.SUCCEEDED)
    assert once() == Reconciled(looked=1, resumed=[str(job.execution)])
    prefect.stands(Life.LIVE)
    assert once() == Reconciled(looked=1), "it is on its way"
    assert prefect.resumed == ["flow"]


def test_a_lost_run_that_is_back_after_its_execution_was_closed(centre: Centre, once: Pass) -> None:
    job = sent(centre)
    for one in centre.submissions(job.execution):
        centre.lose(one, "gone")
    execution.close(centre, job, [result for role in job.roles for result in execution.stage_out(centre, job, role)])
    says(centre, job, "site-a", State.RUNNING)
    says(centre, job, "site-b", State.STAGING_OUT)
    assert once() == Reconciled(looked=0, cancelled=[str(job.execution)])


def test_a_fault_with_one_leaves_it_to_the_next_pass(centre: Centre, prefect: Prefect, once: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [sent(centre, key=str(number)) for number in range(3)]
    for job in jobs:
        for node in NODES:
            says(centre, job, node, State.SUCCEEDED)
    prefect.stands(Life.OVER)
    broken, stage_out = jobs[1].execution, execution.stage_out

    def fails(at: Centre, job: Job, role: object) -> object:
        if job.execution == broken:
            raise StoreUnavailable("the store does not answer")
        return stage_out(at, job, role)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(execution, "stage_out", fails)
        done = once()
    assert (done.left, len(done.closed)) == ([str(broken)], 2)
    assert once().closed == [str(broken)]


def test_pages_are_gone_through(centre: Centre, prefect: Prefect, once: Pass, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciling, "PAGE", 2)
    jobs = [begin(centre, key=str(number), flow_run=f"flow-{number}") for number in range(5)]
    prefect.runs = {f"flow-{number}": FlowRunLife(Life.LIVE, now(), "Running") for number in range(5)}
    prefect.stands(Life.CANCELLED, run="flow-4")
    assert once() == Reconciled(looked=5, cancelled=[str(jobs[4].execution)])
