"""Update optimizers by name: what each selected device is told to run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, model_validator

from federation.simulation.configuration import RoundParameters
from federation.simulation.costs import Orders
from federation.simulation.plugins import Plugin, Registry
from federation.simulation.streams import Rng

Knob = Literal["epochs", "batch_size", "num_examples"]


@dataclass(frozen=True)
class Given:
    """What an update optimizer may look at: the round's parameters, the selected devices, iterations per second [devices]."""

    params: RoundParameters
    selected: np.ndarray
    ips: np.ndarray
    rng: Rng

    def static(self) -> Orders:
        """The same for all, arrays [devices]."""
        return Orders(*(np.full(len(self.ips), getattr(self.params, name)) for name in ("epochs", "batch_size", "num_examples")))


class Update(Plugin):
    """A rule. Values below 1 are raised to it, and a device takes part with as many examples as it has."""

    def orders(self, given: Given) -> Orders:
        """For all devices [devices]; only the selected ones are read."""
        raise NotImplementedError


UPDATES: Registry[Update] = Registry("updates")


def orders(update: Update, given: Given, sizes: np.ndarray) -> Orders:
    """What each device runs, within what it has: `sizes` examples [devices]."""
    wanted = update.orders(given)
    return Orders(np.maximum(wanted.epochs, 1), np.maximum(wanted.batch_size, 1), np.clip(wanted.num_examples, 1, sizes))


@UPDATES.register("static")
class Static(Update):
    """As configured."""

    def orders(self, given: Given) -> Orders:
        return given.static()


@UPDATES.register("best_round_time")
class BestRoundTime(Update):
    """Slower devices run fewer epochs: E * ips / that of the fastest one selected."""

    def orders(self, given: Given) -> Orders:
        fastest = given.ips[given.selected].max(initial=1)
        return replace(given.static(), epochs=(given.params.epochs * given.ips / fastest).astype(np.int64))


@UPDATES.register("uniform")
class Uniform(Update):
    """One of the three at random, uniform in [low, high]."""

    vary: Knob = "num_examples"
    low: Annotated[int, Field(ge=1)] = 50
    high: Annotated[int, Field(ge=1)] = 150

    @model_validator(mode="after")
    def _ascending(self) -> Uniform:
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        return self

    def orders(self, given: Given) -> Orders:
        return _varied(given, self.vary, given.rng.integers(self.low, self.high, len(given.ips), endpoint=True))


@UPDATES.register("equal_computation_time")
class EqualComputationTime(Update):
    """Each device computes for the same time: epochs (or the batch, or examples) follow from its speed."""

    #: Seconds.
    time: Annotated[float, Field(gt=0)] = 0.15
    vary: Knob = "epochs"

    def orders(self, given: Given) -> Orders:
        params, iterations = given.params, self.time * given.ips
        value = {
            "epochs": iterations * params.batch_size / params.num_examples,
            "batch_size": np.ceil(params.epochs * params.num_examples / iterations),
            "num_examples": iterations * params.batch_size / params.epochs,
        }[self.vary]
        return _varied(given, self.vary, value.astype(np.int64))


def _varied(given: Given, knob: Knob, value: np.ndarray) -> Orders:
    fixed = given.static()
    return Orders(**{name: value if name == knob else getattr(fixed, name) for name in ("epochs", "batch_size", "num_examples")})
