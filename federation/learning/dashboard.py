"""What there is to see of a session: its rows, read within bounds, and the figures made of them. For a page, whoever shows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import get_args

from federation.learning import series
from federation.learning.figures import Cell, Figure, box_plot, curves, timeline
from storage.learning import Learning
from storage.learning_rows import ENDED, MeasureRow, Outcome, Phase, RoundRow, SessionRow, UpdateRow

#: Measures that are read, of the latest rounds, and metrics that are drawn.
MOST_MEASURES, MOST_METRICS = 200_000, 12
PHASES: tuple[Phase, ...] = get_args(Phase)
#: Of a model's id, as many characters as identify it; notes of a round that are told.
SHORT, NOTES = 8, 3


@dataclass(frozen=True)
class Seen:
    """The rows of a session."""

    session: SessionRow
    rounds: list[RoundRow]
    updates: list[UpdateRow]
    #: Of the latest rounds.
    measures: list[MeasureRow]

    @property
    def live(self) -> bool:
        """Whether more may come."""
        return self.session.state not in ENDED


def read(learning: Learning, session: SessionRow, *, steps: bool = True) -> Seen:
    """All rounds and updates, and with `steps` the measures of as many of the latest rounds as are drawn at once."""
    rounds, measures = learning.rounds(session.id), list[MeasureRow]()
    for one in reversed(rounds if steps else []):
        found = learning.measures(session.id, round=one.number)
        if measures and len(measures) + len(found) > MOST_MEASURES:
            break
        measures = found + measures
    return Seen(session, rounds, learning.updates(session.id), measures)


def metrics(seen: Seen) -> list[tuple[str, list[Figure]]]:
    """The figures of each metric, the loss first: over rounds, while clients work, and boxes across clients."""
    scores = series.scores(seen.updates)
    names = series.names([*scores, *seen.measures])[:MOST_METRICS]
    return [(name, list(_of_metric(name, scores, seen))) for name in names]


def _of_metric(name: str, scores: list[series.Score], seen: Seen) -> Iterator[Figure]:
    rounds = {phase: series.over_rounds(scores, phase, name) for phase in PHASES}
    if any(one.mean for one in rounds.values()):
        yield curves(f"{name} after each round", rounds, across="round", up=name)
    steps = {phase: series.over_steps(seen.measures, seen.updates, phase, name) for phase in PHASES}
    if any(one.mean for one in steps.values()):
        yield curves(f"{name} as clients log it", steps, across="rounds done", up=name)
    for phase in PHASES:
        if boxes := series.boxes(scores, phase, name):
            yield box_plot(f"{name} across clients, {phase}", boxes, phase, up=name)


def times(seen: Seen, now: datetime) -> Figure:
    """Who worked when."""
    return timeline("Train and validate of each client", seen.updates, seen.session.ended or now)


def round_table(seen: Seen) -> tuple[list[str], list[list[Cell]]]:
    """Header and a row for each round: what became of its clients, and the mean of each metric. Outcomes that never occurred have no column."""
    found = series.summaries(seen.rounds, seen.updates)
    names = series.names([*series.scores(seen.updates)])[:MOST_METRICS]
    metrics = [(phase, name) for name in names for phase in PHASES if any((phase, name) in one.metrics for one in found)]
    outcomes = ["COUNTED", *(name for name in get_args(Outcome)[1:] if any(name in one.outcomes for one in found))]
    header = [
        "round", "state", "seconds", "asked", *map(str.lower, outcomes), "examples", *(f"{name}, {phase}" for phase, name in metrics), "model", "notes",
    ]  # fmt: skip
    return header, [
        [one.round, one.state, "" if one.seconds is None else round(one.seconds, 1), one.requested,
         *(one.outcomes.get(name, 0) for name in outcomes), round(one.examples), *(one.metrics.get(key, "") for key in metrics),
         (one.model or "")[:SHORT], _notes(one.notes)]
        for one in found
    ]  # fmt: skip


def _notes(notes: tuple[str, ...]) -> str:
    more = [f"and {len(notes) - NOTES} more"] if len(notes) > NOTES else []
    return "; ".join([*notes[:NOTES], *more])
