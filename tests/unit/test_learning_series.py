"""What was told of a session, folded into curves, boxes and rounds."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.learning import series
from federation.learning.series import BINS, POINTS, Score
from tests.unit.sessions import a_round, an_update, measure


def test_scores_are_of_what_was_taken_and_of_all_that_validated() -> None:
    found = series.scores([
        an_update("a", metrics={"loss": 1.0, "diverged": math.inf}, validated={"loss": 2.0, "examples": 4}),
        an_update("b", outcome="CARRIED", examples=None, metrics={"loss": 3.0}),
        an_update("c", outcome="REFUSED", metrics={"loss": 9.0}, validated={"loss": 4.0, "bad": math.nan}),
        an_update("d", outcome=None, metrics={}),
    ])  # fmt: skip
    assert found == [
        Score(1, "a", "train", "loss", 1.0, 10.0), Score(1, "a", "validate", "loss", 2.0, 4), Score(1, "b", "train", "loss", 3.0, 1.0),
        Score(1, "c", "validate", "loss", 4.0, 10.0),
    ]  # fmt: skip


def test_the_mean_over_rounds_is_weighted_by_examples() -> None:
    scores = series.scores([
        an_update("b", metrics={"loss": 4.0}, examples=30.0), an_update("a", metrics={"loss": 0.0}), an_update("a", 2, metrics={"loss": 1.0}),
    ])  # fmt: skip
    curves = series.over_rounds(scores, "train", "loss")
    assert curves.clients == {"a": [(1, 0.0), (2, 1.0)], "b": [(1, 4.0)]}
    assert curves.mean == [(1, 3.0), (2, 1.0)]
    assert series.over_rounds(scores, "validate", "loss").mean == []
    assert series.names([*scores, measure("a", 1, 0.0, name="accuracy")]) == ["loss", "accuracy"]


def test_the_mean_over_steps_takes_the_last_word_of_who_is_slower() -> None:
    told = [measure("a", step, value) for step, value in ((1, 4.0), (2, 2.0), (3, math.nan))]
    told += [measure("b", step, 8.0 / step) for step in (1, 2, 3, 4)]
    curves = series.over_steps(told, [an_update("a", examples=30.0)], "train", "loss")
    assert curves.clients == {"a": [(0.5, 4.0), (1.0, 2.0)], "b": [(0.25, 8.0), (0.5, 4.0), (0.75, pytest.approx(8 / 3)), (1.0, 2.0)]}
    # b, of which no update has come, counts as much as a, of which one has.
    assert curves.mean == [(0.25, 8.0), (0.5, 4.0), (0.75, pytest.approx(10 / 3)), (1.0, 2.0)]
    assert series.over_steps(told, [an_update("a", examples=30.0), an_update("b")], "train", "loss").mean[2] == (
        0.75,
        pytest.approx(3.6666667),
    )


def test_a_second_round_goes_on_where_the_first_ended() -> None:
    told = [measure("a", step, 1.0, round=round) for round in (1, 2) for step in (10, 20)]
    assert [at for at, _ in series.over_steps(told, [], "train", "loss").mean] == [0.5, 1.0, 1.5, 2.0]


def test_curves_over_steps_are_bounded() -> None:
    one_round = series.over_steps([measure("a", step, float(step)) for step in range(1, 5001)], [], "train", "loss")
    assert len(one_round.mean) == BINS
    assert one_round.mean[0] == (1 / BINS, pytest.approx(63.0))
    assert one_round.mean[-1] == (1.0, pytest.approx(4938.0))
    many = series.over_steps([measure("a", step, 1.0, round=round) for round in range(1, 101) for step in range(60)], [], "train", "loss")
    assert len(many.clients["a"]) == POINTS


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(1, 1e4)), min_size=1, max_size=40))
def test_a_box_holds_all_clients(told: list[tuple[float, float]]) -> None:
    scores = [Score(3, f"c{number:02d}", "train", "loss", value, examples) for number, (value, examples) in enumerate(told)]
    (box,) = series.boxes([*scores, Score(3, "other", "validate", "loss", 0.0, 1.0)], "train", "loss")
    assert box.round == 3
    assert box.clients == len(told)
    assert box.low <= box.q1 <= box.median <= box.q3 <= box.high
    values = np.array([value for value, _ in told])
    assert [box.q1, box.median, box.q3] == pytest.approx(list(np.quantile(values, [0.25, 0.5, 0.75])))
    assert box.mean == pytest.approx(np.average(values, weights=[examples for _, examples in told]), abs=1e-6)
    outside = {client for client, _ in box.outliers}
    assert outside == {score.client for score in scores if not box.low <= score.value <= box.high}
    assert all(value > box.q3 + 1.5 * (box.q3 - box.q1) or value < box.q1 - 1.5 * (box.q3 - box.q1) for _, value in box.outliers)


def test_whiskers_end_at_the_last_value_within_reach() -> None:
    scores = [Score(1, f"c{value}", "train", "loss", value, 1.0) for value in (1, 2, 3, 4, 5, 100)]
    (box,) = series.boxes(scores, "train", "loss")
    assert (box.low, box.q1, box.median, box.q3, box.high, box.outliers) == (1.0, 2.25, 3.5, 4.75, 5.0, (("c100", 100),))


def test_a_row_for_each_round() -> None:
    rounds = [a_round(1, requested=["a", "b", "c", "d"], model="m"), a_round(2, state="OPEN", ended=None, reason="began again")]
    updates = [
        an_update("a", metrics={"loss": 1.0}, validated={"loss": 5.0, "examples": 2}), an_update("b", outcome="CARRIED", examples=30.0, metrics={"loss": 2.0}),
        an_update("c", outcome="REFUSED", reason="NaN"), an_update("d", outcome="LOST"), an_update("a", 2, outcome=None, metrics={}),
    ]  # fmt: skip
    first, second = series.summaries(rounds, updates)
    assert (first.state, first.seconds, first.requested, first.examples, first.model) == ("DONE", 60.0, 4, 40.0, "m")
    assert first.outcomes == {"CARRIED": 1, "COUNTED": 1, "LOST": 1, "REFUSED": 1}
    assert first.metrics == {("train", "loss"): 1.75, ("validate", "loss"): 5.0}
    assert first.notes == ("c: REFUSED: NaN", "d: LOST")
    assert (second.seconds, second.outcomes, second.metrics, second.notes) == (None, {"OPEN": 1}, {}, ("began again",))
