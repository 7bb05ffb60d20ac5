"""What was told of a session, folded: curves of each client and of all, boxes across clients, a row for each round. Rows in, numbers out.

Means are weighted by examples, as the model's own is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import ceil, isfinite
from statistics import fmean
from typing import NamedTuple

import numpy as np

from storage.learning_rows import MeasureRow, Outcome, Phase, RoundRow, UpdateRow

#: Updates that went into the model.
TAKEN: tuple[Outcome, ...] = ("COUNTED", "CARRIED")
#: Points that a curve over steps has for each round at most, and over all rounds.
BINS, POINTS = 40, 1000
#: How far from the box, in heights of it, a value is still no outlier (Tukey).
REACH = 1.5


class Score(NamedTuple):
    """A metric of one client in a round: while training, or of the round's model on its data."""

    round: int
    client: str
    phase: Phase
    name: str
    value: float
    examples: float


@dataclass(frozen=True)
class Curves:
    """Points (x, value) of each client and of the mean, by x."""

    clients: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    mean: list[tuple[float, float]] = field(default_factory=list)


class Box(NamedTuple):
    """One round across clients; `low` and `high` are the last values within REACH, `outliers` (client, value) those beyond."""

    round: int
    low: float
    q1: float
    median: float
    q3: float
    high: float
    mean: float
    clients: int
    outliers: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Summary:
    """A round as one row. `outcomes` counts its updates, `seconds` is None while it is open, `metrics` are means by (phase, name)."""

    round: int
    state: str
    began: datetime
    seconds: float | None
    requested: int
    outcomes: dict[str, int]
    examples: float
    metrics: dict[tuple[Phase, str], float]
    model: str | None
    notes: tuple[str, ...]


def scores(updates: Iterable[UpdateRow]) -> list[Score]:
    """Of the updates that were taken, and of all that validated. Values that are not finite are left out."""
    found = []
    for row in updates:
        if row.outcome in TAKEN:
            told = {name: value for name, value in row.metrics.items() if isfinite(value)}
            found += [Score(row.round, row.client, "train", name, value, row.examples or 1.0) for name, value in told.items()]
        validated = dict(row.validated or {})
        examples = validated.pop("examples", None) or row.examples or 1.0
        told = {name: value for name, value in validated.items() if isfinite(value)}
        found += [Score(row.round, row.client, "validate", name, value, examples) for name, value in told.items()]
    return found


def names(of: Iterable[Score | MeasureRow]) -> list[str]:
    """The metrics there are, the loss first."""
    return sorted({one.name for one in of}, key=lambda name: (name != "loss", name))


def over_rounds(of: Iterable[Score], phase: Phase, name: str) -> Curves:
    """A metric from round to round."""
    curves, at = Curves(), defaultdict[int, list[Score]](list)
    for score in sorted(one for one in of if one.phase == phase and one.name == name):
        curves.clients.setdefault(score.client, []).append((score.round, score.value))
        at[score.round].append(score)
    curves.mean.extend((round, _mean(there)) for round, there in sorted(at.items()))
    return curves


def over_steps(measures: Iterable[MeasureRow], updates: Iterable[UpdateRow], phase: Phase, name: str) -> Curves:
    """A metric while clients work. x is the round before, and how far through its own steps of the round a client was then.

    Of each client a round has BINS points at most, fewer where there are many rounds. Each is the mean of what was told since the one before;
    where nothing was, the last word stands.
    """
    told: dict[int, dict[str, list[tuple[int, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in measures:
        if row.phase == phase and row.name == name and isfinite(row.value):
            told[row.round][row.client].append((row.step, row.value))
    curves, weights = Curves(), _weights(updates)
    for round, clients in sorted(told.items()):
        bins = max(1, min(BINS, POINTS // len(told), max(map(len, clients.values()))))
        binned = {client: _binned(points, bins) for client, points in sorted(clients.items())}
        for client, values in binned.items():
            curves.clients.setdefault(client, []).extend((round - 1 + number / bins, value) for number, value in values.items())
        last: dict[str, float] = {}
        for number in range(1, bins + 1):
            last |= {client: values[number] for client, values in binned.items() if number in values}
            if last:
                mean = np.average(list(last.values()), weights=[weights.get(client, weights[""]) for client in last])
                curves.mean.append((round - 1 + number / bins, float(mean)))
    return curves


def boxes(of: Iterable[Score], phase: Phase, name: str) -> list[Box]:
    """The box of each round."""
    at = defaultdict[int, list[Score]](list)
    for score in of:
        if score.phase == phase and score.name == name:
            at[score.round].append(score)
    return [_box(round, there) for round, there in sorted(at.items())]


def summaries(rounds: Sequence[RoundRow], updates: Sequence[UpdateRow]) -> list[Summary]:
    """A row for each round. Its notes tell why it failed, and of whom nothing was taken."""
    of, told = defaultdict[int, list[UpdateRow]](list), defaultdict[int, list[Score]](list)
    for row in updates:
        of[row.round].append(row)
    for score in scores(updates):
        told[score.round].append(score)
    found = []
    for one in rounds:
        there = of[one.number]
        by_metric = defaultdict[tuple[Phase, str], list[Score]](list)
        for score in told[one.number]:
            by_metric[score.phase, score.name].append(score)
        outcomes = [row.outcome or "OPEN" for row in there]
        left_out = [row for row in there if row.outcome not in (*TAKEN, None)]
        notes = [": ".join(filter(None, (row.client, row.outcome, row.reason))) for row in left_out]
        found.append(Summary(
            one.number, one.state, one.began, (one.ended - one.began).total_seconds() if one.ended else None, len(one.requested),
            {outcome: outcomes.count(outcome) for outcome in sorted(set(outcomes))},
            sum(row.examples or 0.0 for row in there if row.outcome in TAKEN),
            {key: _mean(metric) for key, metric in sorted(by_metric.items())}, one.model, tuple(filter(None, [one.reason, *notes])),
        ))  # fmt: skip
    return found


def _mean(of: Sequence[Score]) -> float:
    return float(np.average([one.value for one in of], weights=[one.examples for one in of]))


def _box(round: int, of: Sequence[Score]) -> Box:
    values = np.array([one.value for one in of])
    q1, median, q3 = np.percentile(values, [25, 50, 75])
    inside = values[(values >= q1 - REACH * (q3 - q1)) & (values <= q3 + REACH * (q3 - q1))]
    # Between two values a quartile may lie beyond all that is inside.
    low, high = min(inside.min(), q1), max(inside.max(), q3)
    outliers = tuple(sorted((one.client, one.value) for one in of if not low <= one.value <= high))
    return Box(round, float(low), float(q1), float(median), float(q3), float(high), _mean(of), len(of), outliers)


def _binned(points: Sequence[tuple[int, float]], bins: int) -> dict[int, float]:
    """Number of a bin, from 1 to `bins`, -> the mean of the values in it."""
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    found = defaultdict[int, list[float]](list)
    for step, value in points:
        found[max(1, ceil(bins * (step - first + 1) / (last - first + 1)))].append(value)
    return {number: fmean(values) for number, values in sorted(found.items())}


def _weights(updates: Iterable[UpdateRow]) -> Mapping[str, float]:
    """Client -> examples of its latest update. Under "" what others count, of whom nothing has come yet: the mean of those."""
    known = {row.client: row.examples for row in updates if row.examples}
    return known | {"": fmean(known.values()) if known else 1.0}
