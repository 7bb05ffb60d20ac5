"""The merge of the runs' log lines: by time, each run's in order, a few events in memory at once."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from itertools import islice

import pytest

from fdn_worker.protocol import State, TaskEvent
from federation.centre import Centre, Submission
from federation.request import TaskRequest
from storage import log_lines
from storage.log_lines import merged
from tests.unit.helpers import MOMENT


def told(centre: Centre, node: str, said: Sequence[tuple[float, str | State]]) -> tuple[str, int]:
    """An attempt whose events say these things at these seconds."""
    one = centre.stage_in(TaskRequest(node=node, argv=("true",)), f"key-{node}-{len(said)}")
    events = [event(one, number, seconds, what) for number, (seconds, what) in enumerate(said, 1)]
    centre.records.record_events(events)
    return str(one.run), one.attempt


def event(one: Submission, number: int, seconds: float, what: str | State) -> TaskEvent:
    state, lines = (what, ()) if isinstance(what, State) else (None, (what,))
    return TaskEvent(
        execution=one.execution, task=one.task, node=one.node, run=one.run, attempt=one.attempt, number=number,
        at=MOMENT + timedelta(seconds=seconds), state=state, lines=lines,
    )  # fmt: skip


def lines(centre: Centre, *attempts: tuple[str, int]) -> list[str]:
    return [line for event in merged(centre.records.database, attempts) for line in event.lines]


def test_lines_of_several_runs_are_in_order_of_time(centre: Centre) -> None:
    first = told(centre, "site-a", [(0, State.ACCEPTED), (1, "a1"), (3, "a3"), (5, "a5")])
    second = told(centre, "site-b", [(0, "b0"), (2, "b2"), (4, "b4"), (6, State.SUCCEEDED)])
    assert lines(centre, first, second) == ["b0", "a1", "b2", "a3", "b4", "a5"]
    assert lines(centre, second) == ["b0", "b2", "b4"]
    assert lines(centre) == []


def test_a_clock_that_was_set_back_puts_no_run_out_of_its_order(centre: Centre) -> None:
    first = told(centre, "site-a", [(5, "a1"), (1, "a2"), (9, "a3")])
    second = told(centre, "site-b", [(4, "b1"), (6, "b2")])
    assert lines(centre, first, second) == ["b1", "a1", "a2", "b2", "a3"]


def test_only_some_of_it_is_read_ahead(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_lines, "HELD", 8)
    attempts = [told(centre, node, [(number, f"{node} {number}") for number in range(50)]) for node in ("site-a", "site-b")]
    parsed = 0
    whole = TaskEvent.model_validate_json

    def counted(body: str) -> TaskEvent:
        nonlocal parsed
        parsed += 1
        return whole(body)

    monkeypatch.setattr(TaskEvent, "model_validate_json", counted)
    found = merged(centre.records.database, attempts)
    assert {event.lines[0] for event in islice(found, 2)} == {"site-a 0", "site-b 0"}
    assert parsed <= 16
    assert sum(1 for _ in found) == 98
    assert parsed == 100
