"""Suspended executions: when the flow of one has something to do again. No process waits meanwhile; the records have all that is said."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from uuid import UUID

from fdn_worker.errors import Fault
from fdn_worker.protocol import State, now
from federation.catalogue.arguments import Role, roles
from federation.catalogue.tool import Tool
from federation.centre import Centre
from federation.execution import Job
from federation.following import MENDABLE
from federation.tool_request import ToolRequest
from federation.waiting import COMPUTED, LENIENCE
from storage.records import AttemptRow, ExecutionRow, RunRow

Pairs = Sequence[tuple[RunRow, AttemptRow]]


def job_of(row: ExecutionRow, pairs: Pairs = ()) -> Job:
    """The job of a tool's execution as the records have it. What was never ordered is not in its states."""
    assert row.document is not None, "a single task has no job"
    tool = Tool.model_validate_json(row.document)
    asked = ToolRequest.model_validate_json(row.request)
    states = {(run.task, run.node): State(attempt.state) for run, attempt in pairs}
    return Job(UUID(row.id), tool, asked, roles(tool, asked), states=states)


def due_among(centre: Centre, executions: Sequence[str]) -> list[ExecutionRow]:
    """Those of these executions that are suspended and have something to do again."""
    return [row for row in centre.records.wanted.suspended(executions) if due(centre, row, now())]


def due(centre: Centre, row: ExecutionRow, at: datetime) -> str:
    """What a process of its flow would do at once; "" while it would but wait."""
    pairs = centre.records.current_attempts(row.id)
    still = [attempt for _, attempt in pairs if not State(attempt.state).terminal]
    if not still:
        return "all has ended"
    if any(at > ends_by(attempt, centre.settings.release) for attempt in still):
        return "a deadline has passed"
    # What was asked to end is only waited for.
    if row.document is None or all(attempt.cancel_requested for attempt in still):
        return ""
    job = job_of(row, pairs)
    for role in job.roles:
        if why := _of_task(job, role, [attempt for run, attempt in pairs if run.task == role.task]):
            return why
    if job.asked.fail_fast and not job.tally().reachable(job.asked.needed):
        return "the quorum cannot be reached"
    return _of_sides(centre, job, pairs) if job.servers else ""


def ends_by(attempt: AttemptRow, release: float) -> datetime:
    """The deadline that counts in the attempt's present state; `release` in seconds."""
    return attempt.deadline + timedelta(seconds=LENIENCE + (release if State(attempt.state) in COMPUTED else 0.0))


def _of_task(job: Job, role: Role, attempts: Sequence[AttemptRow]) -> str:
    """New attempts, and runs whose turn it is."""
    for attempt in attempts:
        mendable = State(attempt.state) in MENDABLE and attempt.reason_fault == Fault.INFRASTRUCTURE and attempt.dispatched is not None
        if mendable and not role.server and attempt.attempt <= job.asked.retries:
            return "an attempt is to be made anew"
    still = [attempt for attempt in attempts if not State(attempt.state).terminal]
    under_way = sum(attempt.dispatched is not None for attempt in still)
    if under_way < len(still) and (job.asked.max_parallel is None or under_way < job.asked.max_parallel):
        return "there is room for more"
    return ""


def _of_sides(centre: Centre, job: Job, pairs: Pairs) -> str:
    """A server and its clients: the end of the one side ends the other."""
    open_tasks = {task for (task, _), state in job.states.items() if not state.terminal}
    if any(not open_tasks & {role.task for role in side} for side in (job.servers, job.clients) if _ordered(job, side)):
        return "one side has ended"
    if _ordered(job, job.clients):
        return ""
    serving = [(run, attempt) for run, attempt in pairs if run.task not in {role.task for role in job.clients}]
    listening = all(any(event.listening for event in centre.records.events_of(run.id, attempt.attempt)) for run, attempt in serving)
    return "its servers listen" if listening else ""


def _ordered(job: Job, side: Sequence[Role]) -> bool:
    return any((role.task, node) in job.states for role in side for node in role.nodes)
