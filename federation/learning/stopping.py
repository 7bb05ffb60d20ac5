"""When a session ends. Each rule looks at the rounds there were, and says why it is over, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf

from fdn_worker.errors import SettingsError

#: Mean metrics of each round, the first first.
History = Sequence[Mapping[str, float]]
Rule = Callable[[History], str | None]


def after_rounds(count: int) -> Rule:
    """When so many rounds were run."""
    if count < 1:
        raise SettingsError(f"{count} rounds", remedy="at least 1")
    return lambda history: f"{count} rounds were run" if len(history) >= count else None


def metric_reached(name: str, least: float) -> Rule:
    """When the last round's metric is at least that."""

    def rule(history: History) -> str | None:
        value = history[-1].get(name, -inf) if history else -inf
        return f"{name} is {value:.6g}, at least {least:.6g}" if value >= least else None

    return rule


def loss_reached(most: float, name: str = "loss") -> Rule:
    """When the last round's loss is at most that."""

    def rule(history: History) -> str | None:
        value = history[-1].get(name, inf) if history else inf
        return f"{name} is {value:.6g}, at most {most:.6g}" if value <= most else None

    return rule


def patience(name: str, rounds: int, *, rises: bool, least: float = 0.0) -> Rule:
    """When the metric has not been better than ever before, by more than `least`, for so many rounds. `rises`: more is better.

    A round without the metric is one without progress.
    """
    if rounds < 1:
        raise SettingsError(f"a patience of {rounds} rounds", remedy="at least 1")

    def rule(history: History) -> str | None:
        best, since = -inf, 0
        for metrics in history:
            value = metrics.get(name, -inf if rises else inf) * (1 if rises else -1)
            best, since = (value, 0) if value > best + least else (best, since + 1)
        return f"{name} has not been better for {since} rounds" if since >= rounds else None

    return rule


def first(rules: Iterable[Rule], history: History) -> str | None:
    """Why it is over by the first of the rules that says so."""
    return next((why for rule in rules if (why := rule(history)) is not None), None)
