"""What the centre remembers of the rounds of one phase: small arrays [rounds, devices], which selections look back on."""

from __future__ import annotations

import numpy as np

from federation.simulation.costs import Costs, Orders


class History:
    """Rounds up to `count` have been. Times are seconds, energy mJ; 0 where a device was not selected, metrics NaN where none came back."""

    def __init__(self, rounds: int, devices: int) -> None:
        shape = (rounds, devices)
        self.count = 0
        self.selected = np.zeros(shape, dtype=bool)
        self.answered = np.zeros(shape, dtype=bool)
        self.epochs, self.batch_size, self.num_examples = (np.zeros(shape, dtype=np.int32) for _ in range(3))
        self.computation, self.upload, self.distribution = (np.zeros(shape) for _ in range(3))
        self.resources, self.network_upload, self.network_distribution, self.energy = (np.zeros(shape) for _ in range(4))
        self.metric, self.loss = np.full(shape, np.nan), np.full(shape, np.nan)
        self.agg_metric, self.agg_loss = np.full(rounds, np.nan), np.full(rounds, np.nan)
        #: Seconds that each round took.
        self.times = np.zeros(rounds)

    def order(self, chosen: np.ndarray, orders: Orders, spent: Costs, upload: int, distribution: int) -> None:
        """The round that runs: what the chosen are told, and what that costs; arrays of `orders` and `spent` are [devices]."""
        row = self.count
        self.selected[row, chosen] = True
        for name in ("epochs", "batch_size", "num_examples"):
            getattr(self, name)[row, chosen] = getattr(orders, name)[chosen]
        for name, values in (
            ("computation", spent.computation), ("upload", spent.upload), ("distribution", spent.distribution),
            ("resources", spent.iterations), ("energy", spent.energy),
        ):  # fmt: skip
            getattr(self, name)[row, chosen] = values[chosen]
        self.network_upload[row, chosen], self.network_distribution[row, chosen] = upload, distribution
        self.times[row] = spent.time[chosen].max(initial=0)

    def answers(self, devices: np.ndarray, losses: np.ndarray, metrics: np.ndarray) -> None:
        """What came back in the round that runs."""
        self.answered[self.count, devices] = True
        self.loss[self.count, devices], self.metric[self.count, devices] = losses, metrics

    # Of the rounds that have been

    def counts(self) -> np.ndarray:
        """[devices]: how often each was selected."""
        return np.asarray(self.selected[: self.count].sum(0))

    def last_losses(self) -> np.ndarray:
        """[devices]: infinite for one that never answered, so that those who seek a high loss try it."""
        last = np.full(self.loss.shape[1], np.inf)
        for row in range(self.count):
            last = np.where(self.answered[row], self.loss[row], last)
        return last

    def expected_times(self, computation: np.ndarray) -> np.ndarray:
        """[devices]: root mean square of the communication times so far, plus `computation` seconds; 0 for one without a past."""
        past = self.upload[: self.count] + self.distribution[: self.count]
        had = (past > 0).sum(0)
        known = had > 0
        root = np.sqrt((past**2).sum(0) / np.maximum(had, 1))
        return np.where(known, root + computation, 0)

    def time_variances(self) -> np.ndarray:
        """[devices]: variance of the seconds that each took, over the rounds it was selected in; 0 before two of them."""
        times = (self.computation + self.upload + self.distribution)[: self.count]
        took = self.selected[: self.count]
        number = np.maximum(took.sum(0), 1)
        mean = times.sum(0) / number
        return np.asarray((((times - mean) ** 2) * took).sum(0) / number)
