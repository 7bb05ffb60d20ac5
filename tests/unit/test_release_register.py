"""What waits, in the journal: it outlasts the process, a word is taken once, and every wait has an end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.journal import Journal, Phase
from fdn_worker.protocol import Signer, State, TaskOrder, now, pack
from fdn_worker.protocol.envelope import payload_of
from fdn_worker.release.airlock import Verdict, Word
from fdn_worker.release.desk import NotWaiting, decide, find, matching, waiting
from fdn_worker.release.register import Releases
from tests.unit.helpers import an_id, an_order, settings

VERDICTS = [
    Verdict(path="outputs/a.csv", size=3, kind="csv", action="hold", rule="r", findings=("csv: a finding",)),
    Verdict(path="outputs/b.txt", size=3, kind="text", action="release", rule="s"),
]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db", Signer())
    yield journal
    journal.close()


@pytest.fixture
def releases(journal: Journal) -> Releases:
    return Releases(journal)


def held(journal: Journal, **changes: Any) -> TaskOrder:
    """An attempt that waits."""
    order = an_order(**{"release_within": 60} | changes)
    journal.receive(order, payload_of(pack(order, Signer())))
    journal.record(order.name, phase=Phase.EXITED, state=State.STAGING_OUT)
    Releases(journal).hold(order, VERDICTS)
    return order


def word(*files: str) -> Word:
    return Word(person="eve", at=now(), files=files, why="because")


def test_it_stands_in_another_process_too(journal: Journal, releases: Releases, tmp_path: Path) -> None:
    order = held(journal)
    other = Journal(tmp_path / "journal.db", Signer())
    (found,) = Releases(other).held()
    other.close()
    assert (found.name, list(found.verdicts), found.word) == (order.name, VERDICTS, None)
    assert found.until == (order.deadline + timedelta(seconds=60)).isoformat()
    entry = journal.entry(order.name)
    assert entry is not None
    assert (entry.phase, entry.state) == (Phase.HELD, State.AWAITING_RELEASE)
    assert releases.due() == []


def test_one_word_counts(journal: Journal, releases: Releases) -> None:
    order = held(journal)
    first = word("outputs/a.csv")
    assert releases.decide(order.name, first)
    assert not releases.decide(order.name, word())
    assert (releases.held(order.name)[0].word, releases.due()) == (first, [order.name])


def test_a_cancel_ends_the_wait(journal: Journal, releases: Releases) -> None:
    order = held(journal)
    journal.record(order.name, stop="cancelled")
    assert releases.due() == [order.name]
    assert not releases.decide(order.name, word("outputs/a.csv"))


def test_that_it_was_stopped_before_is_no_end_of_the_wait(journal: Journal, releases: Releases) -> None:
    order = held(journal)
    journal.record(order.name, stop="timeout")
    assert releases.due() == []
    assert releases.decide(order.name, word("outputs/a.csv"))


def test_the_time_ends_the_wait(journal: Journal, releases: Releases) -> None:
    late = held(journal, deadline=now() - timedelta(seconds=61))
    held(journal, execution=an_id(2), release_within=None)
    assert releases.due() == [late.name]
    assert not releases.decide(late.name, word("outputs/a.csv"))


@pytest.mark.parametrize("phase", [Phase.EXITED, Phase.UPLOADED, Phase.DONE])
def test_what_does_not_wait_takes_no_word(journal: Journal, releases: Releases, phase: Phase) -> None:
    order = held(journal)
    journal.record(order.name, phase=phase)
    assert (releases.held(), releases.due(), releases.decide(order.name, word())) == ([], [], False)


def test_it_is_forgotten_with_its_attempt(journal: Journal) -> None:
    order = held(journal, deadline=now() - timedelta(seconds=1))
    journal.record(order.name, phase=Phase.DONE, state=State.FAILED, finished="2020")
    journal.forget("2021")
    assert journal.read("SELECT * FROM releases") == []


def test_at_the_desk(journal: Journal, tmp_path: Path) -> None:
    first, second = held(journal), held(journal, execution=an_id(2))
    there = waiting(journal, settings(tmp_path))
    assert [one.order.run for one in there] == [first.run, second.run]
    one = find(there, str(first.run)[:6].upper())
    assert one.undecided == ["outputs/a.csv"]
    assert matching(one, ["outputs/*"]) == ["outputs/a.csv"]
    with pytest.raises(NotWaiting, match=r"no file that waits matches 'outputs/b.txt'"):
        matching(one, ["outputs/*", "outputs/b.txt"])
    with pytest.raises(NotWaiting, match="2 runs begin with ''"):
        find(there, "")
    decide(journal, one, ["outputs/a.csv"], "eve", "x" * 5000)
    (said,) = [each.word for each in Releases(journal).held(first.name)]
    assert said is not None
    assert (said.person, said.files, len(said.why)) == ("eve", ("outputs/a.csv",), 1000)
    with pytest.raises(NotWaiting, match="does not wait any longer"):
        decide(journal, one, [], "bob", "")
    assert [each.order.run for each in waiting(journal, settings(tmp_path))] == [second.run]
    with pytest.raises(NotWaiting, match=f"no run that begins with '{first.run}' waits"):
        find(waiting(journal, settings(tmp_path)), str(first.run))
