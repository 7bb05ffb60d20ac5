"""Messages of the present: a clock that is wrong, and orders that the journal has forgotten."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from fdn_worker import freshness, journal
from fdn_worker.errors import MessageError
from fdn_worker.journal import Journal, Phase
from fdn_worker.protocol import Signer, State, TaskOrder, now, pack
from fdn_worker.protocol.envelope import payload_of
from tests.unit.helpers import an_order

TOLERANCE = 300.0


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Journal]:
    kept = Journal(tmp_path / "journal.db", Signer())
    yield kept
    kept.close()


def codes(order: TaskOrder, kept: Journal, moment: datetime | None = None) -> list[str]:
    return [refused.code for refused in freshness.refusals(order, kept, TOLERANCE, moment or now())]


@pytest.mark.parametrize(("ahead", "found"), [(-timedelta(days=1), []), (timedelta(minutes=4), []), (timedelta(minutes=20), ["clock"])])
def test_an_order_from_the_future(kept: Journal, ahead: timedelta, found: list[str]) -> None:
    assert codes(an_order(issued=now() + ahead), kept) == found


def test_it_says_by_how_much(kept: Journal) -> None:
    moment = now()
    (refused,) = freshness.refusals(an_order(issued=moment + timedelta(minutes=20)), kept, TOLERANCE, moment)
    assert str(refused) == (
        "the order was issued 20 min 0 s from now by the clock of node site-a (one of the two clocks is wrong: have both kept by NTP)"
    )
    with pytest.raises(MessageError, match="the inquiry was issued 20 min 0 s from now") as caught:
        freshness.check_issued("inquiry", moment + timedelta(minutes=20), TOLERANCE, moment)
    assert caught.value.code == "clock"
    freshness.check_issued("inquiry", moment + timedelta(minutes=4), TOLERANCE, moment)


def end(kept: Journal, order: TaskOrder) -> None:
    kept.receive(order, payload_of(pack(order, Signer())))
    kept.record(order.name, phase=Phase.DONE, state=State.SUCCEEDED, finished=now().isoformat())


def test_what_the_journal_has_forgotten_never_comes_back(kept: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its deadline; and by the mark that it left, though the clock is set back to when the order was young."""
    young = now()
    old = an_order(task="old", issued=young, deadline=young + timedelta(minutes=1))
    end(kept, old)
    later = young + timedelta(days=40)
    monkeypatch.setattr(journal, "now", lambda: later)
    kept.forget((later - timedelta(days=30)).isoformat())
    assert kept.entry(old.name) is None
    assert codes(old, kept, young) == ["expired"]
    # An older one that has not been forgotten is known by its name, and one that is due later is taken.
    assert codes(an_order(task="new", issued=young, deadline=young + timedelta(minutes=2)), kept, young) == []


def test_the_mark_never_goes_back(kept: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = now()
    for minutes in (9, 5):
        monkeypatch.setattr(journal, "now", lambda: begin)
        end(kept, an_order(task=f"t{minutes}", deadline=begin + timedelta(minutes=minutes)))
        monkeypatch.setattr(journal, "now", lambda: begin + timedelta(days=1))
        kept.forget((begin + timedelta(hours=1)).isoformat())
    assert kept.flag(journal.FORGOTTEN) == (begin + timedelta(minutes=9)).isoformat()


def test_a_request_is_new_once(kept: Journal, tmp_path: Path) -> None:
    deadline = (now() + timedelta(minutes=1)).isoformat()
    assert [kept.first_time("r", deadline), kept.first_time("r", deadline), kept.first_time("s", deadline)] == [True, False, True]
    again = Journal(tmp_path / "journal.db", Signer())
    assert not again.first_time("r", deadline)
    again.close()
