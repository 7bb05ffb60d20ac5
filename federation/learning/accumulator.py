"""The sums of a round. An update is folded in a block at a time and can be dropped; what has been summed can go on to another accumulator.

Every linear aggregator is made of such sums alone, and sums of sums are sums: so combiners can stand in any tree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Json, ValidationError

from federation.learning.models import Array, ModelFile, ModelInfo, ModelRefused, ModelWriter, Tensor


class PartialInfo(BaseModel):
    """The metadata of a partial sum's file."""

    model_config = ConfigDict(allow_inf_nan=False)

    kind: Literal["partial-sum"]
    made_for: str
    totals: Json[dict[str, float]]
    members: Json[frozenset[str]]


class Accumulator:
    """Weighted sums in float64 over the tensors of a model.

    `sums`: name of a sum -> tensor -> flat array. `totals`: any number that is added up with them. `members`: whose updates are in it.
    `made_for`: what tells sums apart that may not be added, though they look alike.
    """

    def __init__(self, tensors: Mapping[str, Tensor], sums: Iterable[str], made_for: str) -> None:
        self.tensors, self.made_for = dict(tensors), made_for
        self.sums = {name: {key: np.zeros(tensor.count) for key, tensor in tensors.items()} for name in sums}
        self.totals: dict[str, float] = {}
        self.members: set[str] = set()
        self._scaled = np.empty(0)

    def fold(self, update: ModelFile, weights: Mapping[str, float], totals: Mapping[str, float]) -> None:
        """Add `weights[sum]` times the update to each sum. It has been checked. Raises ModelRefused when it is in here already."""
        self._join(update.name, {update.name})
        for key in self.tensors:
            for part, block in update.blocks(key):
                for name, weight in weights.items():
                    self._add(self.sums[name][key][part], block, weight)
        self._count(totals)

    def fold_partial(self, partial: ModelFile) -> None:
        """Add what another accumulator has summed. Raises ModelRefused when it is not of this kind, or shares a member."""
        try:
            info = PartialInfo.model_validate(partial.metadata)
        except ValidationError as error:
            first = error.errors()[0]
            raise ModelRefused(f"{partial.name}: not a partial sum: {first['loc'][0]}: {first['msg']}") from error
        if info.made_for != self.made_for:
            raise ModelRefused(f"{partial.name}: a partial sum for {info.made_for}, and this is for {self.made_for}")
        if partial.tensors != self._named():
            raise ModelRefused(f"{partial.name}: a partial sum of another model")
        for key in partial.tensors:
            for _, block in partial.blocks(key):
                if not np.isfinite(block).all():
                    raise ModelRefused(f"{partial.name}: tensor {key!r} holds NaN or infinity")
        self._join(partial.name, info.members)
        for name, arrays in self.sums.items():
            for key, array in arrays.items():
                for part, block in partial.blocks(f"{name}/{key}"):
                    array[part] += block
        self._count(info.totals)

    def save(self, path: Path) -> None:
        """A partial sum as a file, for the next accumulator, or for this one when its process is started again."""
        said = {
            "kind": "partial-sum",
            "made_for": self.made_for,
            "totals": json.dumps(self.totals),
            "members": json.dumps(sorted(self.members)),
        }
        with ModelWriter(path, self._named(), ModelInfo().metadata() | said) as writer:
            for name, arrays in self.sums.items():
                for key, array in arrays.items():
                    writer.write(f"{name}/{key}", 0, array)

    def _named(self) -> dict[str, Tensor]:
        return {f"{name}/{key}": Tensor(np.dtype("<f8"), tensor.shape) for name in self.sums for key, tensor in self.tensors.items()}

    def _join(self, name: str, members: Set[str]) -> None:
        if twice := sorted(self.members & members):
            raise ModelRefused(f"{name}: the update of {twice[0]} is counted already")
        self.members |= members

    def _count(self, totals: Mapping[str, float]) -> None:
        for name, value in totals.items():
            self.totals[name] = self.totals.get(name, 0.0) + value

    def _add(self, into: Array, block: Array, weight: float) -> None:
        if len(self._scaled) < len(block):
            self._scaled = np.empty(len(block))
        scaled = self._scaled[: len(block)]
        np.multiply(block, weight, out=scaled, dtype=np.float64)
        into += scaled
