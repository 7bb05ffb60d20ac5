"""The centre's steps: what is wrong is told before anything is stored or sent, and each may be taken again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fdn_worker.errors import Fault, FdnError
from fdn_worker.protocol import ControlRequest, Reason, State, TaskOrder, now, unpack
from fdn_worker.protocol.names import command_queue, control_queue
from federation.centre import Centre, NodeUnknown, Submission
from federation.enrol import enrol, retire
from federation.request import BadRequest, TaskRequest
from storage.records import RecordsRefused
from tests.unit.helpers import OPEN, an_event


def request(**fields: Any) -> TaskRequest:
    return TaskRequest(**{"node": "site-a", "argv": ("true",), "user": "ada"} | fields)


def objects(centre: Centre) -> list[str]:
    return [info.key for info in centre.store.list("")]


def waiting(centre: Centre, queue: str) -> int:
    depth = centre.broker.depth(queue)
    assert depth is not None
    return depth.messages


@pytest.fixture
def sent(centre: Centre) -> list[Any]:
    """What goes to the queues of `site-a`, as the centre publishes it."""
    messages: list[Any] = []
    publish = centre.broker.publish

    def watch(body: bytes, **where: Any) -> None:
        publish(body, **where)
        messages.append(unpack(body, OPEN)[0])

    centre.broker.publish = watch  # type: ignore[method-assign]
    return messages


@pytest.mark.parametrize(
    ("node", "remedy"),
    [
        ("site-c", "enrolled are: site-a, site-b"),
        ("sitea", "enrolled are: site-a, site-b"),
        ("xyz", "enrolled are: site-a, site-b"),
    ],
)
def test_an_unknown_node(centre: Centre, node: str, remedy: str) -> None:
    with pytest.raises(NodeUnknown) as caught:
        centre.stage_in(request(node=node), "k")
    assert str(caught.value) == f"node {node!r} is not enrolled ({remedy})"
    assert (caught.value.code, caught.value.fault) == ("node-unknown", Fault.USER)
    assert centre.records.executions() == []


def test_the_nearest_nodes_are_shown_and_no_retired_one(centre: Centre) -> None:
    for node in ("north", "north-east", "south"):
        enrol(centre.broker, centre.records, node)
    retire(centre.broker, centre.records, "north-east")
    with pytest.raises(NodeUnknown, match=r"\(enrolled are: north\)"):
        centre.check(request(node="nort"))
    with pytest.raises(NodeUnknown, match="'north-east' is not enrolled"):
        centre.check(request(node="north-east"))


def test_without_any_node(centre: Centre) -> None:
    for node in ("site-a", "site-b"):
        retire(centre.broker, centre.records, node)
    with pytest.raises(NodeUnknown, match="enrol it: `fem nodes enrol`"):
        centre.check(request())


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (("/no/such.csv",), "input /no/such.csv: No such file or directory (mend its path)"),
        (("/",), "input /: Is a directory (mend its path)"),
        (("../x=GOOD",), "input ../x: path '../x' must be relative"),
        (("GOOD", "b=/no/such.csv"), "input /no/such.csv: No such file"),
        (("a=GOOD", "a=GOOD"), "two files are named a"),
    ],
)
def test_inputs_that_cannot_be_leave_nothing_behind(centre: Centre, tmp_path: Path, inputs: tuple[str, ...], said: str) -> None:
    good = tmp_path / "good.csv"
    good.write_text("x")
    with pytest.raises(BadRequest) as caught:
        centre.stage_in(request(inputs=tuple(spec.replace("GOOD", str(good)) for spec in inputs)), "k")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (objects(centre), centre.records.executions()) == ([], [])


def test_a_fault_while_inputs_go_up_leaves_nothing_behind(centre: Centre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("x")

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(centre.records, "create_execution", interrupt)
    with pytest.raises(KeyboardInterrupt):
        centre.stage_in(request(inputs=(str(tmp_path / "x"),)), "k")
    assert objects(centre) == []


def test_the_same_key_is_the_same_execution(centre: Centre, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    first = centre.stage_in(request(inputs=(str(tmp_path / "x"),)), "k")
    order = centre.order(first.run, 1)
    assert centre.stage_in(request(inputs=(str(tmp_path / "x"),)), "k") == first
    assert centre.order(first.run, 1) == order
    assert objects(centre) == [order.inputs[0].where]
    assert centre.stage_in(request(inputs=(str(tmp_path / "x"),)), "k2").execution != first.execution
    with pytest.raises(RecordsRefused, match="was used before, for another request") as caught:
        centre.stage_in(request(argv=("false",)), "k")
    assert caught.value.code == "idempotency-conflict"


def test_a_crash_before_the_first_order_is_mended(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(centre.records, "add_attempt", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            centre.stage_in(request(), "k")
    submission = centre.stage_in(request(), "k")
    assert submission.attempt == 1
    assert centre.order(submission.run, 1).argv == ("true",)


def test_an_order_is_sent_once(centre: Centre, sent: list[Any]) -> None:
    submission = centre.stage_in(request(), "k")
    assert sent == []
    assert centre.dispatch(submission)
    assert not centre.dispatch(submission)
    assert sent == [centre.order(submission.run, 1)]
    assert waiting(centre, command_queue("site-a")) == 1


def end(centre: Centre, submission: Submission, state: State) -> None:
    """As the node would say it."""
    event = an_event(centre.order(submission.run, submission.attempt), 1, state=state)
    assert centre.records.record_events([event]) == ([event], [])


@pytest.mark.parametrize("state", [State.FAILED, State.LOST, State.CANCELLED, State.REJECTED])
def test_a_persons_retry_gets_a_new_attempt(centre: Centre, state: State) -> None:
    first = centre.stage_in(request(timeout=60.0, retries=3), "k")
    assert (first.attempt, first.retries) == (1, 3)
    end(centre, first, state)
    assert centre.stage_in(request(timeout=60.0, retries=3), "k") == first
    second = centre.stage_in(request(timeout=60.0, retries=3), "k", new_attempt=True)
    assert (second.run, second.attempt, second.retries) == (first.run, 2, 2)
    before, after = centre.order(first.run, 1), centre.order(first.run, 2)
    assert after.deadline - after.issued == before.deadline - before.issued
    assert after.issued > before.issued
    assert after.model_copy(update={"attempt": 1, "issued": before.issued, "deadline": before.deadline}) == before


@pytest.mark.parametrize("state", [State.SUCCEEDED, State.RUNNING, None])
def test_what_succeeded_or_lives_is_not_tried_again(centre: Centre, state: State | None) -> None:
    first = centre.stage_in(request(), "k")
    if state:
        end(centre, first, state)
    assert centre.stage_in(request(), "k", new_attempt=True) == first


def test_a_cancel_before_it_was_sent_ends_it_here(centre: Centre, sent: list[Any]) -> None:
    submission = centre.stage_in(request(), "k")
    assert centre.cancel(submission.execution, "changed my mind") == [submission.run]
    assert centre.attempt(submission.run, 1).state is State.CANCELLED
    assert centre.cancel(submission.execution, "again") == []
    assert not centre.dispatch(submission)
    (control,) = sent
    assert isinstance(control, ControlRequest), "no order"


def test_a_cancel_while_it_is_being_sent_reaches_the_node(centre: Centre, sent: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    submission, publish = centre.stage_in(request(), "k"), centre.broker.publish

    def cancelled_before(body: bytes, **to: Any) -> None:
        monkeypatch.setattr(centre.broker, "publish", publish)
        centre.cancel(submission.execution, "changed my mind")
        publish(body, **to)

    monkeypatch.setattr(centre.broker, "publish", cancelled_before)
    centre.dispatch_all([submission], submission.execution)
    control, order = sent
    assert isinstance(order, TaskOrder)
    assert (control.action, control.run, control.attempt) == ("cancel", order.run, order.attempt)


def test_a_cancel_after_it_was_sent_asks_the_node(centre: Centre, sent: list[Any]) -> None:
    submission = centre.stage_in(request(), "k")
    centre.dispatch(submission)
    assert centre.cancel(submission.execution, "Ctrl-C") == [submission.run]
    order, control = sent
    assert isinstance(order, TaskOrder)
    assert isinstance(control, ControlRequest)
    assert (control.action, control.run, control.attempt, control.node, control.why) == ("cancel", submission.run, 1, "site-a", "Ctrl-C")
    # a tombstone must outlive the order
    assert control.deadline >= order.deadline
    assert waiting(centre, control_queue("site-a")) == 1
    assert centre.attempt(submission.run, 1).state is State.QUEUED


def test_what_is_lost_may_still_be_found(centre: Centre) -> None:
    submission = centre.stage_in(request(), "k")
    centre.lose(submission, "no word from site-a")
    row = centre.attempt(submission.run, 1)
    assert (row.state, row.reason) == (State.LOST, Reason(code="lost", fault=Fault.INFRASTRUCTURE, message="no word from site-a"))
    end(centre, submission, State.SUCCEEDED)
    assert centre.attempt(submission.run, 1).state is State.SUCCEEDED
    centre.lose(submission, "again")
    assert centre.attempt(submission.run, 1).state is State.SUCCEEDED


def test_an_attempt_that_is_not_there_is_told(centre: Centre) -> None:
    submission = centre.stage_in(request(), "k")
    with pytest.raises(FdnError, match=f"run {submission.run} has no attempt 2"):
        centre.order(submission.run, 2)


def test_a_deadline_that_passes_while_inputs_are_hashed_is_told(centre: Centre) -> None:
    with pytest.raises(BadRequest, match="has passed"):
        centre.stage_in(request(deadline=now()), "k")
    assert centre.records.executions() == []


def test_each_order_has_its_time_for_the_release(centre: Centre) -> None:
    submission = centre.stage_in(request(), "k")
    centre.order_again(submission.run, 2)
    for attempt in (1, 2):
        order = centre.order(submission.run, attempt)
        assert order.release_by is not None
        assert (order.release_by - order.deadline).total_seconds() == centre.settings.release
