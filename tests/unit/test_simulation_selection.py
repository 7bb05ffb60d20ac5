"""Client selection: every strategy by its rule, and what none of them may do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from federation.simulation import selection_by_history
from federation.simulation.configuration import Energy, RoundParameters
from federation.simulation.costs import Costs, Orders, costs
from federation.simulation.errors import SimulationError
from federation.simulation.history import History
from federation.simulation.selection import SELECTIONS, Round, Selection, chosen

NAMES = [
    "random", "best_ips", "best_net_speed", "best_energy", "dynamic_sampling", "best_round_time", "ucb_cs", "best_time_expected",
    "budgeted_fairness_rotation", "budgeted_time_rotation", "limited_time", "limited_consumption",
]  # fmt: skip
HISTORY = [name for name in NAMES if isinstance(SELECTIONS.make(name, {}, ""), selection_by_history.ByHistory)]


def made(name: str, **parameters: Any) -> Selection:
    return SELECTIONS.make(name, parameters, "algorithms.fit.selection")


def a_round(
    devices: int = 8, *, n: int = 3, available: Sequence[int] | None = None, history: History | None = None, seed: int = 0, **given: Any
) -> Round:
    """A round after those of the history; arrays that are not given are drawn."""
    rng = np.random.default_rng(seed)
    past = history or History(20, devices)
    ips, speed = given.pop("ips", rng.integers(50, 150, devices)), given.pop("net_speed", rng.integers(30000, 170000, devices))
    expected = given.pop("expected", costs(np.full(devices, 12.5), ips, speed, 650, 650, Energy()))
    here = np.arange(devices) if available is None else np.array(available)
    fixed = {"energy": rng.integers(5000, 45000, devices), "local_data_sizes": rng.integers(50, 150, devices)} | given
    return Round(past.count, here, min(n, len(here)), rng, ips=ips, net_speed=speed, expected=expected, traffic=650, history=past, **fixed)


def a_past(
    rounds: Sequence[dict[int, float]], devices: int = 8, *, times: dict[int, float] | None = None, failed: Sequence[int] = ()
) -> History:
    """Rounds as {device: loss}; `times` are the seconds of communication of each device, 1 if left out."""
    history = History(20, devices)
    for losses in rounds:
        who = np.array(sorted(losses), dtype=np.int64)
        seconds = np.array([(times or {}).get(device, 1.0) for device in range(devices)])
        ones = np.ones(devices, dtype=np.int64)
        history.order(who, Orders(ones, ones, ones), Costs(ones, ones * 0.5, seconds / 2, seconds / 2, ones), 650, 650)
        back = np.array([device for device in who if device not in failed], dtype=np.int64)
        history.answers(back, np.array([losses[device] for device in back]), np.zeros(len(back)))
        history.count += 1
    return history


def test_these_are_all() -> None:
    assert sorted(NAMES) == SELECTIONS.names()


@pytest.mark.parametrize("name", NAMES)
@given(data=some.data())
def test_none_chooses_who_is_not_there(name: str, data: some.DataObject) -> None:
    """Of any past: some of the available, at most n, each once. In the original two strategies did not look at availability."""
    devices = 8
    losses = some.dictionaries(some.integers(0, devices - 1), some.floats(0, 5), min_size=1)
    past = a_past(data.draw(some.lists(losses, max_size=6)), failed=data.draw(some.lists(some.integers(0, devices - 1), max_size=3)))
    available = sorted(data.draw(some.sets(some.integers(0, devices - 1), min_size=1)))
    now = a_round(devices, n=data.draw(some.integers(1, devices)), available=available, history=past, seed=data.draw(some.integers(0, 9)))
    selected = chosen(made(name), name, now)
    assert set(selected.tolist()) <= set(available)
    assert 0 < len(selected) <= now.n
    if name not in ("dynamic_sampling", "limited_time", "limited_consumption"):
        assert len(selected) == now.n


@pytest.mark.parametrize("name", NAMES)
def test_the_stream_alone_decides(name: str) -> None:
    past = a_past([{0: 1, 1: 2}, {2: 3, 3: 1}])
    assert [chosen(made(name), name, a_round(history=past)).tolist() for _ in range(2)].count(
        chosen(made(name), name, a_round(history=past)).tolist()
    ) == 2  # fmt: skip


@pytest.mark.parametrize("name", HISTORY)
def test_the_first_round_is_random(name: str) -> None:
    assert len({tuple(chosen(made(name), name, a_round(seed=seed))) for seed in range(20)}) > 5


def test_a_plug_in_that_chooses_who_is_not_there_is_named() -> None:
    class Wrong(Selection):
        def select(self, now: Round) -> np.ndarray:
            return np.array([0, 5])

    with pytest.raises(SimulationError, match="selection wrong: chose device 5 in round 0, which is not available"):
        chosen(Wrong(), "wrong", a_round(available=[0, 1]))


def test_random_is_uniform() -> None:
    counts = np.bincount(np.concatenate([chosen(made("random"), "", a_round(seed=seed)) for seed in range(2000)]), minlength=8)
    assert counts / 2000 == pytest.approx(np.full(8, 3 / 8), abs=0.04)


@pytest.mark.parametrize(("name", "field"), [("best_ips", "ips"), ("best_net_speed", "net_speed"), ("best_energy", "energy")])
def test_the_best_of_one_quantity(name: str, field: str) -> None:
    now = a_round(available=[0, 2, 3, 4, 6], **{field: np.array([5, 9, 8, 1, 7, 9, 6, 9])})
    assert chosen(made(name), name, now).tolist() == [2, 4, 6]


def test_equal_ones_are_drawn_by_lot() -> None:
    firsts = {tuple(chosen(made("best_ips"), "", a_round(ips=np.full(8, 5), seed=seed))) for seed in range(30)}
    assert len(firsts) > 10


def test_best_round_time_takes_the_quickest() -> None:
    ips, speed = np.array([100, 100, 10, 200]), np.array([1000, 100000, 100000, 10000])
    now = a_round(4, n=2, ips=ips, net_speed=speed)
    # Seconds: .125 + 1.3, .125 + .013, 1.25 + .013, .0625 + .13
    assert chosen(made("best_round_time"), "", now).tolist() == [1, 3]


@pytest.mark.parametrize(("number", "decay", "wanted"), [(0, 0.1, 6), (1, 0.1, 5), (10, 0.1, 2), (100, 0.1, 1), (10, 0.0, 6)])
def test_dynamic_sampling_takes_fewer_and_fewer(number: int, decay: float, wanted: int) -> None:
    now = replace(a_round(n=6), number=number)
    assert len(chosen(made("dynamic_sampling", decay=decay), "", now)) == wanted


def test_ucb_is_its_formula() -> None:
    past = a_past([{0: 1.0, 1: 2.0, 2: 3.0}, {0: 0.5, 1: 2.0, 2: 9.0}, {0: 0.2, 3: 1.0}], 4, failed=[2])
    now = a_round(4, n=4, history=past, local_data_sizes=np.array([10, 20, 30, 40]))
    gamma, delta = 0.5, 0.3
    w = [gamma**3, gamma**2, gamma]
    times = {0: sum(w), 1: w[0] + w[1], 3: w[2]}
    losses = {0: w[0] * 1 + w[1] * 0.5 + w[2] * 0.2, 1: (w[0] + w[1]) * 2, 3: w[2] * 1}
    share = {0: 0.1, 1: 0.2, 3: 0.4}
    scores = {d: share[d] * (losses[d] / times[d] + np.sqrt(2 * delta**2 * np.log(sum(w) / times[d]))) for d in times}
    # Device 2 failed whenever it was selected: nothing is known of it, and no division by zero.
    order = [2, *sorted(scores, key=lambda device: -scores[device])]
    for n in range(1, 5):
        assert set(chosen(made("ucb_cs", gamma=gamma, delta=delta), "", replace(now, n=n)).tolist()) == set(order[:n])


def test_ucb_after_hundreds_of_rounds_stays_a_number() -> None:
    history = History(800, 3)
    history.selected[0], history.answered[0], history.loss[0] = True, True, 1.0
    history.selected[1:, 0], history.answered[1:, 0], history.loss[1:, 0] = True, True, 1.0
    history.count = 800
    with np.errstate(all="raise", under="ignore"):
        assert len(chosen(made("ucb_cs"), "", a_round(3, n=2, history=history))) == 2


def test_best_time_expected_weighs_variance_which_is_not_always_zero() -> None:
    past = a_past([{0: 1, 1: 1}], 2, times={0: 2.0, 1: 2.0})
    steady = a_past([{0: 1, 1: 1}, {0: 1, 1: 1}], 2, times={0: 2.0, 1: 2.0})
    assert steady.time_variances().tolist() == [0, 0]
    for name in ("upload", "distribution"):
        getattr(past, name)[1] = [0.5, 1.0]
    past.selected[1], past.computation[1], past.count = True, 0.5, 2
    assert past.time_variances() == pytest.approx([0.25, 0])
    now = a_round(2, n=1, history=past)
    assert chosen(made("best_time_expected", time=0, variance=1, count=0), "", now).tolist() == [1]
    assert chosen(made("best_time_expected", time=1, variance=0, count=0), "", now).tolist() == [0]


def test_best_time_expected_spares_who_was_there_often() -> None:
    past = a_past([{0: 1}, {0: 1}, {1: 1}], 2)
    now = a_round(2, n=1, history=past, ips=np.array([100, 100]), net_speed=np.array([1000, 1000]))
    assert chosen(made("best_time_expected"), "", now).tolist() == [1]


def test_expected_time_is_the_root_mean_square_of_communication_and_the_computation() -> None:
    past = a_past([{0: 1}, {1: 1}], 3, times={0: 3.0, 1: 1.0})
    past.upload[1, 0], past.distribution[1, 0], past.selected[1, 0] = 2, 2, True
    computation = np.array([0.5, 0.25, 9])
    assert past.expected_times(computation) == pytest.approx([np.sqrt((9 + 16) / 2) + 0.5, 1.25, 0])


def test_fairness_rotation_helps_the_least_selected() -> None:
    unfair = a_past([{0: 1, 1: 1}] * 6, 4)
    assert chosen(made("budgeted_fairness_rotation"), "", a_round(4, n=2, history=unfair)).tolist() == [2, 3]
    # The bound that tunes itself is .25 * 6 / 2 = .75 now, and the deviation is 3.
    assert chosen(made("budgeted_fairness_rotation", fairness=99, autotune=True), "", a_round(4, n=2, history=unfair)).tolist() == [2, 3]


def test_fairness_rotation_alternates_between_fast_and_high_loss() -> None:
    past = a_past([{0: 5.0, 1: 1.0, 2: 3.0, 3: 2.0}], 4, times={0: 9, 1: 1, 2: 8, 3: 2})
    now = a_round(4, n=2, history=past)
    assert chosen(made("budgeted_fairness_rotation"), "", now).tolist() == [1, 3]
    assert chosen(made("budgeted_fairness_rotation"), "", replace(now, number=2)).tolist() == [0, 2]


def test_time_rotation_hurries_when_rounds_take_too_long() -> None:
    past = a_past([{0: 5.0, 1: 1.0, 2: 3.0, 3: 2.0}], 4, times={0: 9, 1: 1, 2: 8, 3: 2})
    now = a_round(4, n=2, history=past)
    assert past.times[0] == 9.5
    assert chosen(made("budgeted_time_rotation"), "", now).tolist() == [1, 3]
    assert chosen(made("budgeted_time_rotation", time=10), "", now).tolist() == [0, 2]


def test_time_rotation_remembers_the_least_selected_now_and_then() -> None:
    past = a_past([{0: 1.0, 1: 9.0}, {0: 1.0, 1: 9.0}], 4)
    now = a_round(4, n=2, history=past)
    assert chosen(made("budgeted_time_rotation", every=2), "", now).tolist() == [2, 3]


def test_time_rotation_tunes_itself_between_fast_rounds_and_others() -> None:
    rule = made("budgeted_time_rotation", autotune=True, time=4)
    assert isinstance(rule, selection_by_history.BudgetedTimeRotation)
    past = a_past([{0: 1.0}], 3, times={0: 9, 1: 1, 2: 2})
    assert chosen(rule, "", a_round(3, n=1, history=past)).tolist() in ([1], [2])  # too long: the next one is fast
    past.times[1], past.count = 1.5, 2
    assert rule._desired(past.times[:2]) == pytest.approx((9.5 + 1.5) / 2)


def test_limited_time_drops_the_slow_before_it_looks_at_losses() -> None:
    past = a_past([{0: 5.0, 1: 1.0, 2: 3.0, 3: 2.0}], 4, times={0: 9, 1: 1, 2: 8, 3: 2})
    now = a_round(4, n=1, history=past)
    assert chosen(made("limited_time"), "", now).tolist() == [3]
    assert chosen(made("limited_time", limit=0.5), "", now).tolist() == [1]
    # Expected 9, 1, 8, 2 and a little: mean 5 and mean absolute deviation 3.5 leave all but the first.
    assert chosen(made("limited_time", autotune=True), "", now).tolist() == [2]


@given(data=some.data())
def test_limited_consumption_is_the_best_of_all_that_fit(data: some.DataObject) -> None:
    devices = 7
    losses = data.draw(some.lists(some.floats(0.1, 5), min_size=devices, max_size=devices))
    energy = np.array(data.draw(some.lists(some.integers(1, 100), min_size=devices, max_size=devices)))
    n, cap = data.draw(some.integers(1, devices)), data.draw(some.integers(1, 400))
    past = a_past([dict(enumerate(losses))], devices)
    spent = Costs(energy * 1.0, energy * 1.0, energy * 1.0, energy * 1.0, energy * 1.0)
    now = a_round(devices, n=n, history=past, expected=spent)
    selected = made("limited_consumption", energy=cap).select(now)
    fits = [set(some_) for size in range(n + 1) for some_ in combinations(range(devices), size) if energy[list(some_)].sum() <= cap]
    most = max(map(len, fits))

    def cost(group: Any) -> float:
        return sum(1 / losses[device] for device in group)

    assert len(selected) == most
    assert energy[selected].sum() <= cap
    assert cost(selected) == pytest.approx(min(cost(group) for group in fits if len(group) == most), rel=1e-3)


@pytest.mark.parametrize(("caps", "count"), [({"resources": 25.0}, 2), ({"network": 2600.0}, 2), ({"network": 1299.0}, 0), ({}, 3)])
def test_limited_consumption_knows_two_other_caps(caps: dict[str, float], count: int) -> None:
    now = a_round(8, history=a_past([dict.fromkeys(range(8), 1.0)]))
    assert len(made("limited_consumption", **caps).select(now)) == count


@pytest.mark.parametrize(
    ("params", "available", "wanted"), [({}, 9, 4), ({"k": 1.0}, 9, 9), ({"n": 5}, 9, 5), ({"n": 12}, 9, 9), ({"k": 0.1}, 9, 0)]
)
def test_how_many_are_asked_for(params: dict[str, Any], available: int, wanted: int) -> None:
    assert RoundParameters(**params).wanted(available) == wanted
