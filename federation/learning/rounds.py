"""One round's aggregation: updates in, as they come, and the next global model out; or a partial sum, where this is a combiner.

    round = begin(load("fedadam"), ModelFile(model), state)
    round.add(ModelFile(path, name="site-a"))       # ModelRefused leaves it as it was: the round goes on without that client
    round.finish(next_model, next_state)

State and model of a round are written to files of their own, whole or not at all, the model last: a session that was killed begins a round that has
no model again, or takes its partial sum up, with the same result.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from fdn_worker.errors import Fault, FdnError, SettingsError
from federation.learning.accumulator import Accumulator
from federation.learning.aggregator import Aggregator, Linear, Robust
from federation.learning.models import BLOCK, Array, ModelFile, ModelInfo, ModelRefused, ModelWriter, Tensor, check

#: Bytes of updates that a robust aggregator has in memory at once.
STACK = 32 * 1024**2
#: Totals that carry the clients' metrics begin with these: examples times value, and those examples.
VALUE, WEIGHT = "metric:", "weight:"


class RoundEmpty(FdnError):
    """No update came that could be taken."""

    code = "round-empty"
    fault = Fault.USER


class Round(Protocol):
    """What both kinds do."""

    @property
    def members(self) -> frozenset[str]:
        """Whose updates are counted."""

    def add(self, update: ModelFile) -> None:
        """Count the update of the client `update.name`. Raises ModelRefused, and is as before."""

    def finish(self, model_out: Path, state_out: Path, parent: str = "") -> ModelInfo:
        """Write the next global model, and of a linear aggregator what the server remembers. Raises RoundEmpty, or ModelRefused when it diverges."""


class StreamingRound:
    """Of a linear aggregator: an update's file may be deleted once it is added."""

    def __init__(self, aggregator: Linear, base: ModelFile, state: ModelFile | None = None) -> None:
        self.aggregator, self.base, self.state = aggregator, base, state
        if state is not None:
            check_state(aggregator, base, state)
        self._sum = Accumulator(base.tensors, aggregator.sums, str(aggregator))

    @property
    def members(self) -> frozenset[str]:
        return frozenset(self._sum.members)

    def add(self, update: ModelFile) -> None:
        weights = self.aggregator.weights(update.info, update.name)
        clip = self.aggregator.clip
        distance = check(update, self.base, distance=clip is not None)
        share = 1.0 if clip is None or distance <= clip else clip / distance
        # A shortened update is x + share (y - x): what is missing to its weight stands for the global model itself.
        kept = {f"kept:{name}": weight * (1 - share) for name, weight in weights.items()}
        shortened = {name: weight * share for name, weight in weights.items()}
        self._sum.fold(update, shortened, self.aggregator.totals(update.info) | told(update.info) | weights | kept)

    def add_partial(self, partial: ModelFile) -> None:
        """Count all updates of a partial sum. Raises ModelRefused, and is as before."""
        self._sum.fold_partial(partial)

    def partial(self, path: Path) -> None:
        """Write what has been summed: for a reducer, or to be taken up by this round once more."""
        self._sum.save(path)

    def finish(self, model_out: Path, state_out: Path, parent: str = "") -> ModelInfo:
        if not self.members:
            raise RoundEmpty("no update came that could be taken")
        totals, memory = self._sum.totals, self.aggregator.memory()
        info = concluded(totals, parent)
        kept = {f"{name}/{key}": Tensor(np.dtype("<f8"), tensor.shape) for name in memory for key, tensor in learned(self.base).items()}
        state_info = {"kind": "state", "aggregator": self.aggregator.name}
        # The inner file is there first: where the model is, the state is too.
        with (
            ModelWriter(model_out, self.base.tensors, info.metadata()) as model,
            ModelWriter(state_out, kept, ModelInfo().metadata() | state_info) as state,
        ):
            for key, tensor in self.base.tensors.items():
                for part in tensor.blocks():
                    before = self.base.wide(key, part)
                    sums = {name: arrays[key][part] + totals[f"kept:{name}"] * before for name, arrays in self._sum.sums.items()}
                    if not tensor.floating:
                        model.write(key, part.start, self.aggregator.whole(before, sums, totals))
                        continue
                    remembered = recall(self.aggregator, self.state, key, part)
                    model.write(key, part.start, self.aggregator.step(before, sums, totals, remembered))
                    for name, array in remembered.items():
                        state.write(f"{name}/{key}", part.start, array)
        return info


