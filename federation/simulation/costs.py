"""What a device's part in a round costs: seconds, millijoules, parameters sent. Formulas over arrays [devices]."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from federation.simulation.configuration import Energy


@dataclass(frozen=True)
class Orders:
    """What each device is told to run; arrays of integers [devices]."""

    epochs: np.ndarray
    batch_size: np.ndarray
    num_examples: np.ndarray


@dataclass(frozen=True)
class Costs:
    """Seconds, millijoules and iterations; arrays [devices]."""

    iterations: np.ndarray
    computation: np.ndarray
    upload: np.ndarray
    distribution: np.ndarray
    energy: np.ndarray

    @property
    def communication(self) -> np.ndarray:
        return np.asarray(self.upload + self.distribution)

    @property
    def time(self) -> np.ndarray:
        """Seconds from the start of the round until the device has answered; the round lasts as long as the slowest."""
        return np.asarray(self.computation + self.communication)


def fit_iterations(orders: Orders) -> np.ndarray:
    """E * N / B."""
    return np.asarray(orders.epochs * orders.num_examples / orders.batch_size)


def eval_iterations(orders: Orders) -> np.ndarray:
    """N / B."""
    return np.asarray(orders.num_examples / orders.batch_size)


def costs(iterations: np.ndarray, ips: np.ndarray, speed: np.ndarray, upload: int, distribution: int, power: Energy) -> Costs:
    """`upload` and `distribution` are parameters sent each way, `speed` parameters per second."""
    computation, up, down = iterations / ips, upload / speed, distribution / speed
    energy = power.pow_comp_s * computation + power.pow_net_s * (up + down)
    return Costs(iterations, computation, up, down, energy)
