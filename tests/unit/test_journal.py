"""The journal: a phase and its event in one transaction, and no order taken twice."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from fdn_worker.errors import Fault, JournalUnavailable
from fdn_worker.journal import Journal, Phase, outcome_json, read_outcome
from fdn_worker.protocol import (
    ControlRequest,
    IllegalTransition,
    Reason,
    Report,
    Signer,
    State,
    TaskEvent,
    TaskOrder,
    Usage,
    now,
    pack,
    unpack,
)  # fmt: skip
from fdn_worker.protocol.envelope import payload_of
from tests.unit.helpers import OPEN, an_order

REASON = Reason(code="exit-code", fault=Fault.USER, message="it ended with 3")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "state" / "journal.db", Signer())
    yield journal
    journal.close()


def received(journal: Journal, order: TaskOrder | None = None) -> TaskOrder:
    order = order or an_order()
    assert journal.receive(order, payload_of(pack(order, Signer())))
    return order


def events(journal: Journal) -> list[TaskEvent]:
    """What waits in the outbox."""
    found = []
    for _, message_id, body in journal.pending():
        event = unpack(body, OPEN)[0]
        assert isinstance(event, TaskEvent)
        assert event.message_id == message_id
        found.append(event)
    return found


def cancel(order: TaskOrder) -> ControlRequest:
    return ControlRequest(
        request=uuid4(), action="cancel", execution=order.execution, task=order.task, node=order.node, run=order.run,
        attempt=order.attempt, issued=now(), deadline=order.deadline,
    )  # fmt: skip


def test_an_order_is_kept_whole(journal: Journal) -> None:
    order = an_order(argv=("é",))
    body = pack(order, Signer()).replace(b'\\"argv\\"', b'\\"colour\\": 1, \\"argv\\"')
    assert journal.receive(order, payload_of(body))
    entry = journal.entry(order.name)
    assert entry is not None
    assert entry.order is not None
    assert (entry.order.model_extra, entry.order.argv) == ({"colour": 1}, ("é",))
    assert (entry.phase, entry.state, entry.run, entry.attempt) == (Phase.RECEIVED, State.QUEUED, order.run, 1)
    assert journal.unfinished() == journal.recent(9) == [entry]
    assert events(journal) == []


def test_phase_and_event_are_written_together(journal: Journal) -> None:
    told: list[int] = []
    journal.on_event = lambda: told.append(len(journal.pending()))
    order = received(journal)
    journal.record(order.name, phase=Phase.ACCEPTED, state=State.ACCEPTED)
    journal.record(order.name, lines=["one", "two"], cursor="c2")
    journal.record(order.name, bytes_in=7)
    journal.record(order.name, phase=Phase.DONE, state=State.FAILED, reason=REASON, report=Report(exit_code=3), finished=now().isoformat())
    first, second, third = events(journal)
    assert [(event.number, event.state, event.lines) for event in (first, second, third)] == [
        (1, State.ACCEPTED, ()), (2, None, ("one", "two")), (3, State.FAILED, ())]  # fmt: skip
    assert (third.reason, third.report) == (REASON, Report(exit_code=3))
    entry = journal.entry(order.name)
    assert entry is not None
    assert (entry.phase, entry.state, entry.number, entry.cursor, entry.bytes_in) == (Phase.DONE, State.FAILED, 3, "c2", 7)
    assert journal.unfinished() == []
    assert told == [1, 2, 3]


def test_what_fails_leaves_neither_phase_nor_event(journal: Journal) -> None:
    order = received(journal)
    journal.record(order.name, phase=Phase.DONE, state=State.SUCCEEDED)
    before, waiting = journal.entry(order.name), journal.pending()
    with pytest.raises(IllegalTransition):
        journal.record(order.name, phase=Phase.STARTED, state=State.FAILED)
    with pytest.raises(JournalUnavailable, match="no such column: colour"):
        journal.record(order.name, phase=Phase.STARTED, lines=["x"], colour="red")
    assert (journal.entry(order.name), journal.pending()) == (before, waiting)


def test_an_order_again_has_its_last_state_sent_again(journal: Journal) -> None:
    order = received(journal)
    journal.record(order.name, phase=Phase.ACCEPTED, state=State.ACCEPTED)
    journal.record(order.name, lines=["one"])
    assert not journal.receive(order, b"{}")
    assert [event.number for event in events(journal)] == [1, 2, 1]
    assert len(journal.recent(9)) == 1
    second = received(journal, an_order(attempt=2))
    assert {entry.name for entry in journal.unfinished()} == {order.name, second.name}


def test_a_report_of_what_is_unknown(journal: Journal) -> None:
    assert not journal.send_again("fdn-x-1")
    order = received(journal)
    assert journal.send_again(order.name)
    assert events(journal) == []


def test_a_tombstone_answers_the_order_that_comes_later(journal: Journal) -> None:
    order = an_order()
    journal.bury(cancel(order), order.name)
    entry = journal.entry(order.name)
    assert entry is not None
    assert (entry.order, entry.phase, entry.state) == (None, Phase.DONE, State.CANCELLED)
    assert journal.unfinished() == []
    assert not journal.receive(order, b"{}")
    assert [(event.number, event.state) for event in events(journal)] == [(1, State.CANCELLED)] * 2
    with pytest.raises(JournalUnavailable):
        journal.bury(cancel(order), order.name)
    assert len(events(journal)) == 2


def test_the_outbox_keeps_its_order_until_confirmed(journal: Journal) -> None:
    order = received(journal)
    for number in range(5):
        journal.record(order.name, lines=[str(number)])
    numbers = [number for number, _, _ in journal.pending()]
    assert numbers == sorted(numbers)
    assert [number for number, _, _ in journal.pending(2)] == numbers[:2]
    journal.sent(numbers[:2])
    assert [event.lines for event in events(journal)] == [("2",), ("3",), ("4",)]
    journal.sent([number for number, _, _ in journal.pending()])
    journal.record(order.name, lines=["later"])
    assert journal.pending()[0][0] > numbers[-1]


def test_parts_of_uploads(journal: Journal) -> None:
    journal.part_done("n", "a", "u1", 0, "8")
    journal.part_done("n", "a", "u1", 2, "e2")
    journal.part_done("n", "a", "u1", 2, "e2b")
    journal.part_done("n", "b", "u2", 1, "x")
    assert journal.parts("n", "a") == {"u1": {0: "8", 2: "e2b"}}
    journal.parts_forgotten("n", "a")
    assert (journal.parts("n", "a"), journal.parts("n", "b")) == ({}, {"u2": {1: "x"}})
    journal.parts_forgotten("n")
    assert journal.parts("n", "b") == {}


def test_flags(journal: Journal) -> None:
    assert journal.flag("drain") is None
    journal.set_flag("drain", "yes")
    journal.set_flag("drain", "exit")
    assert journal.flag("drain") == "exit"
    journal.set_flag("drain", None)
    assert journal.flag("drain") is None


def test_only_what_a_replay_cannot_bring_back_is_forgotten(journal: Journal) -> None:
    past = now() - timedelta(days=2)
    old = received(journal, an_order(task="old", issued=past, deadline=past))
    valid = received(journal, an_order(task="valid"))
    live = received(journal, an_order(task="live", issued=past, deadline=past))
    for order in (old, valid):
        journal.record(order.name, phase=Phase.DONE, state=State.SUCCEEDED, finished=past.isoformat())
    for order in (old, live):
        journal.part_done(order.name, "a", "u", 1, "e")
    journal.forget((now() - timedelta(days=3)).isoformat())
    assert len(journal.recent(9)) == 3
    journal.forget((now() - timedelta(days=1)).isoformat())
    assert {entry.name for entry in journal.recent(9)} == {valid.name, live.name}
    assert (journal.parts(old.name, "a"), bool(journal.parts(live.name, "a"))) == ({}, True)


def test_all_of_it_stands_after_a_restart(journal: Journal, tmp_path: Path) -> None:
    order = received(journal)
    journal.record(order.name, phase=Phase.STARTED, state=State.RUNNING, stop="cancelled")
    second = Journal(tmp_path / "state" / "journal.db", Signer())
    assert second.unfinished() == journal.unfinished()
    assert second.pending() == journal.pending()
    second.close()


def test_a_full_disk_is_told_and_leaves_it_as_it_was(journal: Journal, tmp_path: Path) -> None:
    order = received(journal)
    journal._db.execute(f"PRAGMA max_page_count={journal._db.execute('PRAGMA page_count').fetchone()[0]}")
    with pytest.raises(JournalUnavailable) as caught:
        journal.record(order.name, lines=["x" * 4000] * 100)
    assert f"journal {tmp_path}/state/journal.db: database or disk is full" in str(caught.value)
    assert "free space" in str(caught.value)
    entry, waiting = journal.entry(order.name), len(journal.pending())
    assert entry is not None
    assert entry.number == waiting
    journal._db.execute("PRAGMA max_page_count=100000")
    journal.record(order.name, lines=["y"])
    assert events(journal)[-1].number == waiting + 1


def test_a_journal_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.db").mkdir()
    (tmp_path / "text.db").write_text("this is no database" * 100)
    for path in (tmp_path / "file" / "journal.db", tmp_path / "folder.db", tmp_path / "text.db"):
        with pytest.raises(JournalUnavailable) as caught:
            Journal(path, Signer())
        assert str(path) in str(caught.value)
        assert "check the folder's owner and the disk" in str(caught.value)


def test_reading_fails_as_writing_does(journal: Journal) -> None:
    for table in ("outbox", "flags", "runs", "parts"):
        journal._db.execute(f"DROP TABLE {table}")
    for read in (journal.pending, journal.unfinished, lambda: journal.flag("x"), lambda: journal.parts("a", "b")):
        with pytest.raises(JournalUnavailable, match="no such table"):
            read()


def test_a_newer_version_is_refused(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "state" / "journal.db"
    journal.close()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version=2")
    db.close()
    with pytest.raises(JournalUnavailable, match=r"is of version 2, newer than this worker's 1 \(upgrade it\)"):
        Journal(path, Signer())


@pytest.mark.parametrize("reason", [None, REASON])
def test_outcomes_are_kept_as_they_are(reason: Reason | None) -> None:
    outcome = (State.FAILED, reason, Report(exit_code=3, usage=Usage(cpu_seconds=1.5, estimated=True)))
    assert read_outcome(outcome_json(*outcome)) == outcome
