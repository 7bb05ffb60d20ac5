"""Client selection by name: who takes part in a round. None of them can choose a device that is not available.

Here are the strategies that look at the devices; those that look back on earlier rounds are in `selection_by_history`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from federation.simulation.costs import Costs
from federation.simulation.errors import SimulationError
from federation.simulation.history import History
from federation.simulation.plugins import Plugin, Registry
from federation.simulation.streams import Rng


@dataclass(frozen=True)
class Round:
    """What a selection may look at. Arrays are [devices]."""

    number: int
    #: Numbers of the devices that are there, ascending.
    available: np.ndarray
    #: How many are asked for, at most the available.
    n: int
    rng: Rng
    ips: np.ndarray
    energy: np.ndarray
    net_speed: np.ndarray
    local_data_sizes: np.ndarray
    #: Of a round as it is configured; an update optimizer may change it.
    expected: Costs
    #: Parameters that go up and down.
    traffic: int
    history: History

    def best(self, scores: np.ndarray, n: int | None = None, among: np.ndarray | None = None) -> np.ndarray:
        """The available devices of the highest scores [devices]; equal ones by lot."""
        here = self.available if among is None else among
        lot = self.rng.random(len(here))
        return here[np.lexsort((lot, -scores[here]))[: self.n if n is None else n]]

    def any(self, n: int | None = None) -> np.ndarray:
        """Available devices at random."""
        return self.rng.choice(self.available, min(self.n if n is None else n, len(self.available)), replace=False)


class Selection(Plugin):
    """A strategy. One object serves one phase of one repetition, and may remember."""

    def select(self, now: Round) -> np.ndarray:
        """Numbers of the devices that are chosen, each once."""
        raise NotImplementedError


SELECTIONS: Registry[Selection] = Registry("selections")


def chosen(selection: Selection, name: str, now: Round) -> np.ndarray:
    """The selection's choice, ascending; SimulationError where a plug-in chose what is not there."""
    devices = np.unique(selection.select(now))
    wrong = np.setdiff1d(devices, now.available)
    if len(wrong):
        raise SimulationError(
            f"selection {name}: chose device {wrong[0]} in round {now.number}, which is not available", remedy="mend the plug-in"
        )
    return devices


@SELECTIONS.register("random")
class Random(Selection):
    """Uniform, without replacement."""

    def select(self, now: Round) -> np.ndarray:
        return now.any()


def _best_by(name: str, doc: str, score: Callable[[Round], np.ndarray]) -> type[Selection]:
    """A strategy that takes those of the highest score."""

    class Best(Selection):
        def select(self, now: Round) -> np.ndarray:
            return now.best(score(now))

    Best.__doc__ = doc
    return SELECTIONS.register(name)(Best)


BestIps = _best_by("best_ips", "The fastest processors.", lambda now: now.ips)
BestNetSpeed = _best_by("best_net_speed", "The fastest networks, in this round.", lambda now: now.net_speed)
BestEnergy = _best_by("best_energy", "Those with the most energy.", lambda now: now.energy)
BestRoundTime = _best_by("best_round_time", "Those that are expected to answer first.", lambda now: -now.expected.time)


@SELECTIONS.register("dynamic_sampling")
class DynamicSampling(Selection):
    """At random, and fewer from round to round: n / exp(decay * round), at least one."""

    decay: Annotated[float, Field(ge=0)] = 0.1

    def select(self, now: Round) -> np.ndarray:
        return now.any(max(1, int(now.n / np.exp(self.decay * now.number))))
