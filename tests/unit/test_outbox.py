"""The outbox: what stands in the journal is sent in order until the broker has confirmed it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fdn_worker import outbox as module
from fdn_worker.errors import BrokerUnavailable, FdnError, JournalUnavailable, SettingsError, Unroutable
from fdn_worker.journal import Journal
from fdn_worker.outbox import Outbox
from fdn_worker.protocol import Signer, pack
from fdn_worker.protocol.envelope import payload_of
from tests.support.waiting import SOON
from tests.unit.helpers import FakeBroker, Sent, an_order

ORDER = an_order()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db", Signer())
    journal.receive(ORDER, payload_of(pack(ORDER, Signer())))
    yield journal
    journal.close()


@pytest.fixture
def start(journal: Journal) -> Iterator[Callable[[FakeBroker], Outbox]]:
    """Starts an outbox on the journal, and ends it."""
    started: list[Outbox] = []

    def one(broker: FakeBroker) -> Outbox:
        outbox = Outbox("site-a", journal, broker)
        journal.on_event = outbox.wake
        outbox.start()
        started.append(outbox)
        return outbox

    yield one
    for outbox in started:
        outbox.stop(5.0)
        assert not outbox._thread.is_alive()


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between tries."""
    monkeypatch.setattr(module, "delays", lambda: iter(lambda: 0.0, None))


def heard(broker: FakeBroker, count: int) -> threading.Event:
    """Set once the broker has `count` messages."""
    event = threading.Event()
    broker.then = lambda _: event.set() if len(broker.sent) >= count else None
    return event


def say(journal: Journal, *lines: str) -> None:
    for line in lines:
        journal.record(ORDER.name, lines=[line])


def lines(broker: FakeBroker) -> list[str]:
    return [sent.message.lines[0] for sent in broker.sent]  # type: ignore[attr-defined]


def test_events_go_out_in_order(journal: Journal, start: Callable[[FakeBroker], Outbox]) -> None:
    broker = FakeBroker()
    done = heard(broker, 3)
    outbox = start(broker)
    say(journal, "1", "2", "3")
    assert done.wait(SOON)
    outbox.stop(5)
    assert lines(broker) == ["1", "2", "3"]
    assert {(sent.exchange, sent.key) for sent in broker.sent} == {("evt.site-a", "event")}
    assert [sent.message_id for sent in broker.sent] == [sent.message.message_id for sent in broker.sent]
    assert journal.pending() == []
    assert outbox.problem == ""


def test_what_stood_there_before_is_sent(journal: Journal, start: Callable[[FakeBroker], Outbox]) -> None:
    say(journal, *map(str, range(450)))
    broker = FakeBroker()
    done = heard(broker, 450)
    start(broker).wake()
    assert done.wait(SOON)
    assert lines(broker) == [str(number) for number in range(450)]


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "error", [BrokerUnavailable("no broker"), Unroutable("no inbox"), JournalUnavailable("locked"), SettingsError("odd")]
)
def test_it_tries_until_it_is_confirmed(journal: Journal, start: Callable[[FakeBroker], Outbox], error: FdnError) -> None:
    broker = FakeBroker(fails=[error] * 3)
    done = heard(broker, 2)
    start(broker)
    say(journal, "1", "2")
    assert done.wait(SOON)
    assert lines(broker) == ["1", "2"]


@pytest.mark.usefixtures("at_once")
def test_what_was_confirmed_before_a_failure_is_not_sent_again(journal: Journal, start: Callable[[FakeBroker], Outbox]) -> None:
    say(journal, "1", "2", "3")
    broker = FakeBroker()
    done = threading.Event()

    def then(sent: Sent) -> None:
        if len(broker.sent) == 1:
            broker.fails.append(BrokerUnavailable("gone"))
        elif len(broker.sent) == 3:
            done.set()

    broker.then = then
    start(broker).wake()
    assert done.wait(SOON)
    assert lines(broker) == ["1", "2", "3"]


def test_what_hinders_it_is_told(journal: Journal, start: Callable[[FakeBroker], Outbox], monkeypatch: pytest.MonkeyPatch) -> None:
    paused = threading.Event()

    def pauses() -> Iterator[float]:
        while True:
            paused.set()
            yield 60.0

    monkeypatch.setattr(module, "delays", pauses)
    outbox = start(FakeBroker(fails=[BrokerUnavailable("no broker", remedy="start it")] * 9))
    say(journal, "1")
    assert paused.wait(SOON)
    outbox.stop(5)  # not after a minute
    assert outbox.problem == "no broker (start it)"
    assert len(journal.pending()) == 1


@pytest.mark.usefixtures("at_once")
def test_an_outage_of_days_does_not_end_it(
    journal: Journal, start: Callable[[FakeBroker], Outbox], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("ERROR")
    broker = FakeBroker(fails=[BrokerUnavailable("away")] * 1100)
    done = heard(broker, 1)
    start(broker)
    say(journal, "1")
    assert done.wait(SOON)


def test_it_stops_after_the_message_in_hand(journal: Journal, start: Callable[[FakeBroker], Outbox]) -> None:
    say(journal, "1", "2", "3")
    broker, outbox = FakeBroker(), None
    sending, go_on = threading.Event(), threading.Event()

    def then(_: Sent) -> None:
        sending.set()
        assert go_on.wait(SOON)

    broker.then = then
    outbox = start(broker)
    outbox.wake()
    assert sending.wait(SOON)
    outbox._stop.set()
    go_on.set()
    outbox.stop(5)
    assert lines(broker) == ["1"]
    assert len(journal.pending()) == 2
