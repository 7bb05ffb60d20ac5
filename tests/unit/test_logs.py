"""A log on its way: kept up to a cap, sent up to a rate, and what is dropped is counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fdn_worker import logs
from fdn_worker.errors import JournalUnavailable
from fdn_worker.journal import Entry, Journal
from fdn_worker.launchers import LogLine
from fdn_worker.logs import LogSink
from fdn_worker.protocol import Signer, TaskEvent, pack, unpack
from fdn_worker.protocol.envelope import payload_of
from fdn_worker.settings import LimitsSection
from tests.unit.helpers import OPEN, an_order

ORDER = an_order()


class Clock:
    """Stands in for `time`, so that a test needs no waiting."""

    def __init__(self) -> None:
        self.at = 1000.0

    def monotonic(self) -> float:
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(logs, "time", clock)
    return clock


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db", Signer())
    journal.receive(ORDER, payload_of(pack(ORDER, Signer())))
    yield journal
    journal.close()


def sink(journal: Journal, folder: Path, *, live: bool = True, **limits: Any) -> LogSink:
    return LogSink(entry(journal), folder / "log", journal, LimitsSection(**{"log_lines_per_second": 1e6} | limits), live=live)


def entry(journal: Journal) -> Entry:
    found = journal.entry(ORDER.name)
    assert found is not None
    return found


def say(log: LogSink, *texts: str, first: int = 1) -> None:
    for number, text in enumerate(texts, first):
        log.line(LogLine(text, f"c{number}"))


def sent(journal: Journal) -> list[tuple[str, ...]]:
    """The lines of each event."""
    messages = [unpack(body, OPEN)[0] for _, _, body in journal.pending()]
    return [message.lines for message in messages if isinstance(message, TaskEvent)]


def test_lines_travel_together_and_are_kept(journal: Journal, tmp_path: Path, clock: Clock) -> None:
    log = sink(journal, tmp_path)
    say(log, "one", "", "drei é")
    log.tick()
    assert sent(journal) == []
    clock.at += logs.FLUSH_SECONDS
    log.tick()
    log.tick()
    assert sent(journal) == [("one", "", "drei é")]
    assert (tmp_path / "log").read_text() == "one\n\ndrei é\n"
    found = entry(journal)
    assert (found.cursor, found.lines_sent, found.log_bytes, log.cursor) == ("c3", 3, 13, "c3")
    say(log, "last", first=4)
    log.close()
    assert sent(journal)[1:] == [("last",)]
    assert entry(journal).cursor == "c4"


def test_many_lines_and_long_ones_do_not_wait(journal: Journal, tmp_path: Path, clock: Clock) -> None:
    log = sink(journal, tmp_path, log_line_length=40_000)
    say(log, *["x"] * (logs.BATCH_LINES + 1))
    assert [len(lines) for lines in sent(journal)] == [logs.BATCH_LINES]
    say(log, "y" * 40_000, "z" * 40_000)
    assert [len(lines) for lines in sent(journal)] == [logs.BATCH_LINES, 3]
    log.close()


def test_nothing_said_nothing_sent(journal: Journal, tmp_path: Path, clock: Clock) -> None:
    log = sink(journal, tmp_path)
    clock.at += 60
    log.tick()
    log.close()
    assert journal.pending() == []


def test_a_long_line_is_cut_where_it_is_sent_alone(journal: Journal, tmp_path: Path) -> None:
    log = sink(journal, tmp_path, log_line_length=5)
    say(log, "12345", "123456")
    log.close()
    assert sent(journal) == [("12345", "12345 [cut]")]
    assert (tmp_path / "log").read_text() == "12345\n123456\n"


def test_a_site_may_keep_its_lines_at_home(journal: Journal, tmp_path: Path, clock: Clock) -> None:
    log = sink(journal, tmp_path, live=False, log_lines=1, log_bytes=8)
    say(log, "one", "two", "three")
    clock.at += 1
    log.tick()
    log.close()
    assert sent(journal) == []
    assert (tmp_path / "log").read_text() == "one\ntwo\n"
    found = entry(journal)
    assert (found.cursor, found.lines_sent, found.lines_dropped) == ("c3", 0, 1)


def test_the_cap_on_lines(journal: Journal, tmp_path: Path) -> None:
    log = sink(journal, tmp_path, log_lines=2)
    say(log, "1", "2", "3", "4")
    log.close()
    assert sent(journal) == [("1", "2", "[2 lines were dropped: the node's caps on log lines and bytes]")]
    assert (tmp_path / "log").read_text() == "1\n2\n3\n4\n"
    assert (entry(journal).lines_sent, entry(journal).lines_dropped) == (2, 2)


def test_the_cap_on_the_rate_lets_a_seconds_worth_come_at_once(journal: Journal, tmp_path: Path, clock: Clock) -> None:
    log = sink(journal, tmp_path, log_lines_per_second=10)
    say(log, *map(str, range(30)))
    assert log.dropped == 20
    clock.at += 0.5
    say(log, *map(str, range(30, 60)))
    assert log.dropped == 45
    log.close()
    assert [int(line) for lines in sent(journal) for line in lines[:15]] == [*range(10), *range(30, 35)]


def test_the_cap_on_bytes_is_of_what_is_kept(journal: Journal, tmp_path: Path) -> None:
    log = sink(journal, tmp_path, log_bytes=8)
    say(log, "éé", "1234", "12", "1")
    log.close()
    assert (tmp_path / "log").read_text() == "éé\n12\n"
    assert sent(journal)[0][:4] == ("éé", "1234", "12", "1")
    assert entry(journal).lines_dropped == 2


def test_after_a_crash_it_goes_on_at_the_last_flush(journal: Journal, tmp_path: Path, clock: Clock) -> None:
    """What was written to the file after the flush comes again from the launcher, and stands in the file once."""
    log = sink(journal, tmp_path, log_lines=4)
    say(log, "1", "2")
    clock.at += 1
    log.tick()
    say(log, "3", first=3)
    log._file.flush()
    second = sink(journal, tmp_path, log_lines=4)
    assert second.cursor == "c2"
    assert (tmp_path / "log").read_text() == "1\n2\n"
    say(second, "3", "4", "5", first=3)
    second.close()
    assert (tmp_path / "log").read_text() == "1\n2\n3\n4\n5\n"
    assert sent(journal)[:1] == [("1", "2")]
    assert sent(journal)[1][:2] == ("3", "4")
    assert (entry(journal).lines_sent, entry(journal).lines_dropped) == (4, 1)
    log._file.close()


def test_a_full_disk_is_told(journal: Journal, tmp_path: Path) -> None:
    log = sink(journal, tmp_path)
    say(log, "1")
    journal.close()
    with pytest.raises(JournalUnavailable):
        log.close()
    log._file.close()
