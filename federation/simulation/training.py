"""What a device computes: local training, one device after the other or many at once, and evaluation.

An epoch's last batch, where it is smaller than the rest, makes a step that is as much smaller. So all examples count the same
and the steps of E epochs come to E*N/B exactly, as costs, FedNova and SCAFFOLD count them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from federation.simulation.algorithms import Algorithm, Shared, Updates
from federation.simulation.streams import Rng

if TYPE_CHECKING:
    from federation.simulation.models import Net


@dataclass
class Local:
    """One device's work: its examples x [N, F] and y [N], epochs, size of a batch, its state, and its stream."""

    x: np.ndarray
    y: np.ndarray
    epochs: int
    batch_size: int
    state: np.ndarray
    rng: Rng

    def __post_init__(self) -> None:
        # A batch larger than all there is would make its step smaller for nothing.
        self.batch_size = min(self.batch_size, len(self.y))

    @property
    def steps(self) -> float:
        """E*N/B."""
        return self.epochs * len(self.y) / self.batch_size

    def schedule(self) -> np.ndarray:
        """[steps, batch] numbers of examples; -1 where a last batch has no more."""
        per_epoch = -(-len(self.y) // self.batch_size)
        rows = np.full((self.epochs, per_epoch * self.batch_size), -1, dtype=np.int64)
        for epoch in rows:
            epoch[: len(self.y)] = self.rng.permutation(len(self.y))
        return rows.reshape(-1, self.batch_size)


@dataclass
class Trained:
    """Updates of devices [C], the mean loss [C] of the last epoch, and the states [C, S]."""

    updates: Updates
    losses: np.ndarray
    states: np.ndarray


class Learner(Protocol):
    """A model with its way to train and to evaluate it."""

    #: Weights in all.
    size: int
    #: Names of its metrics; None where they are known only once it has evaluated.
    metrics: Collection[str] | None

    def start(self, rng: Rng) -> np.ndarray:
        """First weights [P]."""

    def train(self, rule: Algorithm, rate: float, w: np.ndarray, shared: Shared, work: Sequence[Local], *, together: bool) -> Trained:
        """Local training of all devices from `w`; `together`: at once, if it can."""

    def evaluate(
        self, w: np.ndarray, x: np.ndarray, y: np.ndarray, samples: Sequence[np.ndarray], metric: str
    ) -> tuple[np.ndarray, np.ndarray]:
        """Loss and metric of `w` on each of the samples, which are numbers of examples."""


def train(net: Net, rule: Algorithm, rate: float, w: np.ndarray, shared: Shared, work: Sequence[Local]) -> Trained:
    """One device after the other: the plain way."""
    done = [_train_one(net, rule, rate, w, shared, local) for local in work]
    extra = {name: np.stack([more[name] for _, _, _, more in done]) for name in done[0][3]}
    updates = _updates(w, np.stack([v for v, *_ in done]), work, extra)
    return Trained(updates, np.array([loss for _, loss, *_ in done]), np.stack([state for _, _, state, _ in done]))


def _train_one(
    net: Net, rule: Algorithm, rate: float, w: np.ndarray, shared: Shared, local: Local
) -> tuple[np.ndarray, float, np.ndarray, dict[str, np.ndarray]]:
    v, state, loss = w.copy(), local.state, np.zeros(())
    dropout = local.rng.spawn(1)[0] if net.dropped else local.rng
    batches = local.schedule()
    for epoch in np.split(batches, local.epochs):
        loss = np.zeros(())
        for row in epoch:
            batch = row[row >= 0]
            uniform = dropout.random((len(batch), net.dropped)) if net.dropped else None
            weight = np.full(len(batch), 1 / local.batch_size)
            part, gradient = net.gradient(v, local.x[batch], local.y[batch], weight, uniform)
            correction = rule.correction(v, w, state, shared)
            if correction is not None:
                gradient = gradient + len(batch) / local.batch_size * correction
            v -= rate * gradient
            loss = loss + part
        loss = loss * local.batch_size / len(local.y)
        state = rule.after_epoch(state, loss)
    state, extra = rule.after(v, w, state, shared, np.array([local.steps]), rate)
    return v, float(loss), state, extra


def train_many(net: Net, rule: Algorithm, rate: float, w: np.ndarray, shared: Shared, work: Sequence[Local]) -> Trained:
    """All at once, on arrays with an axis of devices; equal to the plain way but for rounding."""
    # A stream for dropout alone: the order of draws does not depend on the way.
    dropouts = [local.rng.spawn(1)[0] for local in work] if net.dropped else []
    schedules = [local.schedule() for local in work]
    # The longest first: those that still run are always the first ones.
    order = sorted(range(len(work)), key=lambda number: -len(schedules[number]))
    lengths = np.array([len(schedules[number]) for number in order])
    wide = max(local.batch_size for local in work)
    batches = np.full((len(work), lengths[0], wide), -1, dtype=np.int64)
    longest = max(len(local.y) for local in work)
    x, y = np.zeros((len(work), longest, work[0].x.shape[1])), np.zeros((len(work), longest), dtype=np.int64)
    for row, number in enumerate(order):
        local, schedule = work[number], schedules[number]
        batches[row, : len(schedule), : local.batch_size] = schedule
        x[row, : len(local.y)], y[row, : len(local.y)] = local.x, local.y
    sizes = np.array([work[number].batch_size for number in order])
    counts = np.array([len(work[number].y) for number in order])
    per_epoch = -(-counts // sizes)
    v = np.repeat(w[None], len(work), axis=0)
    states = np.stack([work[number].state for number in order])
    losses, running = np.zeros(len(work)), np.zeros(len(work))
    for step in range(lengths[0]):
        live = int((lengths > step).sum())
        batch = batches[:live, step]
        there = batch >= 0
        at = (np.arange(live)[:, None], np.maximum(batch, 0))
        weight = there / sizes[:live, None]
        uniform = None
        if net.dropped:
            uniform = np.zeros((live, wide, net.dropped))
            for row in range(live):
                uniform[row, there[row]] = dropouts[order[row]].random((there[row].sum(), net.dropped))
        part, gradient = net.gradient(v[:live], x[at], y[at], weight, uniform)
        correction = rule.correction(v[:live], w, states[:live], shared)
        if correction is not None:
            gradient += weight.sum(-1)[:, None] * correction
        v[:live] -= rate * gradient
        running[:live] += part
        ended = np.flatnonzero((step + 1) % per_epoch[:live] == 0)
        if len(ended):
            losses[ended] = running[ended] * sizes[ended] / counts[ended]
            running[ended] = 0
            states[ended] = rule.after_epoch(states[ended], losses[ended])
    steps = np.array([[work[number].steps] for number in order])
    states, extra = rule.after(v, w, states, shared, steps, rate)
    back = np.argsort(order)
    updates = _updates(w, v[back], work, {name: value[back] for name, value in extra.items()})
    return Trained(updates, losses[back], states[back])


def _updates(w: np.ndarray, weights: np.ndarray, work: Sequence[Local], extra: dict[str, np.ndarray]) -> Updates:
    examples = np.array([len(local.y) for local in work], dtype=np.float64)
    return Updates(w, weights, examples, np.array([local.steps for local in work]), extra)
