"""Differential privacy for each client as a whole: a clipped sum, Gaussian noise, and the account of it.

What is hidden is what a client's update was, not that it took part: neighbours are rounds in which one client's update is the global model itself
(zero-out adjacency), so the sum of clipped changes differs by at most `clip`. No account is taken of rounds that a client was not chosen for, so that
epsilon is an upper bound. The noise comes from PCG64, seeded by the operating system: no cryptographic generator, and in floating point.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import ClassVar

import numpy as np
from pydantic import Field

from fdn_worker.errors import SettingsError
from federation.learning.aggregator import Linear
from federation.learning.models import Array, ModelInfo


class DPFedAvg(Linear):
    """x = x + (sum of changes, none longer than clip, + noise of standard deviation noise_multiplier clip) / m; all clients alike.

    Integers stay as they are. Metrics get no noise: a client that must not tell does not write them.
    """

    name: ClassVar[str] = "dp-fedavg"
    clip: float = Field(gt=0)
    noise_multiplier: float = Field(gt=0)

    def weights(self, info: ModelInfo, name: str) -> dict[str, float]:
        return {"model": 1.0}

    def step(self, model: Array, sums: Mapping[str, Array], totals: Mapping[str, float], memory: dict[str, Array]) -> Array:
        noise = np.random.default_rng().normal(scale=self.noise_multiplier * self.clip, size=len(model))
        return model + (sums["model"] - totals["model"] * model + noise) / totals["model"]

    def whole(self, model: Array, sums: Mapping[str, Array], totals: Mapping[str, float]) -> Array:
        return model


def epsilon(noise_multiplier: float, rounds: int, delta: float) -> float:
    """What so many rounds with that noise have cost at most: (epsilon, delta)-differential privacy, exactly, by Google's dp-accounting."""
    try:
        from dp_accounting import get_epsilon_gaussian
    except ImportError as error:
        raise SettingsError("the accountant is not installed", remedy="pip install 'federated-execution-manager[privacy]'") from error
    if not noise_multiplier > 0 or rounds < 0 or not 0 < delta < 1:
        raise SettingsError(
            f"no account of noise_multiplier {noise_multiplier}, {rounds} rounds, delta {delta}",
            remedy="noise above 0, delta between 0 and 1",
        )
    # Gaussian mechanisms compose exactly: so many rounds are one, with noise smaller by the root of their number.
    return float(get_epsilon_gaussian(noise_multiplier / sqrt(rounds), delta)) if rounds else 0.0
