"""Full-jitter backoff: how long to wait before the next try."""

from __future__ import annotations

import random
from collections.abc import Iterator

#: Bounds of the first wait and of the longest, in seconds.
FIRST, LONGEST = 1.0, 60.0


def delays(first: float = FIRST, longest: float = LONGEST) -> Iterator[float]:
    """Seconds to wait, without end: each drawn evenly between 0 and a bound that doubles from `first` up to `longest`."""
    bound = first
    while True:
        yield random.uniform(0, bound)
        bound = min(longest, 2 * bound)
