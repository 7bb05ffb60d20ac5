"""Federated algorithms by name: what a device adds to its steps, and how updates become the next model.

Each is linear in the updates: `terms` makes sums of any set of them, sums are added up, and `close` needs nothing else. So
the centre holds one sum, and not the devices' weights. Shapes: weights [..., P], states [..., S]; leading axes are devices.
"""

# ruff: noqa: ARG002 - hooks, of which most algorithms need few arguments

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from pydantic import Field, PrivateAttr

from federation.simulation.plugins import Plugin, Registry

Sums = dict[str, np.ndarray]
#: What the centre sends to every device beside the model.
Shared = dict[str, np.ndarray]

Rate = Annotated[float, Field(gt=0)]


@dataclass
class Updates:
    """What devices [C] trained from `start` [P]: weights [C, P], examples [C] and steps E*N/B [C]."""

    start: np.ndarray
    weights: np.ndarray
    examples: np.ndarray
    steps: np.ndarray
    #: What else they send; SCAFFOLD's changes of control [C, P].
    extra: dict[str, np.ndarray] = field(default_factory=dict)


class Pull(NamedTuple):
    """What is added to the gradient at v: `constant` [..., P], and `proximal` [..., 1] times v - w; None where there is none of it."""

    constant: np.ndarray | None = None
    proximal: np.ndarray | None = None


