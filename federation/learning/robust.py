"""The robust aggregators: a mean that some bad updates cannot move (Yin 2018). Every update counts the same, whatever its examples:
a liar would say that it has many.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from fdn_worker.errors import SettingsError
from federation.learning.aggregator import Robust
from federation.learning.models import Array


class Median(Robust):
    """The median of each coordinate."""

    name: ClassVar[str] = "median"

    def combine(self, updates: Array) -> Array:
        found: Array = np.median(updates, axis=0, overwrite_input=True)
        return found


class TrimmedMean(Robust):
    """The mean of each coordinate without its `trim` share of smallest and as many of the largest values, rounded down."""

    name: ClassVar[str] = "trimmed-mean"
    trim: float = Field(0.1, gt=0, lt=0.5)

    def cut(self, count: int) -> int:
        """How many of so many are left out at either end."""
        # 0.29 * 100 is 28.999999999999996.
        return int(self.trim * count + 1e-9)

    def enough(self, count: int) -> None:
        if not self.cut(count):
            raise SettingsError(
                f"of {count} updates, a share of {self.trim} to be trimmed is none at all",
                remedy=f"at least 1/{self.trim} clients, or a larger trim",
            )

    def combine(self, updates: Array) -> Array:
        count, cut = len(updates), self.cut(len(updates))
        updates.partition((cut, count - cut - 1), axis=0)
        found: Array = updates[cut : count - cut].mean(axis=0)
        return found
