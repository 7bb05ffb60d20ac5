"""Following one task of an execution over its nodes: events as they come, new attempts, runs in turn, and an early end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from fdn_worker.errors import Fault
from fdn_worker.protocol import Server, State, TaskEvent
from federation.catalogue.arguments import Role
from federation.centre import Centre, Submission
from federation.execution import Job
from federation.waiting import Followed, Watch

log = logging.getLogger(__name__)

#: Ends that a new attempt may mend, if the infrastructure is at fault.
MENDABLE = frozenset({State.FAILED, State.LOST})


def first_of(job: Job, submissions: Sequence[Submission]) -> Sequence[Submission]:
    """Those that are dispatched at once; the others follow as these end."""
    return submissions if job.asked.max_parallel is None else submissions[: job.asked.max_parallel]


async def follow(
    centre: Centre, job: Job, role: Role, submissions: Sequence[Submission], *, follower: str = "wait", within: float | None = None
) -> AsyncIterator[TaskEvent]:
    """The events of a task's runs, each run's in order, until all have ended; also those of new attempts made meanwhile.

    Attempts that faults of the infrastructure ended are made anew as often as the submission allows; runs beyond
    `max_parallel` are sent as others end; with `fail_fast` the job ends once its quorum cannot be reached. Ends early
    after `within` seconds: the runs go on.
    """
    loop = asyncio.get_running_loop()
    until = None if within is None else loop.time() + within
    async with Watch(centre, job.execution, f"{follower}-{role.task}"[:63].strip("-")) as watch:
        job.watches.append(watch)
        try:
            await watch.add(submissions)
            while True:
                due = await watch.next(None if until is None else until - loop.time())
                for event in due:
                    job.states[role.task, event.node] = watch.runs[event.run].state
                    _listens(job, event)
                    yield event
                await _mend(centre, watch, job, role)
                await _send_more(centre, watch, job, role)
                await _give_up(centre, job)
                # What had ended before it was followed is told by the first turn all the same.
                if (not due and not watch.open) or (until is not None and loop.time() >= until):
                    return
        finally:
            job.watches.remove(watch)


def _listens(job: Job, event: TaskEvent) -> None:
    known = job.listening.get(event.task)
    if event.listening and known is not None and not known.done():
        ports = {endpoint.port: endpoint.published for endpoint in event.listening}
        known.set_result(Server(node=event.node, host=event.listening[0].host, ports=ports))


async def _mend(centre: Centre, watch: Watch, job: Job, role: Role) -> None:
    """Make new attempts of what the infrastructure's faults ended."""
    ended = [one for one in watch.runs.values() if one.ended and one.state in MENDABLE and one.submission.retries > 0]
    if not ended or job.ending or role.server:
        return
    again = await asyncio.to_thread(_renew, centre, ended)
    if again:
        await asyncio.to_thread(centre.dispatch_all, again, job.execution)
        await watch.add(again)
        job.states |= {(role.task, one.node): State.QUEUED for one in again}


def _renew(centre: Centre, ended: Sequence[Followed]) -> list[Submission]:
    again = []
    for one in ended:
        submission = one.submission
        row = centre.attempt(submission.run, submission.attempt)
        if row.reason_fault == Fault.INFRASTRUCTURE and State(row.state) in MENDABLE and row.dispatched is not None:
            centre.order_again(submission.run, submission.attempt + 1)
            again.append(replace(submission, attempt=submission.attempt + 1, retries=submission.retries - 1))
            log.info("%s at %s: attempt %d", submission.task, submission.node, submission.attempt + 1, extra={"action": "attempt-again"})
        else:
            one.submission = replace(submission, retries=0)
    return again


async def _send_more(centre: Centre, watch: Watch, job: Job, role: Role) -> None:
    """Send as many of those that wait for their turn as others have ended."""
    for one in watch.runs.values():
        job.states[role.task, one.submission.node] = one.state
    if job.asked.max_parallel is None or job.ending:
        return
    room = job.asked.max_parallel - sum(one.sent for one in watch.open)
    more = [one for one in watch.open if not one.sent][: max(0, room)]
    if more:
        await asyncio.to_thread(centre.dispatch_all, [one.submission for one in more], job.execution)
        for one in more:
            one.sent = True


async def _give_up(centre: Centre, job: Job) -> None:
    if job.asked.fail_fast and not job.ending and not job.tally().reachable(job.asked.needed):
        tally = job.tally()
        await end(centre, job, f"{tally.failed} of {tally.nodes} nodes failed, {job.asked.needed} were to succeed")


async def end(centre: Centre, job: Job, why: str, role: Role | None = None) -> None:
    """End what still runs of the job, or of one task of it; each node confirms by its event."""
    if role is None:
        job.ending = why
    await asyncio.to_thread(centre.cancel, job.execution, why, task=role.task if role else None)
    for watch in job.watches:
        await watch.look()
