"""Metrics in log lines: what is read, what is refused, and how much is kept."""

from __future__ import annotations

import json
import logging
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdn_worker.protocol import State, TaskEvent
from federation.learning.metrics import DENSE, LONGEST, MARK, NAME, NAMES, Line, Measuring, parse, wanted
from storage.learning_rows import MeasureRow
from tests.unit.helpers import MOMENT, an_event, an_order
from tests.unit.sessions import SESSION

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


def metrics(*objects: Any) -> tuple[str, ...]:
    return tuple(MARK + json.dumps(one) for one in objects)


def heard(*events: TaskEvent, measuring: Measuring | None = None) -> list[MeasureRow]:
    measuring = measuring or Measuring(SESSION)
    return [row for event in events for row in measuring.measures_of(2, "site-a", "train", event)]


def test_a_line() -> None:
    assert parse('::metrics {"step": 3, "loss": 0.41, "top-5 accuracy": 1}') == Line({"loss": 0.41, "top-5 accuracy": 1.0}, 3)
    assert parse("::metrics {}") == Line({})
    for other in ("", "epoch 3", ' ::metrics {"loss": 1}', '::metricsy {"loss": 1}'):
        assert parse(other) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("loss=0.3", "no JSON"), ('{"loss": 0.3', "no JSON"), ("[1]", "no JSON object"), ("[" * 3000, "no JSON"), ("null", "no JSON object"),
        ('{"step": -1, "loss": 1}', "step -1 is no count"), ('{"step": 1.5, "loss": 1}', "step 1.5 is no count"),
        ('{"step": "a", "loss": 1}', "step 'a' is no count"), ('{"step": 1e99}', "step 1e+99"), ('{"step": NaN}', "step nan"),
        ("{" + " " * LONGEST + "}", "characters"), ('{"loss": NaN}', "loss: nan is not finite"), ('{"loss": -Infinity}', "-inf is not finite"),
        ('{"loss": 1e999}', "inf is not finite"), ('{"loss": 1' + "0" * 400 + "}", "larger than any float"), ('{"loss": "1"}', "'1' is no number"),
        ('{"loss": true}', "'True' is no number"), ('{"": 1}', "name ''"), ('{"<a>": 1}', "name '<a>'"), ('{"' + "a" * 65 + '": 1}', "name 'aaa"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_left_out_and_told(text: str, complaint: str) -> None:
    line = parse(MARK + text)
    assert line is not None
    assert line.values == {}
    assert complaint in line.complaint


def test_one_bad_value_costs_no_other() -> None:
    line = parse('::metrics {"loss": NaN, "accuracy": 0.5}')
    assert line == Line({"accuracy": 0.5}, None, "loss: nan is not finite")


@given(st.text() | JSON.map(json.dumps))
def test_nothing_that_is_logged_breaks_it(text: str) -> None:
    assert parse(text) is None or text.startswith(MARK)
    line = parse(MARK + text)
    assert line is not None
    assert all(NAME.fullmatch(name) and math.isfinite(value) for name, value in line.values.items())
    assert line.step is None or line.step >= 0


def test_lines_become_measures() -> None:
    order = an_order()
    event = an_event(order, 1, lines=("begin", *metrics({"step": 7, "loss": 2}, {"loss": 1.5, "accuracy": 0.1}), "end"))
    assert heard(event) == [
        MeasureRow(SESSION, 2, "site-a", "train", 7, "loss", 2.0, event.at),
        MeasureRow(SESSION, 2, "site-a", "train", 2, "loss", 1.5, event.at),
        MeasureRow(SESSION, 2, "site-a", "train", 2, "accuracy", 0.1, event.at),
    ]
    assert heard(an_event(order, 1, lines=metrics({"step": 7, "loss": 2}, {"step": 7, "loss": 3})))[0].value == 3.0


def test_lines_are_counted_over_events_and_anew_in_a_new_attempt() -> None:
    lines = metrics({"loss": 2}, {"loss": 1})
    first, second = an_order(), an_order(attempt=2)
    events = [an_event(first, 1, lines=lines), an_event(first, 2, lines=lines, state=State.FAILED), an_event(second, 1, lines=lines)]
    assert [row.step for row in heard(*events)] == [1, 2, 3, 4, 1, 2]
    assert [row.step for row in heard(events[0], events[2])] == [1, 2, 1, 2]
    # After a restart all is heard from the first event on.
    assert heard(*events) == heard(*events)
    of_round_three = Measuring(SESSION)
    heard(events[0], measuring=of_round_three)
    assert [row.step for row in of_round_three.measures_of(3, "site-a", "train", events[0])] == [1, 2]


def test_a_flood_is_thinned() -> None:
    order, count = an_order(), 40_000
    events = [an_event(order, number + 1, lines=metrics(*({"loss": step} for step in range(100)))) for number in range(count // 100)]
    found = heard(*events)
    assert len(found) <= DENSE * (2 + math.log2(count / DENSE) / 2)
    steps = [row.step for row in found]
    assert steps[:DENSE] == list(range(1, DENSE + 1))
    assert steps == sorted(set(steps))
    # What is kept reaches to the end.
    assert steps[-1] > count * 0.98


@given(st.integers(0, 12))
def test_twice_as_many_leave_half_of_dense_more(doublings: int) -> None:
    first, last = DENSE << doublings, DENSE << (doublings + 1)
    assert sum(map(wanted, range(first + 1, last + 1))) == DENSE // 2


def test_names_are_bounded_and_a_client_is_told_off_once(caplog: pytest.LogCaptureFixture) -> None:
    measuring, order = Measuring(SESSION), an_order()
    lines = metrics(*({f"m{number}": 1.0} for number in range(1000)), {"loss": "high"})
    with caplog.at_level(logging.WARNING):
        found = heard(an_event(order, 1, lines=lines), an_event(order, 2, lines=lines), measuring=measuring)
    assert {row.name for row in found} == {f"m{number}" for number in range(NAMES)}
    assert [record.getMessage() for record in caplog.records] == [
        f"metrics of site-a: m{NAMES}: only the first {NAMES} names of a round are kept; left out, as are others like it"
    ]
    measuring.measures_of(2, "site-b", "train", an_event(order, 1, lines=(MARK,), at=MOMENT))
    assert len(caplog.records) == 2
