"""Full-jitter backoff."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from fdn_worker.brokers.backoff import delays


def test_the_bound_doubles_up_to_the_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    assert list(islice(delays(), 8)) == [1, 2, 4, 8, 16, 32, 60, 60]


def test_each_is_drawn_from_zero_on() -> None:
    first = [next(delays()) for _ in range(200)]
    assert 0 <= min(first) < 0.25
    assert 0.75 < max(first) <= 1
