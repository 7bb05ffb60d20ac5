"""Client selections that look back on earlier rounds; each chooses at random in the first one.

Who never took part has an expected time of 0 and an infinite last loss, so that the fastest and the highest loss are looked for among
the unknown first.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, PrivateAttr

from federation.simulation.selection import SELECTIONS, Round, Selection

NotNegative = Annotated[float, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]


class ByHistory(Selection):
    """Random in the first round, `choose` afterwards."""

    def select(self, now: Round) -> np.ndarray:
        return now.any() if now.history.count == 0 else self.choose(now)

    def choose(self, now: Round) -> np.ndarray:
        raise NotImplementedError


def expected_times(now: Round) -> np.ndarray:
    """T [devices]."""
    return now.history.expected_times(now.expected.computation)


@SELECTIONS.register("ucb_cs")
class UcbCs(ByHistory):
    """Upper confidence bound of the discounted loss, times the share of examples. Without a past it is infinite."""

    gamma: Annotated[float, Field(gt=0, le=1)] = 0.2
    delta: NotNegative = 10.0

    def choose(self, now: Round) -> np.ndarray:
        history, rounds = now.history, now.history.count
        answered = history.answered[:rounds]
        weights = self.gamma ** (rounds - np.arange(rounds))
        times = weights @ answered
        losses = weights @ np.where(answered, history.loss[:rounds], 0)
        share = now.local_data_sizes / now.local_data_sizes.sum()
        scores = np.full(len(share), np.inf)
        # A weight can also have shrunk to nothing.
        known = times > np.finfo(float).tiny
        # Rounding makes the logarithm of 1 a little less than 0.
        total = np.maximum(np.log(weights.sum()) - np.log(times[known]), 0)
        scores[known] = share[known] * (losses[known] / times[known] + np.sqrt(2 * self.delta**2 * total))
        return now.best(scores)


@SELECTIONS.register("best_time_expected")
class BestTimeExpected(ByHistory):
    """The lowest weighted sum of expected time, variance of the times so far, and how often a device was selected."""

    time: NotNegative = 0.34
    variance: NotNegative = 0.33
    count: NotNegative = 0.33

    def choose(self, now: Round) -> np.ndarray:
        times = expected_times(now)
        mean = times[times > 0].mean() if (times > 0).any() else 0.0
        return now.best(-(self.time * times + self.variance * now.history.time_variances() + self.count * now.history.counts() * mean))


@SELECTIONS.register("budgeted_fairness_rotation")
class BudgetedFairnessRotation(ByHistory):
    """The least selected, where selections are too unequal; else the fastest and those of the highest loss in turn."""

    #: Standard deviation of the numbers of selections.
    fairness: NotNegative = 1.5
    #: Take .25 * round / 2 for it.
    autotune: bool = False

    def choose(self, now: Round) -> np.ndarray:
        counts = now.history.counts()
        if counts.std() > (0.25 * now.number / 2 if self.autotune else self.fairness):
            return now.best(-counts)
        return now.best(-expected_times(now)) if now.number % 2 else now.best(now.history.last_losses())


@SELECTIONS.register("budgeted_time_rotation")
class BudgetedTimeRotation(ByHistory):
    """The fastest, where rounds take too long on average; else the highest loss, and now and then the least selected."""

    #: Seconds that a round should take.
    time: Positive = 7.2
    #: Take what lies between the mean of the fast rounds and of the others.
    autotune: bool = False
    #: Every which round takes the least selected.
    every: Annotated[int, Field(ge=1)] = 50
    _fast: list[int] = PrivateAttr(default_factory=list)

    def choose(self, now: Round) -> np.ndarray:
        times = now.history.times[: now.history.count]
        if times.mean() > self._desired(times):
            self._fast.append(now.history.count)
            return now.best(-expected_times(now))
        return now.best(-now.history.counts()) if now.number % self.every == 0 else now.best(now.history.last_losses())

    def _desired(self, times: np.ndarray) -> float:
        fast = np.isin(np.arange(len(times)), self._fast)
        if not self.autotune or fast.all() or not fast.any():
            return self.time
        return float((times[fast].mean() + times[~fast].mean()) / 2)


@SELECTIONS.register("limited_time")
class LimitedTime(ByHistory):
    """The highest last loss among those that are expected in time; where that is nobody, the fastest one."""

    #: Seconds.
    limit: Positive = 5.0
    #: Take mean + mean absolute deviation of the expected times.
    autotune: bool = False

    def choose(self, now: Round) -> np.ndarray:
        times = expected_times(now)
        here = times[now.available]
        limit = here.mean() + np.abs(here - here.mean()).mean() if self.autotune else self.limit
        soon = now.available[here <= limit]
        return now.best(now.history.last_losses(), among=soon) if len(soon) else now.best(-times, 1)


@SELECTIONS.register("limited_consumption")
class LimitedConsumption(ByHistory):
    """Integer programme: n devices of the least sum of 1/last loss, under caps on what the round consumes.

    Where n devices do not fit below the caps, as many as do.
    """

    #: Millijoules; iterations; parameters up and down.
    energy: NotNegative = 3400.0
    resources: NotNegative | None = None
    network: NotNegative | None = None

    def choose(self, now: Round) -> np.ndarray:
        here = now.available
        caps = [(now.expected.energy[here], self.energy)]
        if self.resources is not None:
            caps.append((now.expected.iterations[here], self.resources))
        if self.network is not None:
            caps.append((np.full(len(here), 2.0 * now.traffic), self.network))
        # A loss of 0 is as good as done.
        cost = 1 / np.maximum(now.history.last_losses()[here], 1e-6)
        n = int(_least(-np.ones(len(here)), caps, (0, now.n)).sum())
        return here[_least(cost, caps, (n, n)) > 0.5]


def _least(cost: np.ndarray, caps: list[tuple[np.ndarray, float]], number: tuple[int, int]) -> np.ndarray:
    """The 0 or 1 of each device with the least cost; there always is one."""
    try:
        from scipy.optimize import Bounds, LinearConstraint, milp
    except ImportError as error:
        from fdn_worker.errors import SystemFault

        raise SystemFault("limited_consumption needs scipy", code="extra-missing", remedy="install the extra `learning`") from error
    rows = [LinearConstraint(np.ones(len(cost)), *number), *(LinearConstraint(use, ub=cap) for use, cap in caps)]
    found = milp(cost, constraints=rows, integrality=np.ones(len(cost)), bounds=Bounds(0, 1))
    return np.asarray(np.round(found.x))
