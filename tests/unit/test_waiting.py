"""The wait: events in order, each once, whatever way they come; and an end to every wait."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdn_worker.brokers import Handler, Subscription
from fdn_worker.protocol import ControlRequest, Heartbeat, Present, State, TaskEvent, now, pack, unpack
from fdn_worker.protocol.envelope import Signer, payload_of
from fdn_worker.protocol.names import EXECUTIONS, control_queue, execution_queue, run_id
from federation import waiting
from federation.centre import Centre, Submission
from federation.request import BadRequest, TaskRequest
from federation.waiting import Fold, Followed, Watch, events
from tests.support.waiting import SOON
from tests.unit.helpers import OPEN, an_event, an_id, an_order

ORDER = an_order()
STATES = (State.ACCEPTED, State.STAGING_IN, None, State.RUNNING, None, State.STAGING_OUT, State.SUCCEEDED)
HISTORY = [an_event(ORDER, number, state=state, lines=() if state else ("x",)) for number, state in enumerate(STATES, 1)]


@given(st.permutations(HISTORY), st.lists(st.sampled_from(HISTORY)))
def test_any_order_of_arrival_gives_the_same(came: list[TaskEvent], again: list[TaskEvent]) -> None:
    fold, due = Fold(), []
    for event in [*again[:3], *came, *again]:
        due += fold.add(event)
    assert due == HISTORY
    assert fold.state is State.SUCCEEDED
    assert fold.skip_gaps() == []


@given(st.lists(st.sampled_from(HISTORY)))
def test_what_is_due_is_in_order_and_without_gaps(came: list[TaskEvent]) -> None:
    fold, due = Fold(), []
    for event in came:
        due += fold.add(event)
    assert due == HISTORY[: len(due)]
    later = fold.skip_gaps()
    assert [event.number for event in due + later] == sorted({event.number for event in came})


def test_a_gap_holds_back_until_it_is_skipped() -> None:
    fold = Fold()
    assert fold.add(HISTORY[0]) == HISTORY[:1]
    assert fold.add(HISTORY[3]) == fold.add(HISTORY[2]) == []
    states = [fold.state]
    assert fold.skip_gaps() == HISTORY[2:4]
    states.append(fold.state)
    assert states == [State.ACCEPTED, State.RUNNING]
    assert fold.add(HISTORY[1]) == []
    assert fold.add(HISTORY[4]) == HISTORY[4:5]


def test_what_cannot_be_is_told_and_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    fold = Fold()
    with caplog.at_level(logging.WARNING):
        for number, state in enumerate((State.SUCCEEDED, State.FAILED), 1):
            assert len(fold.add(an_event(ORDER, number, state=state))) == 1
    assert fold.state is State.SUCCEEDED
    assert "a run that is SUCCEEDED was said to be FAILED" in caplog.text


@pytest.fixture(autouse=True)
def _hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LENIENCE", 0.0)


def submit(centre: Centre, seconds: float = 60.0) -> Submission:
    submission = centre.stage_in(TaskRequest(node="site-a", argv=("true",), deadline=now() + timedelta(seconds=seconds)), "k")
    centre.dispatch(submission)
    return submission


def history(centre: Centre, submission: Submission) -> list[TaskEvent]:
    order = centre.order(submission.run, submission.attempt)
    return [an_event(order, number, state=state, lines=() if state else ("x",)) for number, state in enumerate(STATES, 1)]


def beat(centre: Centre, interval: float, *runs: Any) -> None:
    """A heartbeat of site-a; three intervals without a word are a silence."""
    present = tuple(Present(run=run, attempt=1, state=State.RUNNING) for run in runs)
    centre.records.heard([
        Heartbeat(node="site-a", session=an_id(1), number=1, at=now(), interval=interval, worker_version="x", slots=1, slots_free=1, present=present)
    ], now())  # fmt: skip


def pass_on(centre: Centre, *said: TaskEvent | bytes) -> None:
    """As the relay does."""
    for event in said:
        body = event if isinstance(event, bytes) else payload_of(pack(event, Signer()))
        key = str(centre.records.executions()[0].id)
        centre.broker.publish(body, exchange=EXECUTIONS, key=key, message_id="m", mandatory=False)


async def heard(centre: Centre, submission: Submission) -> list[TaskEvent]:
    async with asyncio.timeout(SOON):
        return [event async for event in events(centre, submission)]


@dataclass
class Asked:
    """What site-a was asked; `then` is called at each."""

    requests: list[ControlRequest] = field(default_factory=list)
    then: Callable[[], object] = lambda: None


@pytest.fixture
def asked(centre: Centre) -> Asked:
    asked, publish = Asked(), centre.broker.publish

    def watching(body: bytes, **where: Any) -> None:
        publish(body, **where)
        if where.get("key") == control_queue("site-a"):
            message, _ = unpack(body, OPEN)
            assert isinstance(message, ControlRequest)
            asked.requests.append(message)
            asked.then()

    centre.broker.publish = watching  # type: ignore[method-assign]
    return asked


@pytest.fixture
def cancelled(centre: Centre) -> list[str]:
    """Queues whose consumers were cancelled."""
    queues: list[str] = []
    consume = centre.broker.consume

    def watching(queue: str, handler: Handler, *, prefetch: int = 32) -> Subscription:
        subscription = consume(queue, handler, prefetch=prefetch)
        cancel = subscription.cancel

        def noted() -> None:
            cancel()
            queues.append(queue)

        subscription.cancel = noted  # type: ignore[method-assign]
        return subscription

    centre.broker.consume = watching  # type: ignore[method-assign]
    return queues


async def test_events_come_in_order_whatever_way_they_came(centre: Centre, cancelled: list[str]) -> None:
    submission = submit(centre)
    said = history(centre, submission)
    pass_on(centre, said[2], said[0], b"noise", said[0], said[1].model_copy(update={"attempt": 9}), said[1], *reversed(said[3:]))
    assert await heard(centre, submission) == said
    assert cancelled == [execution_queue(submission.execution)]


async def test_what_came_meanwhile_is_read_from_the_records(centre: Centre) -> None:
    """A flow that died in its wait and is run again."""
    submission = submit(centre)
    said = history(centre, submission)
    centre.records.record_events(said[:4])
    pass_on(centre, *said[2:])
    assert await heard(centre, submission) == said
    centre.records.record_events(said)
    assert await heard(centre, submission) == said


async def test_what_never_reached_the_follower_is_read_after_a_silence(centre: Centre) -> None:
    submission = submit(centre)
    beat(centre, 0.02)
    said = history(centre, submission)
    waiter = asyncio.create_task(heard(centre, submission))
    pass_on(centre, said[0])
    await asyncio.to_thread(centre.records.record_events, said)
    assert await waiter == said


async def test_a_silent_node_is_asked(centre: Centre, asked: Asked) -> None:
    submission = submit(centre)
    beat(centre, 0.02)
    said = history(centre, submission)
    asked.then = lambda: centre.records.record_events(said)
    assert await heard(centre, submission) == said
    first = asked.requests[0]
    assert (first.action, first.run, first.attempt, first.why) == ("report", submission.run, 1, "silent for three heartbeats")


async def test_a_node_whose_fresh_heartbeats_name_the_run_is_not_asked(centre: Centre) -> None:
    submission = submit(centre)
    followed = Followed(submission, now(), 1.0)
    watch = Watch(centre, submission.execution)
    assert watch._unspoken([followed]) == [followed]
    beat(centre, 60.0, submission.run)
    assert watch._unspoken([followed]) == []
    beat(centre, 60.0, an_id(5))
    assert watch._unspoken([followed]) == [followed]
    beat(centre, 1e-9, submission.run)
    assert watch._unspoken([followed]) == [followed]


async def test_a_node_that_stays_away_is_asked_less_and_less_often(centre: Centre, asked: Asked) -> None:
    submission = submit(centre)
    beat(centre, 0.01)
    async with Watch(centre, submission.execution) as watch:
        await watch.add([submission])
        [followed] = watch.open
        while len(asked.requests) < 4:
            await watch.next()
        assert followed.asked == 4
        assert followed.patience(centre) > 0.03 * 8
        pass_on(centre, history(centre, submission)[0])
        while followed.asked:
            await watch.next()
        assert followed.state is State.ACCEPTED


async def test_many_attempts_are_followed_on_one_queue_and_more_may_join(centre: Centre, cancelled: list[str]) -> None:
    first = submit(centre)
    second = replace(first, run=run_id(first.execution, "other", "site-a"), task="other")
    order = centre.order(first.run, 1).model_copy(update={"task": "other", "run": second.run})
    said, later = history(centre, first), [an_event(order, number, state=state) for number, state in enumerate(STATES, 1)]
    found: list[TaskEvent] = []
    async with asyncio.timeout(SOON), Watch(centre, first.execution) as watch:
        await watch.add([first])
        pass_on(centre, *said[:2])
        while len(found) < 2:
            found += await watch.next()
        await watch.look()
        assert await watch.next() == []
        with pytest.raises(BadRequest):
            await watch.add([second])
        pass_on(centre, *later[:1], *said[2:])
        while watch.open:
            found += await watch.next()
        assert await watch.next() == []
    assert found == said
    assert cancelled == [execution_queue(first.execution)]


async def test_an_attempt_that_a_newer_one_fenced_off_is_not_waited_for(centre: Centre) -> None:
    submission = submit(centre)
    beat(centre, 0.01)
    centre.order_again(submission.run, 2)
    assert await heard(centre, submission) == []


async def test_next_comes_back_when_time_is_up(centre: Centre) -> None:
    submission = submit(centre)
    async with asyncio.timeout(SOON), Watch(centre, submission.execution) as watch:
        await watch.add([submission])
        assert await watch.next(within=0.01) == []
        assert watch.open


async def test_past_the_deadline_it_is_cancelled_and_then_lost(centre: Centre, asked: Asked) -> None:
    submission = submit(centre, 0.2)
    assert await heard(centre, submission) == []
    row = centre.attempt(submission.run, 1)
    assert row.state is State.LOST
    assert row.reason is not None
    assert (row.reason.code, row.reason.message) == ("lost", "node site-a did not answer by the deadline")
    assert [(request.action, request.why) for request in asked.requests] == [("cancel", "the deadline has passed")]


async def test_a_cancel_that_the_node_answers_is_no_loss(centre: Centre, asked: Asked) -> None:
    submission = submit(centre, 0.2)
    ended = an_event(centre.order(submission.run, 1), 1, state=State.CANCELLED)
    asked.then = lambda: pass_on(centre, ended)
    assert await heard(centre, submission) == [ended]


async def test_once_computed_the_release_has_its_own_deadline(centre: Centre, asked: Asked) -> None:
    """The outputs leave after the execution's deadline, and nobody cancels."""
    submission = submit(centre, 0.3)
    said = history(centre, submission)
    pass_on(centre, *said[:-1])
    found = []
    async with asyncio.timeout(SOON):
        async for event in events(centre, submission):
            found.append(event)
            if event.state is State.STAGING_OUT:
                deadline = centre.order(submission.run, 1).deadline
                await asyncio.sleep(max(0.0, (deadline - now()).total_seconds() + 0.1))
                pass_on(centre, said[-1])
    assert found == said
    assert asked.requests == []


async def test_what_was_cancelled_before_it_was_sent_ends_the_wait(centre: Centre) -> None:
    submission = centre.stage_in(TaskRequest(node="site-a", argv=("true",)), "k")
    beat(centre, 0.01)
    centre.cancel(submission.execution, "changed my mind")
    assert await heard(centre, submission) == []


async def test_a_wait_that_is_given_up_leaves_no_consumer(centre: Centre, cancelled: list[str]) -> None:
    submission = submit(centre)
    pass_on(centre, *history(centre, submission)[:1])
    given_up = events(centre, submission)
    await anext(given_up)
    await given_up.aclose()  # type: ignore[attr-defined]
    assert cancelled == [execution_queue(submission.execution)]
