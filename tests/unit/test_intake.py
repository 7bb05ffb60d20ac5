"""When a drain or a pause is in force: once the worker has acted on it, and not before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdn_worker.intake import DRAIN, PAUSED, asked, in_force, mind
from fdn_worker.journal import Journal
from fdn_worker.protocol import Signer


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    made = Journal(tmp_path / "journal.db", Signer())
    yield made
    made.close()


def at_once(journal: Journal) -> bool:
    return in_force(journal, lambda: False)


@pytest.mark.parametrize("flag", [DRAIN, PAUSED])
def test_a_flag_is_in_force_once_the_worker_has_acted_on_it(journal: Journal, flag: str) -> None:
    for value in ("stay", None):
        journal.set_flag(flag, value)
        assert not at_once(journal)
        mind(journal, asked(journal))
        assert at_once(journal)


def test_a_flag_that_is_set_while_the_worker_acts_waits_for_its_next_look(journal: Journal) -> None:
    seen = asked(journal)
    journal.set_flag(PAUSED, "ada")
    mind(journal, seen)
    assert not at_once(journal)


def test_a_worker_that_begins_has_acted_on_nothing_yet(journal: Journal) -> None:
    """It may open its intake on flags that were other ones a moment ago."""
    mind(journal, asked(journal))
    mind(journal, None)
    assert not at_once(journal)


def test_it_is_waited_for(journal: Journal) -> None:
    journal.set_flag(DRAIN, "stay")
    looks = 0

    def goes_on() -> bool:
        nonlocal looks
        looks += 1
        if looks == 2:
            threading.Thread(target=mind, args=(journal, asked(journal))).start()
        return True

    assert in_force(journal, goes_on)
    assert looks >= 2
