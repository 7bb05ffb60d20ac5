"""The linear aggregators. x: the global model; y: an update, of n examples and K steps; N, m: all examples, all clients of a round; d = mean(y) - x.

Sources: McMahan 2017 (FedAvg), Hsu 2019 (FedAvgM), Li 2020 (FedProx), Wang 2020 (FedNova), Karimireddy 2020 (SCAFFOLD), Acar 2021 (FedDyn),
Reddi 2021 (FedAdam, FedYogi, FedAdagrad).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from pydantic import Field

from federation.learning.aggregator import Corrected, Linear, mean, said
from federation.learning.models import Array, ModelInfo

Sums = Mapping[str, Array]
Totals = Mapping[str, float]


class FedAvg(Linear):
    """x = sum n y / N."""

    name: ClassVar[str] = "fedavg"


class NormClipping(Linear):
    """FedAvg, where an update further than `clip` from x is shortened to it: none can pull harder than that."""

    name: ClassVar[str] = "norm-clipping"
    clip: float = Field(gt=0)


class FedProx(Linear):
    """FedAvg, where each client's loss has mu/2 |y - x|^2 added to it."""

    name: ClassVar[str] = "fedprox"
    mu: float = Field(1.0, ge=0)

    def settings(self) -> dict[str, float]:
        return {"proximal": self.mu}


class FedAvgM(Linear):
    """v = momentum v + d; x = x + learning_rate v."""

    name: ClassVar[str] = "fedavgm"
    learning_rate: float = Field(1.0, gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)

    def memory(self) -> dict[str, float]:
        return {"velocity": 0.0}

    def step(self, model: Array, sums: Sums, totals: Totals, memory: dict[str, Array]) -> Array:
        memory["velocity"] = self.momentum * memory["velocity"] + (mean(sums, totals) - model)
        return model + self.learning_rate * memory["velocity"]


class FedNova(Linear):
    """x = x + tau sum p (y - x) / K, with p = n/N and tau = sum p K: who took more steps pulls no harder."""

    name: ClassVar[str] = "fednova"

    def weights(self, info: ModelInfo, name: str) -> dict[str, float]:
        return {"model": said(info.examples, "examples", name) / said(info.steps, "steps", name)}

    def totals(self, info: ModelInfo) -> dict[str, float]:
        return {"work": said(info.examples, "examples", "the update") * said(info.steps, "steps", "the update")}

    def step(self, model: Array, sums: Sums, totals: Totals, memory: dict[str, Array]) -> Array:
        steps = totals["work"] / totals["examples"]
        return model + steps * (sums["model"] - totals["model"] * model) / totals["examples"]


class Scaffold(Corrected):
    """x = x + server_learning_rate sum (y - x) / m; c = c + sum dc / clients, with dc = (x - y)/(K learning_rate) - c.

    A client steps by its gradient + c - its own c, to which the same dc is added afterwards. All clients count the same: the
    corrections cancel out in that mean alone. dc follows from the update, so none is sent.
    """

    name: ClassVar[str] = "scaffold"
    sums: ClassVar[tuple[str, ...]] = ("model", "slope")
    #: All there are, chosen for the round or not.
    clients: int = Field(gt=0)
    #: The clients' own.
    learning_rate: float = Field(0.01, gt=0)
    server_learning_rate: float = Field(1.0, gt=0)

    def settings(self) -> dict[str, float]:
        return {"learning_rate": self.learning_rate}

    def weights(self, info: ModelInfo, name: str) -> dict[str, float]:
        return {"model": 1.0, "slope": 1 / (said(info.steps, "steps", name) * self.learning_rate)}

    def memory(self) -> dict[str, float]:
        return {"control": 0.0}

    def step(self, model: Array, sums: Sums, totals: Totals, memory: dict[str, Array]) -> Array:
        change = totals["slope"] * model - sums["slope"] - totals["clients"] * memory["control"]
        memory["control"] = memory["control"] + change / self.clients
        return model + self.server_learning_rate * (mean(sums, totals) - model)

    def correction(self, own: Array, memory: Mapping[str, Array]) -> Array:
        return memory["control"] - own

    def remember(self, own: Array, memory: Mapping[str, Array], model: Array, update: Array, steps: float | None) -> Array:
        return own - memory["control"] + (model - update) / (said(steps, "steps", "the update") * self.learning_rate)


class FedDyn(Corrected):
    """h = h - alpha/clients sum (y - x); x = mean(y) - h/alpha, all clients alike.

    A client's loss has - g.y + alpha/2 |y - x|^2 added to it, and g = g - alpha (y - x) afterwards.
    """

    name: ClassVar[str] = "feddyn"
    #: All there are, chosen for the round or not.
    clients: int = Field(gt=0)
    alpha: float = Field(0.01, gt=0)

    def settings(self) -> dict[str, float]:
        return {"proximal": self.alpha}

    def weights(self, info: ModelInfo, name: str) -> dict[str, float]:
        return {"model": 1.0}

    def memory(self) -> dict[str, float]:
        return {"drift": 0.0}

    def step(self, model: Array, sums: Sums, totals: Totals, memory: dict[str, Array]) -> Array:
        memory["drift"] = memory["drift"] - self.alpha / self.clients * (sums["model"] - totals["model"] * model)
        return mean(sums, totals) - memory["drift"] / self.alpha

    def correction(self, own: Array, memory: Mapping[str, Array]) -> Array:
        return -own

    def remember(self, own: Array, memory: Mapping[str, Array], model: Array, update: Array, steps: float | None) -> Array:
        return own - self.alpha * (update - model)


class _Adaptive(Linear):
    """m = beta1 m + (1 - beta1) d; x = x + learning_rate m / (sqrt(v) + tau); v begins as tau^2, and m as 0."""

    learning_rate: float = Field(1e-3, gt=0)
    beta1: float = Field(0.9, ge=0, lt=1)
    tau: float = Field(1e-4, gt=0)

    def memory(self) -> dict[str, float]:
        return {"momentum": 0.0, "variance": self.tau**2}

    def variance(self, variance: Array, square: Array) -> Array:
        """The new v of the old one and d^2."""
        raise NotImplementedError

    def step(self, model: Array, sums: Sums, totals: Totals, memory: dict[str, Array]) -> Array:
        change = mean(sums, totals) - model
        memory["momentum"] = self.beta1 * memory["momentum"] + (1 - self.beta1) * change
        memory["variance"] = self.variance(memory["variance"], change**2)
        return model + self.learning_rate * memory["momentum"] / (np.sqrt(memory["variance"]) + self.tau)


class FedAdagrad(_Adaptive):
    """v = v + d^2."""

    name: ClassVar[str] = "fedadagrad"

    def variance(self, variance: Array, square: Array) -> Array:
        return variance + square


class FedAdam(_Adaptive):
    """v = beta2 v + (1 - beta2) d^2."""

    name: ClassVar[str] = "fedadam"
    beta2: float = Field(0.99, ge=0, lt=1)

    def variance(self, variance: Array, square: Array) -> Array:
        return self.beta2 * variance + (1 - self.beta2) * square


class FedYogi(_Adaptive):
    """v = v - (1 - beta2) d^2 sign(v - d^2)."""

    name: ClassVar[str] = "fedyogi"
    beta2: float = Field(0.99, ge=0, lt=1)

    def variance(self, variance: Array, square: Array) -> Array:
        return variance - (1 - self.beta2) * square * np.sign(variance - square)
