"""Models, federated algorithms and local training: against formulas, against differences, and many at once against one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from federation.simulation.algorithms import ALGORITHMS, Algorithm, Sums, Updates
from federation.simulation.datasets import DATASETS
from federation.simulation.models import MODELS, Layers, Net, accuracy, balanced_accuracy
from federation.simulation.training import Local, Trained, train, train_many

NAMES = ["fedavg", "feddyn", "fednova", "fedprox", "scaffold"]
FEATURES, CLASSES = 5, 3


def rng(number: int = 0) -> np.random.Generator:
    return np.random.default_rng(number)


def rule(name: str, **parameters: Any) -> Algorithm:
    return ALGORITHMS.make(name, parameters, "algorithms.federated_algorithm")


def local(
    algorithm: Algorithm, size: int, *, n: int = 20, epochs: int = 2, batch: int = 8, seed: int = 0, state: np.ndarray | None = None
) -> Local:
    draw = rng(seed)
    x, y = draw.normal(size=(n, FEATURES)), draw.integers(0, CLASSES, n)
    return Local(x, y, epochs, batch, algorithm.fresh(size) if state is None else state, rng(seed + 1000))


def test_these_are_all() -> None:
    assert ALGORITHMS.names() == NAMES
    assert MODELS.names() == ["mlp", "mnist", "package", "softmax"]
    assert DATASETS.names() == ["breast-cancer", "digits", "file", "synthetic"]


# Models


def test_the_network_of_mnist_has_its_weights() -> None:
    net = MODELS.make("mnist", {}, "").net(784, 10)
    assert (net.size, net.dropped) == (101_770, 128)
    assert len(net.start(rng())) == 101_770
    assert MODELS.make("softmax", {}, "").net(64, 10).size == 650


@pytest.mark.parametrize(("model", "parameters"), [("softmax", {}), ("mlp", {"hidden": [7, 4]}), ("mlp", {"hidden": [6], "dropout": 0.3})])
def test_gradients_are_those_of_differences(model: str, parameters: dict[str, Any]) -> None:
    net = MODELS.make(model, parameters, "").net(FEATURES, CLASSES)
    w, x, y = net.start(rng()), rng(1).normal(size=(6, FEATURES)), rng(2).integers(0, CLASSES, 6)
    weight, uniform = rng(3).random(6), rng(4).random((6, net.dropped)) if net.dropped else None
    _, gradient = net.gradient(w, x, y, weight, uniform)
    tiny = 1e-6
    numeric = [
        (net.gradient(w + tiny * unit, x, y, weight, uniform)[0] - net.gradient(w - tiny * unit, x, y, weight, uniform)[0]) / (2 * tiny)
        for unit in np.eye(net.size)
    ]
    assert gradient == pytest.approx(np.array(numeric), abs=1e-7)


def test_dropout_drops_and_scales_what_is_left() -> None:
    net = Layers((2, 50, 2), 0.2)
    w, x, y, one = net.start(rng()), rng(1).normal(size=(1, 2)), np.array([0]), np.ones(1)
    kept = net.gradient(w, x, y, one, np.ones((1, 50)))[1]
    dropped = net.gradient(w, x, y, one, np.zeros((1, 50)))[1]
    # Of dropped units nothing comes back; the kernel and bias of the first layer are the first 150 weights.
    assert not dropped[:150].any()
    assert kept[:150].any()
    # What is scored has no dropout, and training without it would be the same.
    assert net.scores(w, x)[0, 0] == pytest.approx(-net.gradient(w, x, y, one, None)[0])


def test_scores_stay_finite_where_probabilities_vanish() -> None:
    net = Layers((1, 2), 0)
    scores = net.scores(np.array([1e4, -1e4, 0, 0]), np.array([[1.0]]))
    assert scores.tolist() == [[0, -2e4]]


def test_metrics() -> None:
    logs, y = np.log([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]]), np.array([0, 0, 0, 1])
    assert (accuracy(logs, y), balanced_accuracy(logs, y)) == (0.75, 0.5)


# Many at once


@settings(max_examples=8)
@given(data=some.data())
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("hidden", [None, 0.0, 0.4])
def test_many_at_once_are_the_same_as_one_by_one(name: str, hidden: float | None, data: some.DataObject) -> None:
    net: Net = Layers((FEATURES, CLASSES), 0) if hidden is None else Layers((FEATURES, 6, CLASSES), hidden)
    algorithm = rule(name)
    algorithm.begin(net.size, 10)
    shared = {"c": rng(7).normal(size=net.size) * 0.1} if name == "scaffold" else {}

    def work() -> list[Local]:
        return [local(algorithm, net.size, seed=seed, **settings) for seed, settings in enumerate(chosen)]

    chosen = data.draw(
        some.lists(some.fixed_dictionaries({"n": some.integers(1, 20), "epochs": some.integers(1, 3), "batch": some.integers(1, 24)}), min_size=1, max_size=5)
    )  # fmt: skip
    w = net.start(rng())
    plain, many = (way(net, algorithm, 0.1, w, shared, work()) for way in (train, train_many))
    for part in ("losses", "states"):
        assert getattr(many, part) == pytest.approx(getattr(plain, part), rel=1e-9, abs=1e-12), part
    assert many.updates.weights == pytest.approx(plain.updates.weights, rel=1e-9, abs=1e-12)
    terms = [algorithm.terms(trained.updates) for trained in (plain, many)]
    for key, value in terms[0].items():
        assert terms[1][key] == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_steps_come_to_e_times_n_by_b_and_each_epoch_sees_every_example() -> None:
    work = local(rule("fedavg"), 18, n=20, epochs=3, batch=8)
    assert work.steps == 7.5
    schedule = work.schedule()
    assert schedule.shape == (9, 8)
    for epoch in np.split(schedule, 3):
        assert sorted(epoch[epoch >= 0]) == list(range(20))
        assert (epoch[-1] >= 0).sum() == 4


def test_one_step_of_all_examples_is_gradient_descent() -> None:
    net = Layers((FEATURES, CLASSES), 0)
    work, w = local(rule("fedavg"), net.size, n=12, epochs=1, batch=99), net.start(rng())
    trained = train(net, rule("fedavg"), 0.3, w, {}, [work])
    loss, gradient = net.gradient(w, work.x, work.y, np.full(12, 1 / 12), None)
    assert trained.updates.weights[0] == pytest.approx(w - 0.3 * gradient)
    assert trained.losses[0] == pytest.approx(loss)


# Algorithms


def updates(w: np.ndarray, count: int, seed: int = 0, **extra: np.ndarray) -> Updates:
    draw = rng(seed)
    steps = draw.integers(1, 40, count) / 2
    return Updates(w, w + draw.normal(size=(count, len(w))), draw.integers(1, 300, count).astype(float), steps, extra)


def part(whole: Updates, start: int, end: int) -> Updates:
    return Updates(
        whole.start, whole.weights[start:end], whole.examples[start:end], whole.steps[start:end],
        {name: value[start:end] for name, value in whole.extra.items()},
    )  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@given(data=some.data())
def test_sums_of_parts_are_the_sum_of_the_whole(name: str, data: some.DataObject) -> None:
    count = data.draw(some.integers(2, 9))
    w = rng(1).normal(size=18)
    whole = updates(w, count, change=rng(2).normal(size=(count, 18)))
    cuts = sorted(data.draw(some.sets(some.integers(1, count - 1))))
    first, second = rule(name), rule(name)
    first.begin(18, 20)
    second.begin(18, 20)
    pieces = [first.terms(part(whole, start, end)) for start, end in zip([0, *cuts], [*cuts, count], strict=True)]
    total: Sums = {key: np.sum([piece[key] for piece in pieces], axis=0) for key in pieces[0]}
    assert first.close(w, total) == pytest.approx(second.close(w, second.terms(whole)), rel=1e-12, abs=1e-12)


def test_fedavg_is_the_weighted_mean() -> None:
    w = rng().normal(size=4)
    given_ = updates(w, 3)
    mean = np.average(given_.weights, axis=0, weights=given_.examples)
    assert rule("fedavg").close(w, rule("fedavg").terms(given_)) == pytest.approx(mean)
    assert rule("fedprox").close(w, rule("fedprox").terms(given_)) == pytest.approx(mean)


def test_fednova_is_its_formula_and_fedavg_where_steps_are_equal() -> None:
    w = rng().normal(size=4)
    given_ = updates(w, 3)
    p, tau = given_.examples / given_.examples.sum(), given_.steps
    expected = w - (p @ tau) * sum(p[i] * (w - given_.weights[i]) / tau[i] for i in range(3))
    nova, average = rule("fednova"), rule("fedavg")
    assert nova.close(w, nova.terms(given_)) == pytest.approx(expected)
    given_.steps = np.full(3, 5.0)
    assert nova.close(w, nova.terms(given_)) == pytest.approx(average.close(w, average.terms(given_)))


def trained_once(name: str, state: np.ndarray, shared: Sums, rate: float, **parameters: Any) -> tuple[Trained, Net, np.ndarray, Local]:
    net, algorithm = Layers((FEATURES, CLASSES), 0), rule(name, **parameters)
    w = net.start(rng())
    work = local(algorithm, net.size, n=12, epochs=2, batch=12, state=state)
    return train(net, algorithm, rate, w, shared, [work]), net, w, work


def descended(net: Net, w: np.ndarray, work: Local, rate: float, extra: Any) -> np.ndarray:
    """Two steps over all examples of the gradient and something else."""
    v = w.copy()
    for _ in range(2):
        v = v - rate * (net.gradient(v, work.x, work.y, np.full(12, 1 / 12), None)[1] + extra(v))
    return v


def test_fedprox_pulls_towards_the_model() -> None:
    trained, net, w, work = trained_once("fedprox", np.array([0.5, np.nan]), {}, 0.2)
    mu = iter([0.5, 0.5])  # the first epoch has nothing to compare its loss with
    assert trained.updates.weights[0] == pytest.approx(descended(net, w, work, 0.2, lambda v: next(mu) * (v - w)))


def test_fedprox_changes_mu_with_the_loss_and_keeps_it() -> None:
    """In the original it never changed."""
    algorithm = rule("fedprox")
    states = np.array([[0.5, np.nan], [0.5, 1.0], [0.5, 1.0], [0.5, 1.0], [0.95, 1.0], [0.002, 1.0]])
    losses = np.array([1.0, 1.2, 0.8, 1.0, 1.2, 0.8])
    after = algorithm.after_epoch(states, losses)
    assert after[:, 0] == pytest.approx([0.5, 0.6, 0.48, 0.5, 1.0, 0.001])
    assert after[:, 1].tolist() == losses.tolist()
    assert algorithm.fresh(99)[0] == 1


def test_scaffold_steps_are_corrected_and_its_controls_follow() -> None:
    size = 18
    state, shared = rng(1).normal(size=size) * 0.1, {"c": rng(2).normal(size=size) * 0.1}
    trained, net, w, work = trained_once("scaffold", state, shared, 0.05, lr=0.05)
    v = descended(net, w, work, 0.05, lambda v: shared["c"] - state)
    assert trained.updates.weights[0] == pytest.approx(v)
    change = -shared["c"] + (w - v) * 12 / (2 * 12 * 0.05)
    assert trained.updates.extra["change"][0] == pytest.approx(change)
    assert trained.states[0] == pytest.approx(state + change)
    # Which is the mean of the gradients on the way.
    assert rule("scaffold").rate(0.5) == 0.01


def test_scaffold_moves_the_control_of_all_by_the_share_that_took_part() -> None:
    algorithm = rule("scaffold")
    algorithm.begin(4, 20)
    w = rng().normal(size=4)
    given_ = updates(w, 3, change=rng(1).normal(size=(3, 4)))
    assert algorithm.close(w, algorithm.terms(given_)) == pytest.approx(given_.weights.mean(0))
    assert algorithm.shared()["c"] == pytest.approx(given_.extra["change"].sum(0) / 20)
    assert rule("scaffold").shared()["c"].size == 0
    assert (algorithm.traffic, rule("fedavg").traffic) == (2, 1)


def test_feddyn_is_its_formula_over_two_rounds() -> None:
    algorithm = rule("feddyn", alpha=0.1)
    algorithm.begin(4, 10)
    w, h = rng().normal(size=4), np.zeros(4)
    for seed in (1, 2):
        given_ = updates(w, 3, seed)
        h = h - 0.1 / 10 * (given_.weights - w).sum(0)
        expected = given_.weights.mean(0) - h / 0.1
        w = algorithm.close(w, algorithm.terms(given_))
        assert w == pytest.approx(expected)


def test_feddyn_corrects_by_what_it_kept() -> None:
    state = rng(1).normal(size=18) * 0.1
    trained, net, w, work = trained_once("feddyn", state, {}, 0.2, alpha=0.3)
    v = descended(net, w, work, 0.2, lambda v: 0.3 * (v - w) - state)
    assert trained.updates.weights[0] == pytest.approx(v)
    assert trained.states[0] == pytest.approx(state - 0.3 * (v - w))
