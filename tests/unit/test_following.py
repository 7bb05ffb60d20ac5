"""Following a task over its nodes, with nodes that are played by the test: what had ended before anybody listened, above all."""

from __future__ import annotations

import asyncio
from pathlib import Path

from fdn_worker.errors import Fault
from fdn_worker.protocol import Reason, State
from federation import execution, following
from federation.catalogue.tool import Tool
from federation.centre import Centre
from federation.enrol import enrol
from federation.execution import Job
from federation.tool_request import ToolRequest
from tests.support.waiting import SOON
from tests.unit.helpers import an_event

TOOL = Tool.model_validate({"name": "nothing", "tasks": [{"command": {"base": ["true"]}}]})
BROKEN = Reason(code="launcher-unavailable", fault=Fault.INFRASTRUCTURE, message="Docker does not answer")


def opened(centre: Centre, **fields: object) -> tuple[Job, list[execution.Submission]]:
    asked = ToolRequest.model_validate({"tool": "nothing", "nodes": ("site-a", "site-b")} | fields)
    job = execution.open_job(centre, TOOL, asked, "k")
    submissions = execution.stage_in(centre, job, job.roles[0])
    centre.dispatch_all(following.first_of(job, submissions), job.execution)
    return job, submissions


def say(centre: Centre, submission: execution.Submission, attempt: int, state: State, reason: Reason | None = None) -> None:
    centre.records.record_events([an_event(centre.order(submission.run, attempt), 1, state=state, reason=reason)])


async def followed(centre: Centre, job: Job, submissions: list[execution.Submission]) -> list[tuple[str, int, State | None]]:
    async with asyncio.timeout(SOON):
        return [
            (event.node, event.attempt, event.state) async for event in following.follow(centre, job, job.roles[0], submissions)
        ]  # fmt: skip


async def test_what_ended_before_it_was_followed_is_told_and_tried_again(centre: Centre) -> None:
    """A node may be quicker than the centre's next step, and a flow may be resumed long after the end."""
    job, submissions = opened(centre, retries=1)
    for one in submissions:
        say(centre, one, 1, State.FAILED, BROKEN)
    again = centre.dispatch_all

    def at_once(due: list[execution.Submission], of: object) -> int:
        sent = again(due, job.execution)
        for one in due:
            say(centre, one, 2, State.SUCCEEDED)
        return sent

    centre.dispatch_all = at_once  # type: ignore[method-assign, assignment]
    assert sorted(await followed(centre, job, submissions)) == [
        (node, attempt, state) for node in ("site-a", "site-b") for attempt, state in ((1, State.FAILED), (2, State.SUCCEEDED))
    ]
    assert job.verdict().name == "Succeeded"


async def test_the_next_in_turn_is_sent_though_all_before_had_ended(centre: Centre) -> None:
    job, submissions = opened(centre, max_parallel=1)
    sent = centre.dispatch_all

    def at_once(due: list[execution.Submission], of: object) -> int:
        for one in due:
            say(centre, one, 1, State.SUCCEEDED)
        return sent(due, job.execution)

    say(centre, submissions[0], 1, State.SUCCEEDED)
    centre.dispatch_all = at_once  # type: ignore[method-assign, assignment]

    async def nudged() -> list[tuple[str, int, State | None]]:
        # site-b's word is in the records alone: it is found after a silence, here at once.
        found = asyncio.create_task(followed(centre, job, submissions))
        while not found.done():
            for watch in job.watches:
                for one in watch.open:
                    one.silence = 0.01
                await watch.look()
            await asyncio.sleep(0.02)
        return found.result()

    assert sorted(await nudged()) == [("site-a", 1, State.SUCCEEDED), ("site-b", 1, State.SUCCEEDED)]


async def test_it_returns_when_its_time_is_up(centre: Centre, tmp_path: Path) -> None:
    job, submissions = opened(centre)
    async with asyncio.timeout(SOON):
        async for event in following.follow(centre, job, job.roles[0], submissions, within=0.05):
            raise AssertionError(event)
    assert job.tally().open == 2
    assert job.watches == []


async def test_taken_up_again_it_sends_the_next_in_turn_and_no_more(centre: Centre) -> None:
    """As after a suspension: the first has ended, the second was sent by the process before, and is still under way."""
    for node in ("site-c", "site-d"):
        enrol(centre.broker, centre.records, node)
    job, submissions = opened(centre, nodes=("site-a", "site-b", "site-c", "site-d"), max_parallel=1)
    centre.dispatch_all(submissions[1:2], job.execution)
    say(centre, submissions[0], 1, State.SUCCEEDED)
    sent: list[str] = []
    dispatch = centre.dispatch_all
    centre.dispatch_all = lambda due, of: sent.extend(one.node for one in due) or dispatch(due, of)  # type: ignore[method-assign]
    async with asyncio.timeout(SOON):
        async for _ in following.follow(centre, job, job.roles[0], submissions, within=0.3):
            assert sent == []
    assert sent == []
    say(centre, submissions[1], 1, State.SUCCEEDED)
    async with asyncio.timeout(SOON):
        async for _ in following.follow(centre, job, job.roles[0], submissions, within=0.3):
            pass
    assert sent == ["site-c"]
