"""What is drawn: devices, traces, costs, partitions, labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from federation.simulation.configuration import Configuration, Data, Energy
from federation.simulation.costs import Orders, costs, eval_iterations, fit_iterations
from federation.simulation.datasets import DATASETS, Dataset
from federation.simulation.devices import Trace, around, draw
from federation.simulation.errors import SimulationError
from federation.simulation.partitions import dirichlet, mislabelled, partition
from federation.simulation.streams import Purpose, stream


def configured(**sections: Any) -> Configuration:
    return Configuration.model_validate(sections)


def rng(number: int = 0) -> np.random.Generator:
    return np.random.default_rng(number)


# Devices


def test_draws_are_those_of_the_formulas() -> None:
    one = configured(simulation={"num_rounds": 200}, devices={"num": 300, "p_available": 0.7, "p_fail": 0.2})
    drawn = draw(one, 0)
    assert drawn.availability.shape == drawn.failures.shape == drawn.net_speed.shape == (200, 300)
    assert drawn.availability.mean() == pytest.approx(0.7, abs=0.01)
    assert drawn.failures.mean() == pytest.approx(0.2, abs=0.01)
    assert (drawn.ips.min(), drawn.ips.max()) == (50, 149)
    assert drawn.energy.min() >= 5000
    assert drawn.energy.max() < 45000
    assert set(drawn.local_data_sizes) == {500}
    # Each device has a spread of its own.
    spreads = np.ptp(drawn.net_speed, axis=0)
    assert drawn.net_speed.min() >= 1
    assert drawn.net_speed.max() < 240000
    assert spreads.min() < 20000 < 100000 < spreads.max()


def test_devices_hold_different_amounts_of_data() -> None:
    sizes = draw(configured(data={"num_examples_mean": 300, "num_examples_var": 100}, devices={"num": 2000}), 0).local_data_sizes
    assert (sizes.min(), sizes.max()) == (200, 399)
    assert sizes.mean() == pytest.approx(299.5, abs=5)


def test_no_variance_is_the_constant() -> None:
    assert set(around(rng(), 7, 0, 50)) == {7}
    network = configured(network={"speed_mean": 1000, "speed_var": 0})
    assert set(draw(network, 0).net_speed.ravel()) == {1000}


def test_a_network_never_stands_still() -> None:
    assert draw(configured(network={"speed_mean": 10, "speed_var": 9}, devices={"num": 500}), 0).net_speed.min() >= 1


def test_the_seed_gives_the_draws_and_repetitions_differ() -> None:
    one = configured()
    assert np.array_equal(draw(one, 0).net_speed, draw(one, 0).net_speed)
    assert not np.array_equal(draw(one, 0).net_speed, draw(one, 1).net_speed)
    assert not np.array_equal(draw(one, 0).ips, draw(configured(simulation={"seed": 1}), 0).ips)


def test_streams_do_not_depend_on_who_draws_first() -> None:
    first = stream(5, Purpose.TRAINING, 0, 1, 2).random(3)
    stream(5, Purpose.TRAINING, 0, 1, 1).random(100)
    assert np.array_equal(first, stream(5, Purpose.TRAINING, 0, 1, 2).random(3))


# Traces


def test_a_trace_says_who_is_there(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("device,start,end\n0,10,20\n2,5,15\n2,30,31.5\n")
    trace = Trace.read(tmp_path / "trace.csv", 3)
    assert [trace.at(moment).tolist() for moment in (4, 5, 10, 15, 20, 31)] == [
        [False, False, False], [False, False, True], [True, False, True], [True, False, False], [False, False, False], [False, False, True]
    ]  # fmt: skip
    assert (trace.next(0), trace.next(12), trace.next(20), trace.next(40)) == (5, 12, 30, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("device,from,to\n", r"trace\.csv:1: the columns are"),
        ("device,start,end\n0,1,2\nx,1,2\n", r"trace\.csv:3: x, 1, 2 are not three numbers"),
        ("device,start,end\n3,1,2\n", r"there is no device 3 \(devices are 0 to 2"),
        ("device,start,end\n1,2,2\n", r"the span from 2 to 2 is empty"),
        ("device,start,end\n1,2\n", r"not three numbers"),
    ],
)
def test_a_bad_trace_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "trace.csv").write_text(text)
    with pytest.raises(SimulationError, match=said):
        Trace.read(tmp_path / "trace.csv", 3)


def test_a_trace_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SimulationError, match="cannot be read"):
        Trace.read(tmp_path / "none.csv", 3)


# Costs


def test_costs_are_those_of_the_formulas() -> None:
    told = Orders(np.array([2, 4]), np.array([16, 8]), np.array([80, 80]))
    assert fit_iterations(told).tolist() == [10, 40]
    assert eval_iterations(told).tolist() == [5, 10]
    spent = costs(fit_iterations(told), np.array([100, 50]), np.array([1000, 500]), 650, 650, Energy(pow_comp_s=100, pow_net_s=200))
    assert spent.computation == pytest.approx([0.1, 0.8])
    assert spent.upload == pytest.approx([0.65, 1.3])
    assert spent.time == pytest.approx([1.4, 3.4])
    assert spent.energy == pytest.approx([100 * 0.1 + 200 * 1.3, 100 * 0.8 + 200 * 2.6])


# Partitions


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return DATASETS.make("digits", {}, "data.dataset").load(123)


def test_iid_shares_are_samples_without_replacement(digits: Dataset) -> None:
    one = configured(data={"num_examples_mean": 700})
    shares = partition(one, digits, np.full(20, 700), 0)
    held, labels = shares.share(digits, 3)
    assert len(set(held.tolist())) == 700
    assert np.array_equal(labels, digits.y[held])
    other, _ = shares.share(digits, 4)
    assert 0 < len(set(held.tolist()) & set(other.tolist())) < 700
    assert np.array_equal(held, shares.share(digits, 3)[0])


@given(alpha=some.floats(0.2, 50), devices=some.integers(2, 12), seed=some.integers(0, 99))
def test_dirichlet_gives_each_example_once_and_everyone_enough(alpha: float, devices: int, seed: int) -> None:
    y = np.arange(1000) % 5
    table = dirichlet(rng(seed), y, devices, Data(non_iid_partitions=alpha))
    assert np.array_equal(np.sort(np.concatenate(table)), np.arange(1000))
    assert min(map(len, table)) >= 10


def test_a_smaller_alpha_is_more_unequal(digits: Dataset) -> None:
    def classes(alpha: float) -> float:
        table = dirichlet(rng(), digits.y, 20, Data(non_iid_partitions=alpha))
        return float(np.mean([np.bincount(digits.y[held], minlength=10).max() / len(held) for held in table]))

    assert classes(0.1) > classes(1) > classes(100)


def test_dirichlet_gives_up_by_name() -> None:
    with pytest.raises(SimulationError, match=r"alpha 0\.001 gave some device fewer than 10 examples, 5 times"):
        dirichlet(rng(), np.arange(1000) % 2, 20, Data(non_iid_partitions=0.001, tries=5))


@pytest.mark.parametrize(("percentage", "chosen"), [(0, 0), (30, 60), (100, 200)])
def test_mislabelling_permutes_that_share(percentage: float, chosen: int) -> None:
    labels = np.arange(200)  # each label once: what moved is seen
    wrong = mislabelled(rng(), labels, percentage)
    assert sorted(wrong) == labels.tolist()
    moved = int((wrong != labels).sum())
    assert moved <= chosen
    assert moved >= chosen * 0.9
    assert labels.tolist() == list(range(200))


# Data sets


def test_digits_enlarged_have_the_shape_of_mnist() -> None:
    data = DATASETS.make("digits", {"side": 28}, "data.dataset").load(0)
    assert (data.features, data.classes, len(data.y) + len(data.test_y)) == (784, 10, 1797)


def test_synthetic_data_can_be_told_apart() -> None:
    data = DATASETS.make("synthetic", {"spread": 0.1}, "data.dataset").load(0)
    centres = np.stack([data.x[data.y == label].mean(0) for label in range(4)])
    nearest = ((data.test_x[:, None] - centres) ** 2).sum(-1).argmin(-1)
    assert (nearest == data.test_y).all()


def test_a_file_of_arrays(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.full((6, 2, 2), 255), y=np.arange(6), test_x=np.zeros((3, 2, 2)), test_y=np.array([0, 1, 6]))
    data = DATASETS.make("file", {"path": str(tmp_path / "data.npz"), "scale": 255}, "data.dataset").load(0)
    assert (data.x.shape, data.x.max(), data.classes) == ((6, 4), 1.0, 7)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"test_x": None}, "there is no array test_x"),
        ({"y": np.arange(3)}, "x has 4 examples and y 3"),
        ({"y": np.array([0.5, 1, 2, 3])}, "y classes from 0 on"),
        ({"test_x": np.zeros((2, 3))}, r"examples of x are \(2,\), those of test_x \(3,\)"),
        ({"x": np.full((4, 2), np.nan)}, "x must be finite"),
    ],
)
def test_a_bad_file_of_arrays_is_named(tmp_path: Path, arrays: dict[str, Any], said: str) -> None:
    sound = {"x": np.zeros((4, 2)), "y": np.arange(4), "test_x": np.zeros((2, 2)), "test_y": np.arange(2)} | arrays
    np.savez(tmp_path / "data.npz", **{name: array for name, array in sound.items() if array is not None})
    with pytest.raises(SimulationError, match=said):
        DATASETS.make("file", {"path": str(tmp_path / "data.npz")}, "data.dataset").load(0)


def test_pickled_arrays_are_never_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.array([{}], dtype=object), y=np.arange(1), test_x=np.zeros((1, 1)), test_y=np.arange(1))
    with pytest.raises(SimulationError, match="cannot be read"):
        DATASETS.make("file", {"path": str(tmp_path / "data.npz")}, "data.dataset").load(0)
