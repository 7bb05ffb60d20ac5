"""Looking on at an execution that somebody else runs: new attempts are followed, and it ends when nothing more may come."""

from __future__ import annotations

import asyncio

import pytest

from fdn_worker.errors import Fault
from fdn_worker.protocol import Reason, State, TaskEvent
from federation import onlooker
from federation.centre import Centre, Submission
from federation.onlooker import look_on
from federation.request import TaskRequest
from tests.support.waiting import SOON
from tests.unit.helpers import MOMENT

BROKEN = Reason(code="launcher-unavailable", fault=Fault.INFRASTRUCTURE, message="Docker does not answer")
WRONG = Reason(code="exit-code", fault=Fault.USER, message="the task ended with exit code 1")


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onlooker, "LOOK", 0.02)
    monkeypatch.setattr(onlooker, "LINGER", 0.3)


@pytest.fixture
def one(centre: Centre) -> Submission:
    submission = centre.stage_in(TaskRequest(node="site-a", argv=("true",)), "k")
    centre.dispatch(submission)
    return submission


def end(centre: Centre, one: Submission, attempt: int, state: State, reason: Reason | None = None) -> None:
    of = {"execution": one.execution, "task": one.task, "node": one.node, "run": one.run, "attempt": attempt, "at": MOMENT}
    centre.records.record_events([
        TaskEvent(**of, number=1, lines=(f"attempt {attempt}",)), TaskEvent(**of, number=2, state=state, reason=reason)
    ])  # fmt: skip


def seen(centre: Centre, one: Submission, *, again: bool = False) -> list[str]:
    """Lines and states; with `again`, the first end that is seen is followed by another attempt, which succeeds."""
    found: list[str] = []

    async def look() -> None:
        async with asyncio.timeout(SOON):
            async for due in look_on(centre, one.execution, lambda _: True, "test"):
                found.extend(word for event in due for word in (*event.lines, *([event.state] if event.state else [])))
                if again and found[-1] == State.FAILED:
                    centre.order_again(one.run, 2)
                    end(centre, one, 2, State.SUCCEEDED)

    asyncio.run(look())
    return found


def test_another_attempt_is_followed(centre: Centre, one: Submission) -> None:
    end(centre, one, 1, State.FAILED, BROKEN)
    assert seen(centre, one, again=True) == ["attempt 1", "FAILED", "attempt 2", "SUCCEEDED"]


@pytest.mark.parametrize("reason", [WRONG, BROKEN])
def test_it_ends_where_no_other_attempt_comes(centre: Centre, one: Submission, reason: Reason) -> None:
    end(centre, one, 1, State.FAILED, reason)
    assert seen(centre, one) == ["attempt 1", "FAILED"]


def test_a_closed_execution_ends_it_at_once(centre: Centre, one: Submission, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onlooker, "LINGER", 3600.0)
    end(centre, one, 1, State.FAILED, BROKEN)
    centre.records.close_execution(str(one.execution), "FAILED")
    assert seen(centre, one) == ["attempt 1", "FAILED"]
