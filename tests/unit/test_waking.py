"""The relay's waker: each suspended execution that is due, again until it was taken up, and never in the relay's way."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest

from fdn_worker.errors import SystemFault
from fdn_worker.protocol import State
from federation.centre import Centre
from flows import waking
from flows.waking import Waker
from storage.records import ExecutionRow
from tests.support.waiting import SOON
from tests.unit.jobs import NODES, begin, says


class Told:
    """What was announced, in order."""

    def __init__(self, centre: Centre) -> None:
        self.rows: queue.Queue[ExecutionRow] = queue.Queue()
        self.waker = Waker(centre, self.rows.put, pause=0.01)

    def next(self) -> str:
        return self.rows.get(timeout=SOON).id


@pytest.fixture
def told(centre: Centre) -> Iterator[Told]:
    made = Told(centre)
    made.waker.start()
    yield made
    made.waker.stop()


def ended(centre: Centre, key: str) -> str:
    """A suspended execution, all runs of which have ended."""
    job = begin(centre, key=key)
    centre.records.wanted.suspend(str(job.execution), "flow")
    for node in NODES:
        says(centre, job, node, State.SUCCEEDED)
    return str(job.execution)


def test_it_is_announced_until_it_was_taken_up(centre: Centre, told: Told) -> None:
    name = ended(centre, "k")
    told.waker.tell({name, "0b0e4a70-7d3c-5f0a-9a51-000000000000"})
    assert [told.next(), told.next()] == [name, name]
    centre.records.claim_execution(name, "flow")
    other = ended(centre, "other")
    told.waker.tell({other})
    # What is still said of the first was on its way.
    while (heard := told.next()) != other:
        assert heard == name
    assert told.next() == other


def test_it_gives_up_after_a_while(centre: Centre, told: Told) -> None:
    name = ended(centre, "k")
    told.waker.tell({name})
    assert [told.next() for _ in range(waking.TIMES)] == [name] * waking.TIMES
    told.waker.stop()
    assert told.rows.empty()


def test_absent_records_end_no_thread(centre: Centre, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    name = ended(centre, "k")
    looked = queue.Queue[None]()

    def away(*_: object) -> list[ExecutionRow]:
        looked.put(None)
        raise SystemFault("the records do not answer")

    with monkeypatch.context() as patch:
        patch.setattr(waking, "due_among", away)
        told.waker.tell({name})
        looked.get(timeout=SOON)
    told.waker.tell({name})
    assert told.next() == name


def test_news_that_nobody_takes_hold_nobody_up(centre: Centre, caplog: pytest.LogCaptureFixture) -> None:
    waker = Waker(centre, print)
    for _ in range(waking.MOST + 1):
        waker.tell({"some"})
    assert [record.action for record in caplog.records] == ["wake-dropped"]  # type: ignore[attr-defined]