class CollectedRound:
    """Of a robust aggregator: updates stay where they are until the round is finished, and are read a few coordinates of all at a time."""

    def __init__(self, aggregator: Robust, base: ModelFile) -> None:
        self.aggregator, self.base = aggregator, base
        self._updates: dict[str, ModelFile] = {}

    @property
    def members(self) -> frozenset[str]:
        return frozenset(self._updates)

    def add(self, update: ModelFile) -> None:
        if update.name in self._updates:
            raise ModelRefused(f"{update.name}: the update of {update.name} is counted already")
        check(update, self.base)
        self._updates[update.name] = update

    def finish(self, model_out: Path, state_out: Path, parent: str = "") -> ModelInfo:
        if not self._updates:
            raise RoundEmpty("no update came that could be taken")
        self.aggregator.enough(len(self._updates))
        totals: dict[str, float] = {}
        for update in self._updates.values():
            for name, value in told(update.info).items():
                totals[name] = totals.get(name, 0.0) + value
        info = concluded(totals, parent)
        width = max(1, min(BLOCK, STACK // (8 * len(self._updates))))
        with ModelWriter(model_out, self.base.tensors, info.metadata()) as model:
            for key, tensor in self.base.tensors.items():
                for part in tensor.blocks(width):
                    stack = np.stack([update.wide(key, part) for update in self._updates.values()])
                    model.write(key, part.start, self.aggregator.combine(stack))
        return info


def begin(aggregator: Aggregator, base: ModelFile, state: ModelFile | None = None, *, nested: bool = False, masked: bool = False) -> Round:
    """The round that this aggregator needs. Raises SettingsError for one that has to see each update where only sums are to be seen."""
    if isinstance(aggregator, Linear):
        return StreamingRound(aggregator, base, state)
    if not isinstance(aggregator, Robust):
        raise SettingsError(f"aggregator {aggregator.name} is neither linear nor robust", remedy="derive it from Linear or Robust")
    if nested or masked:
        how = "nested" if nested else "masked"
        raise SettingsError(
            f"aggregator {aggregator.name} compares the updates of all clients, and here they are {how}",
            remedy="norm-clipping works on sums",
        )
    return CollectedRound(aggregator, base)


def learned(model: ModelFile) -> dict[str, Tensor]:
    """Its tensors that are not integers."""
    return {key: tensor for key, tensor in model.tensors.items() if tensor.floating}


def check_state(aggregator: Linear, base: ModelFile, state: ModelFile) -> None:
    """Refuse a state of another aggregator or model."""
    if (of := state.metadata.get("aggregator")) != aggregator.name:
        raise ModelRefused(f"{state.name}: the state of aggregator {of}, and this is {aggregator.name}", remedy="begin without a state")
    if {key: tensor.shape for key, tensor in state.tensors.items()} != {
        f"{name}/{key}": tensor.shape for name in aggregator.memory() for key, tensor in learned(base).items()
    }:
        raise ModelRefused(f"{state.name}: the state for another model", remedy="begin without a state")


def recall(aggregator: Linear, state: ModelFile | None, key: str, part: slice) -> dict[str, Array]:
    """What the server remembers of those coordinates."""
    width = part.stop - part.start
    return {
        name: np.full(width, first) if state is None else state.wide(f"{name}/{key}", part) for name, first in aggregator.memory().items()
    }


def told(info: ModelInfo) -> dict[str, float]:
    """What is added up of each update, whatever the aggregator."""
    weight = info.examples or 1.0
    values = {VALUE + name: weight * value for name, value in info.metrics.items()}
    return {"clients": 1.0, "examples": info.examples or 0.0} | values | {WEIGHT + name: weight for name in info.metrics}


def concluded(totals: Mapping[str, float], parent: str) -> ModelInfo:
    """What the next model says of itself; metrics are means by examples, over the clients that have them."""
    # In a secure sum a metric that nobody told has a weight of 0.
    names = [name.removeprefix(WEIGHT) for name, weight in totals.items() if name.startswith(WEIGHT) and weight]
    metrics = {name: totals[VALUE + name] / totals[WEIGHT + name] for name in names}
    return ModelInfo(examples=totals["examples"] or None, metrics=metrics, parent=parent)
