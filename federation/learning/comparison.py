"""Two models side by side: how far each tensor of one is from the other's. Read a block at a time, so memory does not grow with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np

from federation.learning.models import ModelFile, Tensor


@dataclass(frozen=True)
class Difference:
    """Of one tensor, or of all that both models have in one shape. Without a common shape there is nothing to compute, and all is None.

    `cosine` is None as well where one of the two is all zeros.
    """

    name: str
    first: Tensor | None = None
    second: Tensor | None = None
    #: Largest distance of two coordinates.
    largest: float | None = None
    #: Euclidean distance.
    distance: float | None = None
    cosine: float | None = None


@dataclass
class _Sums:
    largest: float = 0.0
    square: float = 0.0
    product: float = 0.0
    first: float = 0.0
    second: float = 0.0

    def add(self, other: _Sums) -> None:
        self.largest = float(np.maximum(self.largest, other.largest))  # which propagates NaN, as `max` does not
        self.square += other.square
        self.product += other.product
        self.first += other.first
        self.second += other.second

    def difference(self, name: str, first: Tensor | None = None, second: Tensor | None = None) -> Difference:
        lengths = sqrt(self.first) * sqrt(self.second)
        return Difference(name, first, second, self.largest, sqrt(self.square), self.product / lengths if lengths else None)


def compare(first: ModelFile, second: ModelFile) -> list[Difference]:
    """Each tensor of either, in the order of the first one's file, and at the end all together, under the name "" (None in all if none is comparable)."""
    found, total = [], None
    for key in first.tensors | second.tensors:
        here, there = first.tensors.get(key), second.tensors.get(key)
        if here is None or there is None or here.shape != there.shape:
            found.append(Difference(key, here, there))
            continue
        sums = _Sums()
        for block in _blocks(first, second, key):
            sums.add(block)
        total = total or _Sums()
        total.add(sums)
        found.append(sums.difference(key, here, there))
    return [*found, total.difference("") if total else Difference("")]


def _blocks(first: ModelFile, second: ModelFile, key: str) -> Iterator[_Sums]:
    for (_, one), (_, other) in zip(first.blocks(key), second.blocks(key), strict=True):
        a, b = one.astype(np.float64), other.astype(np.float64)
        apart = a - b
        yield _Sums(float(np.abs(apart).max()), float(apart @ apart), float(a @ b), float(a @ a), float(b @ b))
