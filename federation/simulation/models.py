"""Models by name: networks of numpy, of which many can be trained at once.

Weights are one flat vector. Leading axes are devices: weights [..., P], features [..., B, F], classes [..., B].
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import pairwise
from typing import Annotated, Protocol

import numpy as np
from pydantic import Field

from federation.simulation.algorithms import Algorithm, Shared
from federation.simulation.errors import SimulationError
from federation.simulation.plugins import Plugin, Registry
from federation.simulation.streams import Rng
from federation.simulation.training import Learner, Local, Trained, train, train_many


class Net(Protocol):
    """A model that knows its features and classes."""

    #: Weights in all.
    size: int
    #: Numbers of [0, 1) that one example takes for dropout.
    dropped: int
    #: Whether there may be a leading axis of devices.
    vectorised: bool

    def start(self, rng: Rng) -> np.ndarray:
        """First weights [P]."""

    def gradient(
        self, w: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray, uniform: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The sums over the examples of weight * loss [...], and of its gradient [..., P]. `uniform` is [..., B, dropped]."""

    def scores(self, w: np.ndarray, x: np.ndarray) -> np.ndarray:
        """Logarithms of the probabilities [B, classes], without dropout; `w` is [P]."""


class Model(Plugin):
    """A kind of model."""

    def net(self, features: int, classes: int) -> Net:
        """The network for such data; SimulationError where it has another shape."""
        raise NotImplementedError

    def learner(self, features: int, classes: int) -> Learner:
        """How it is trained: step by step, by its network."""
        return Stepwise(self.net(features, classes))


MODELS: Registry[Model] = Registry("models")


@MODELS.register("softmax")
class Softmax(Model):
    """Softmax regression."""

    def net(self, features: int, classes: int) -> Net:
        return Layers((features, classes), 0.0)


@MODELS.register("mlp")
class Mlp(Model):
    """A network with hidden layers of rectified units, and dropout behind each."""

    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)] = (32,)
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0

    def net(self, features: int, classes: int) -> Net:
        return Layers((features, *self.hidden, classes), self.dropout)


@MODELS.register("mnist")
class Mnist(Model):
    """784-128-10 with dropout 0.2: 101,770 weights."""

    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2

    def net(self, features: int, classes: int) -> Net:
        if (features, classes) != (784, 10):
            raise SimulationError(
                f"simulation.model_name: mnist takes 784 features and 10 classes, and the data set has {features} and {classes}",
                remedy="take digits with dataset_params {side: 28}, a file of MNIST, or the model mlp",
            )
        return Layers((784, 128, 10), self.dropout)


class Layers:
    """Dense layers, rectified but the last, and softmax with cross entropy."""

    vectorised = True

    def __init__(self, widths: tuple[int, ...], dropout: float) -> None:
        self.widths, self.dropout = widths, dropout
        self.dropped = sum(widths[1:-1]) if dropout else 0
        self.size = sum((above + 1) * below for above, below in pairwise(widths))

    def start(self, rng: Rng) -> np.ndarray:
        """Glorot's uniform weights, and biases of 0."""
        parts = []
        for above, below in pairwise(self.widths):
            limit = np.sqrt(6 / (above + below))
            parts += [rng.uniform(-limit, limit, above * below), np.zeros(below)]
        return np.concatenate(parts)

    def gradient(
        self, w: np.ndarray, x: np.ndarray, y: np.ndarray, weight: np.ndarray, uniform: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        layers = self._layers(w)
        inputs, gates = self._forward(layers, x, uniform)
        # Softmax and its slope with one exponential: this is where small models spend their time.
        scores = inputs.pop()
        scores -= scores.max(-1, keepdims=True)
        slope = np.exp(scores)
        total = slope.sum(-1, keepdims=True)
        true = np.arange(scores.shape[-1]) == y[..., None]
        loss = ((np.log(total[..., 0]) - scores[true].reshape(y.shape)) * weight).sum(-1)
        slope /= total
        slope -= true
        slope *= weight[..., None]
        parts: list[np.ndarray] = []
        for number in range(len(layers) - 1, -1, -1):
            kernel = np.swapaxes(inputs[number], -1, -2) @ slope
            parts = [kernel.reshape(*w.shape[:-1], -1), slope.sum(-2), *parts]
            if number:
                slope = (slope @ np.swapaxes(layers[number][0], -1, -2)) * gates[number - 1]
        return loss, np.concatenate(parts, -1)

    def scores(self, w: np.ndarray, x: np.ndarray) -> np.ndarray:
        return _log_softmax(self._forward(self._layers(w), x, None)[0][-1])

    def _layers(self, w: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Views of kernels [..., above, below] and biases [..., 1, below]."""
        layers, at = [], 0
        for above, below in pairwise(self.widths):
            bias = at + above * below
            layers.append((w[..., at:bias].reshape(*w.shape[:-1], above, below), w[..., None, bias : bias + below]))
            at = bias + below
        return layers

    def _forward(
        self, layers: list[tuple[np.ndarray, np.ndarray]], x: np.ndarray, uniform: np.ndarray | None
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """What enters each layer, and last what leaves; and what each hidden unit passes of a slope."""
        values, gates, at = [x], [], 0
        for number, (kernel, bias) in enumerate(layers):
            out = values[-1] @ kernel + bias
            if number < len(layers) - 1:
                gate = (out > 0).astype(np.float64)
                if uniform is not None:
                    gate *= (uniform[..., at : at + out.shape[-1]] >= self.dropout) / (1 - self.dropout)
                    at += out.shape[-1]
                out = out * gate
                gates.append(gate)
            values.append(out)
        return values, gates


class Stepwise:
    """Trains a network here, and knows its scores."""

    def __init__(self, net: Net) -> None:
        self._net, self.size = net, net.size
        self.metrics: Collection[str] | None = METRICS

    def start(self, rng: Rng) -> np.ndarray:
        return self._net.start(rng)

    def train(self, rule: Algorithm, rate: float, w: np.ndarray, shared: Shared, work: Sequence[Local], *, together: bool) -> Trained:
        return (train_many if together and self._net.vectorised else train)(self._net, rule, rate, w, shared, work)

    def evaluate(
        self, w: np.ndarray, x: np.ndarray, y: np.ndarray, samples: Sequence[np.ndarray], metric: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """All samples are looked up in the scores of the whole."""
        logs = self._net.scores(w, x)
        losses, metrics = np.empty(len(samples)), np.empty(len(samples))
        for row, chosen in enumerate(samples):
            losses[row], metrics[row] = -logs[chosen, y[chosen]].mean(), METRICS[metric](logs[chosen], y[chosen])
        return losses, metrics


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def accuracy(logs: np.ndarray, y: np.ndarray) -> float:
    """Share of examples whose likeliest class is theirs."""
    return float((logs.argmax(-1) == y).mean())


def balanced_accuracy(logs: np.ndarray, y: np.ndarray) -> float:
    """Mean of the accuracies of the classes that occur."""
    right = logs.argmax(-1) == y
    return float(np.mean([right[y == label].mean() for label in np.unique(y)]))


METRICS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {"accuracy": accuracy, "balanced_accuracy": balanced_accuracy}