class Algorithm(Plugin):
    """FedAvg's, where a subclass says nothing else."""

    #: Parameters on the wire, in sizes of the model.
    traffic: ClassVar[int] = 1
    #: Whether the device's part goes with another algorithm's aggregation, and the other way round.
    divisible: ClassVar[bool] = True

    def fresh(self, size: int) -> np.ndarray:
        """The state of a device that never took part."""
        return np.empty(0)

    def rate(self, optimizer: float) -> float:
        """The learning rate, where the optimizer has that."""
        return optimizer

    def pull(self, state: np.ndarray, shared: Shared) -> Pull:
        """What the device adds to the gradient, as a client package is told it."""
        return Pull()

    def correction(self, v: np.ndarray, w: np.ndarray, state: np.ndarray, shared: Shared) -> np.ndarray | None:
        """The same at `v`; `w` [P] is the global model."""
        constant, proximal = self.pull(state, shared)
        if proximal is None:
            return constant
        pulled = proximal * (v - w)
        return np.asarray(pulled if constant is None else pulled + constant)

    def after_epoch(self, state: np.ndarray, loss: np.ndarray) -> np.ndarray:
        """The state after an epoch with that mean loss."""
        return state

    def after(
        self, v: np.ndarray, w: np.ndarray, state: np.ndarray, shared: Shared, steps: np.ndarray, rate: float
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The state after training, and what the device sends beside its weights. `steps` is [..., 1]."""
        return state, {}

    def begin(self, size: int, devices: int) -> None:
        """At the centre, before the first round."""

    def shared(self) -> Shared:
        """What the centre sends to every device beside the model."""
        return {}

    def terms(self, updates: Updates) -> Sums:
        """Sums over the updates."""
        return {"n": updates.examples.sum(keepdims=True), "nw": updates.examples @ updates.weights}

    def close(self, w: np.ndarray, sums: Sums) -> np.ndarray:
        """The next model."""
        return np.asarray(sums["nw"] / sums["n"])


ALGORITHMS: Registry[Algorithm] = Registry("algorithms")


@ALGORITHMS.register("fedavg")
class FedAvg(Algorithm):
    """The mean of the weights, weighted by examples."""


@ALGORITHMS.register("fedprox")
class FedProx(Algorithm):
    """Local loss plus mu/2 |v - w|^2. Each device's mu, kept between rounds, rises when the loss of an epoch does and falls when it falls."""

    mu: Rate = 1.0
    rise: Annotated[float, Field(ge=0)] = 0.1
    fall: Annotated[float, Field(ge=0)] = 0.02
    most: Rate = 1.0
    least: Annotated[float, Field(ge=0)] = 0.001

    def fresh(self, size: int) -> np.ndarray:
        return np.array([self.mu, np.nan])

    def pull(self, state: np.ndarray, shared: Shared) -> Pull:
        return Pull(proximal=state[..., :1])

    def after_epoch(self, state: np.ndarray, loss: np.ndarray) -> np.ndarray:
        mu, last = state[..., 0], state[..., 1]
        # Both comparisons are false for the first epoch, whose `last` is NaN.
        mu = np.where(loss > last, np.minimum(mu + self.rise, self.most), np.where(loss < last, np.maximum(mu - self.fall, self.least), mu))
        return np.stack([mu, loss], -1)


@ALGORITHMS.register("fednova")
class FedNova(Algorithm):
    """Each change counts by step, so that a device that ran more of them does not pull the model its way."""

    def terms(self, updates: Updates) -> Sums:
        n, tau = updates.examples, updates.steps
        return {
            "n": n.sum(keepdims=True), "n_tau": (n * tau).sum(keepdims=True), "change": (n / tau) @ (updates.start - updates.weights)
        }  # fmt: skip

    def close(self, w: np.ndarray, sums: Sums) -> np.ndarray:
        return np.asarray(w - sums["n_tau"] / sums["n"] * sums["change"] / sums["n"])


@ALGORITHMS.register("scaffold")
class Scaffold(Algorithm):
    """Each step is set right by what the device's gradients differ from all devices'. The mean of the weights is not weighted."""

    traffic: ClassVar[int] = 2
    divisible: ClassVar[bool] = False

    lr: Rate = 0.01
    _c: np.ndarray = PrivateAttr(default_factory=lambda: np.empty(0))
    _devices: int = PrivateAttr(0)

    def fresh(self, size: int) -> np.ndarray:
        return np.zeros(size)

    def rate(self, optimizer: float) -> float:
        return self.lr

    def pull(self, state: np.ndarray, shared: Shared) -> Pull:
        return Pull(constant=shared["c"] - state)

    def after(
        self, v: np.ndarray, w: np.ndarray, state: np.ndarray, shared: Shared, steps: np.ndarray, rate: float
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        change = -shared["c"] + (w - v) / (steps * rate)
        return state + change, {"change": change}

    def begin(self, size: int, devices: int) -> None:
        self._c, self._devices = np.zeros(size), devices

    def shared(self) -> Shared:
        return {"c": self._c}

    def terms(self, updates: Updates) -> Sums:
        return {
            "count": np.array([len(updates.weights)]), "weights": updates.weights.sum(0), "change": updates.extra["change"].sum(0)
        }  # fmt: skip

    def close(self, w: np.ndarray, sums: Sums) -> np.ndarray:
        self._c = self._c + sums["change"] / self._devices
        return np.asarray(sums["weights"] / sums["count"])


@ALGORITHMS.register("feddyn")
class FedDyn(Algorithm):
    """Local loss minus <g, v> plus alpha/2 |v - w|^2; each device's g is kept between rounds."""

    divisible: ClassVar[bool] = False

    alpha: Rate = 0.01
    _h: np.ndarray = PrivateAttr(default_factory=lambda: np.empty(0))
    _devices: int = PrivateAttr(0)

    def fresh(self, size: int) -> np.ndarray:
        return np.zeros(size)

    def pull(self, state: np.ndarray, shared: Shared) -> Pull:
        return Pull(constant=-state, proximal=np.array([self.alpha]))

    def after(
        self, v: np.ndarray, w: np.ndarray, state: np.ndarray, shared: Shared, steps: np.ndarray, rate: float
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        return state - self.alpha * (v - w), {}

    def begin(self, size: int, devices: int) -> None:
        self._h, self._devices = np.zeros(size), devices

    def terms(self, updates: Updates) -> Sums:
        return {"count": np.array([len(updates.weights)]), "change": (updates.weights - updates.start).sum(0)}

    def close(self, w: np.ndarray, sums: Sums) -> np.ndarray:
        self._h = self._h - self.alpha / self._devices * sums["change"]
        return np.asarray(w + sums["change"] / sums["count"] - self._h / self.alpha)
