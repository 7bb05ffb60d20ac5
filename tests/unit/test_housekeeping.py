"""Budgets: what is over one of them goes, oldest first, what is in use stays, and while that does not help no order is taken."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.attempts import Attempts
from fdn_worker.holds import Holds, kept_as
from fdn_worker.housekeeping import Housekeeping, log_files
from fdn_worker.journal import Journal, Phase
from fdn_worker.policy import disk_free
from fdn_worker.policy.names import HUB
from fdn_worker.protocol import Signer, State, TaskOrder, now, pack
from fdn_worker.protocol.envelope import payload_of
from tests.unit.helpers import SHA, an_id, an_order, settings

MIB = 1024**2


class Collector:
    """A launcher whose images take `size`; says what it was asked for."""

    def __init__(self, size: int) -> None:
        self.size, self.asked = size, list[tuple[int, Callable[[str], bool]]]()

    def collect(self, most: int, keep: Callable[[str], bool]) -> int:
        self.asked.append((most, keep))
        return self.size


class House:
    """A worker's keeping, without its worker."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.settings = settings(folder, keep_sandboxes=True, **changes)
        self.journal = Journal(folder / "journal.db", Signer())
        self.holds = Holds(self.settings, self.journal)
        self.images = Collector(0)
        launcher: Any = lambda _: self.images  # noqa: E731
        self.attempts = Attempts(self.settings, self.journal, self.holds, launcher, None, lambda _: None, lambda *_: None)
        self.keeping = Housekeeping(self.settings, self.journal, self.holds, self.attempts, lambda: [launcher("")])

    def received(self, **changes: Any) -> TaskOrder:
        order = an_order(**changes)
        self.journal.receive(order, payload_of(pack(order, Signer())))
        return order

    def kept(self, name: str, size: int, days: float) -> tuple[TaskOrder, Path]:
        """A kept sandbox with so many bytes, last used so many days ago."""
        order = an_order(sandbox=name, task=name)
        folder = self.settings.state_dir / "kept" / str(kept_as(order))
        (folder / "sandbox").mkdir(parents=True)
        (folder / "sandbox/file").write_bytes(bytes(size))
        moment = time.time() - days * 86400
        os.utime(folder, (moment, moment))
        return order, folder


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def make(**changes: Any) -> House:
        made.append(House(tmp_path, **changes))
        return made[-1]

    yield make
    for one in made:
        one.journal.close()


def test_kept_sandboxes_go_the_longest_unused_first(house: Callable[..., House]) -> None:
    made = house(budget={"sandboxes": 5 * MIB})
    folders = [made.kept(name, 2 * MIB, days)[1] for name, days in (("new", 1), ("oldest", 9), ("old", 5))]
    made.keeping.look()
    assert [folder.exists() for folder in folders] == [True, False, True]
    assert made.keeping.full() == ""
    made.keeping.look()
    assert [folder.exists() for folder in folders] == [True, False, True]


def test_sandboxes_in_use_stay_and_the_intake_stops(house: Callable[..., House]) -> None:
    made = house(budget={"sandboxes": 3 * MIB})
    order, busy = made.kept("busy", 2 * MIB, 9)
    made.received(sandbox="busy", task="busy")
    made.holds.take(order)
    run = made.settings.state_dir / "runs/fdn-x/sandbox"
    run.mkdir(parents=True)
    (run / "file").write_bytes(bytes(2 * MIB))
    made.keeping.look()
    assert busy.exists()
    assert "sandboxes take 4," in made.keeping.full()
    assert "of a budget of 3,145,728" in made.keeping.full()
    (run / "file").unlink()
    made.keeping.look()
    assert made.keeping.full() == ""


