"""What each device is told to run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from federation.simulation.configuration import RoundParameters
from federation.simulation.costs import Orders, fit_iterations
from federation.simulation.errors import SimulationError
from federation.simulation.updates import UPDATES, Given, orders

IPS = np.array([50, 100, 149, 10])
SIZES = np.array([500, 500, 60, 500])


def told(name: str, selected: tuple[int, ...] = (0, 1, 2, 3), params: dict[str, Any] | None = None, **parameters: Any) -> Orders:
    given = Given(RoundParameters(**(params or {})), np.array(selected), IPS, np.random.default_rng(0))
    return orders(UPDATES.make(name, parameters, "algorithms.fit.update"), given, SIZES)


def test_these_are_all() -> None:
    assert UPDATES.names() == ["best_round_time", "equal_computation_time", "static", "uniform"]


def test_static_is_the_same_for_all_within_what_they_have() -> None:
    same = told("static")
    assert (same.epochs.tolist(), same.batch_size.tolist(), same.num_examples.tolist()) == ([2] * 4, [16] * 4, [100, 100, 60, 100])


def test_best_round_time_gives_the_slow_fewer_epochs() -> None:
    assert told("best_round_time", params={"epochs": 10}).epochs.tolist() == [3, 6, 10, 1]
    # The fastest of those that are selected counts.
    assert told("best_round_time", (0, 1), {"epochs": 10}).epochs[:2].tolist() == [5, 10]


@pytest.mark.parametrize("vary", ["epochs", "batch_size", "num_examples"])
def test_uniform_varies_one_within_its_range(vary: str) -> None:
    params = RoundParameters()
    given = Given(params, np.arange(5000), np.full(5000, 100), np.random.default_rng(0))
    varied = orders(UPDATES.make("uniform", {"vary": vary, "low": 3, "high": 6}, ""), given, np.full(5000, 500))
    for name in ("epochs", "batch_size", "num_examples"):
        values = set(getattr(varied, name).tolist())
        assert values == ({3, 4, 5, 6} if name == vary else {getattr(params, name)})


def test_uniform_wants_its_range_ascending() -> None:
    with pytest.raises(SimulationError, match="low 9 is above high 3"):
        told("uniform", low=9, high=3)


def test_equal_computation_time_is_its_formula() -> None:
    # int(.15 * ips * 16 / 100), at least 1
    assert told("equal_computation_time").epochs.tolist() == [1, 2, 3, 1]
    # int(.15 * ips * 16 / 2), at most what is there
    assert told("equal_computation_time", vary="num_examples").num_examples.tolist() == [60, 120, 60, 12]
    # Upwards, so that no device takes longer than it should: 2 * 100 / (.15 * ips)
    assert told("equal_computation_time", vary="batch_size").batch_size.tolist() == [27, 14, 9, 134]


def test_equal_computation_time_takes_the_time_it_is_given() -> None:
    for vary in ("epochs", "num_examples"):
        orders_ = told("equal_computation_time", params={"num_examples": 40}, vary=vary, time=0.6)
        seconds = (fit_iterations(orders_) / IPS)[[0, 1, 3]]
        assert seconds == pytest.approx([0.6, 0.6, 0.6], rel=0.2)
