"""When a suspended execution has something to do again; and whose it is."""

from __future__ import annotations

from datetime import timedelta

from fdn_worker.errors import Fault
from fdn_worker.protocol import Endpoint, Reason, State, now
from federation import execution
from federation.centre import Centre
from federation.execution import Job
from federation.request import TaskRequest
from federation.suspension import due, due_among
from tests.unit.jobs import SERVED, begin, row_of, says

BROKEN = Reason(code="launcher-unavailable", fault=Fault.INFRASTRUCTURE, message="Docker does not answer")
WRONG = Reason(code="exit-code", fault=Fault.USER, message="the task ended with exit code 1")


def why(centre: Centre, job: Job) -> str:
    return due(centre, row_of(centre, job), now())


def test_while_something_runs_it_waits_and_not_longer(centre: Centre) -> None:
    job = begin(centre)
    says(centre, job, "site-a", State.RUNNING, State.SUCCEEDED)
    says(centre, job, "site-b", State.RUNNING)
    assert why(centre, job) == ""
    says(centre, job, "site-b", State.SUCCEEDED)
    assert why(centre, job) == "all has ended"


def test_a_deadline_that_passed(centre: Centre) -> None:
    job = begin(centre)
    later = now() + timedelta(days=30)
    assert due(centre, row_of(centre, job), later) == "a deadline has passed"


def test_a_fault_that_a_new_attempt_may_mend(centre: Centre) -> None:
    job = begin(centre, retries=1)
    says(centre, job, "site-a", State.FAILED, reason=WRONG)
    assert why(centre, job) == "", "a user's failure is not tried again"
    says(centre, job, "site-b", State.ACCEPTED)
    again = begin(centre, key="again", retries=1)
    says(centre, again, "site-a", State.FAILED, reason=BROKEN)
    assert why(centre, again) == "an attempt is to be made anew"
    never = begin(centre, key="never")
    says(centre, never, "site-a", State.FAILED, reason=BROKEN)
    assert why(centre, never) == ""


def test_room_for_the_next_one(centre: Centre) -> None:
    job = begin(centre, max_parallel=1)
    assert why(centre, job) == ""
    says(centre, job, "site-a", State.SUCCEEDED)
    assert why(centre, job) == "there is room for more"


def test_a_quorum_out_of_reach(centre: Centre) -> None:
    job = begin(centre, fail_fast=True)
    says(centre, job, "site-a", State.FAILED, reason=WRONG)
    assert why(centre, job) == "the quorum cannot be reached"
    centre.cancel(job.execution, "failed fast")
    assert why(centre, job) == "", "what was asked to end is waited for"


def test_a_server_that_listens_has_its_clients_started(centre: Centre) -> None:
    job = begin(centre, SERVED)
    says(centre, job, "site-a", State.RUNNING, task="server")
    assert why(centre, job) == ""
    says(centre, job, "site-a", State.RUNNING, task="server", listening=(Endpoint(host="h", port=8000, published=8000),))
    assert why(centre, job) == "its servers listen"


def test_the_end_of_one_side(centre: Centre) -> None:
    job = begin(centre, SERVED)
    for role in job.clients:
        centre.dispatch_all(execution.stage_in(centre, job, role), job.execution)
    assert why(centre, job) == ""
    says(centre, job, "site-a", State.SUCCEEDED, task="client")
    assert why(centre, job) == ""
    says(centre, job, "site-b", State.SUCCEEDED, task="client")
    assert why(centre, job) == "one side has ended"


def test_a_single_task(centre: Centre) -> None:
    submission = centre.stage_in(TaskRequest(node="site-a", argv=("true",)), "single", flow_run="flow")
    centre.dispatch(submission)
    row = centre.records.execution(str(submission.execution))
    assert row is not None
    assert row.flow_run == "flow"
    assert due(centre, row, now()) == ""
    centre.lose(submission, "gone")
    assert due(centre, row, now()) == "all has ended"


def test_only_what_is_suspended_is_told(centre: Centre) -> None:
    jobs = [begin(centre, key=str(number)) for number in range(3)]
    for job in jobs[:2]:
        for node in ("site-a", "site-b"):
            says(centre, job, node, State.SUCCEEDED)
    for job in jobs[1:]:
        assert centre.records.wanted.suspend(str(job.execution), "flow")
    assert [row.id for row in due_among(centre, [str(job.execution) for job in jobs])] == [str(jobs[1].execution)]


def test_a_suspended_execution_stays_its_flow_runs(centre: Centre) -> None:
    job = begin(centre)
    name, records = str(job.execution), centre.records
    assert not records.wanted.suspend(name, "another"), "it holds its own process"
    assert records.wanted.suspend(name, "flow")
    since = row_of(centre, job).suspended
    assert records.claim_execution(name, "another") is None
    assert (row_of(centre, job).flow_run, row_of(centre, job).suspended) == ("flow", since)
    assert records.claim_execution(name, "flow") == since
    assert row_of(centre, job).suspended is None
    assert records.claim_execution(name, "another") is None
    assert row_of(centre, job).flow_run == "another"