def test_the_disk_has_its_reserve_and_what_running_tasks_may_fill(house: Callable[..., House], tmp_path: Path) -> None:
    free = disk_free(tmp_path)
    made = house(limits={"disk_reserve": free // 2})
    assert made.keeping.full() == ""
    for task in ("one", "two"):
        entry = made.journal.entry(made.received(task=task, resources={"disk": int(free * 0.4)}).name)
        assert entry is not None
        made.attempts.take_up(entry)
        assert made.keeping.full() == ""
    for name in made.attempts.names():
        attempt = made.attempts.get(name)
        assert attempt is not None
        attempt.running = True
    assert "that running tasks may still fill" in made.keeping.full()
    made = house(limits={"disk_reserve": 2 * free})
    assert made.keeping.full() == f"the disk of {tmp_path} is nearly full"


def test_a_journal_that_is_too_big_forgets_what_it_may(house: Callable[..., House]) -> None:
    made = house(budget={"journal": 8 * MIB})
    padding = {"PADDING": "x" * 20_000}

    def fill(numbers: range, deadline: timedelta, phase: Phase) -> list[str]:
        names = []
        for number in numbers:
            moment = now()
            order = made.received(
                execution=an_id(number), environment=padding, issued=moment - timedelta(days=1), deadline=moment + deadline
            )
            ended = {"state": State.SUCCEEDED, "finished": moment.isoformat()} if phase is Phase.DONE else {}
            made.journal.record(order.name, durable=False, phase=phase, **ended)
            names.append(order.name)
        return names

    fill(range(200), timedelta(seconds=-1), Phase.DONE)
    newest = fill(range(200, 400), timedelta(seconds=-1), Phase.DONE)[-1]
    alive = fill(range(400, 460), timedelta(seconds=-1), Phase.ACCEPTED)
    made.journal.sent([number for number, *_ in made.journal.pending(10_000)])
    assert made.journal.compact(64 * MIB) > 10 * MIB
    made.keeping.look()
    assert made.keeping.full() == ""
    assert made.journal.compact(8 * MIB) <= 8 * MIB
    # What is not done stays, and the youngest of what is done as long as there is room.
    assert {entry.name for entry in made.journal.unfinished()} == set(alive)
    assert made.journal.entry(newest) is not None
    # An order whose deadline is to come must be known again: then it says so, and takes no more.
    fill(range(500, 900), timedelta(hours=1), Phase.DONE)
    made.journal.sent([number for number, *_ in made.journal.pending(10_000)])
    made.keeping.look()
    assert "the journal takes" in made.keeping.full()
    assert len(made.journal.recent(10_000)) == 460


def test_images_are_collected_but_for_those_that_are_wanted(house: Callable[..., House], caplog: pytest.LogCaptureFixture) -> None:
    made = house(budget={"images": 1000, "keep_images": ("registry.example/study/*",)})
    made.received(image="python:3.11")
    made.keeping.look()
    ((most, keep),) = made.images.asked
    assert most == 1000
    wanted = {name: keep(name) for name in ("python:3.12", f"{HUB}/library/python@sha256:{SHA}", "registry.example/study/a:1")}
    assert all(wanted.values()), wanted
    assert not keep("busybox:1")
    assert not keep("registry.example/other/a:1")
    assert caplog.records == []
    made.images.size = 2000
    made.keeping.look()
    assert "2,000 of 1,000 bytes" in caplog.text


def test_without_a_budget_nothing_is_collected(house: Callable[..., House]) -> None:
    made = house()
    _, folder = made.kept("old", 2 * MIB, 20)
    made.keeping.look()
    assert folder.exists()
    assert made.images.asked == []


def test_the_workers_own_log_stays_within_its_budget(tmp_path: Path) -> None:
    handler = log_files(tmp_path / "logs/worker.log", 50_000)
    for number in range(5000):
        handler.emit(logging.makeLogRecord({"msg": f"line {number}"}))
    handler.close()
    files = sorted((tmp_path / "logs").iterdir())
    assert len(files) == 5
    assert sum(file.stat().st_size for file in files) <= 50_000
    assert (tmp_path / "logs/worker.log").read_text().endswith("line 4999\n")
