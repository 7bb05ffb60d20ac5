"""Where an update may be bad, or must not be told: median, trimmed mean, clipping, and noise with its account."""

from __future__ import annotations

import sys
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest

from fdn_worker.errors import SettingsError
from federation.learning import rounds
from federation.learning.aggregator import Linear, load
from federation.learning.models import ModelFile, ModelInfo, ModelRefused, save
from federation.learning.privacy import epsilon
from federation.learning.rounds import StreamingRound, begin
from tests.unit import learning


def trimmed(stack: Any, cut: int) -> Any:
    return np.sort(stack, axis=0)[cut : len(stack) - cut].mean(axis=0)


@pytest.mark.parametrize(
    ("name", "arguments", "count", "formula"),
    [
        ("median", {}, 5, lambda stack: np.median(stack, axis=0)),
        ("median", {}, 6, lambda stack: np.median(stack, axis=0)),
        ("trimmed-mean", {"trim": 0.2}, 10, lambda stack: trimmed(stack, 2)),
        ("trimmed-mean", {"trim": 0.29}, 100, lambda stack: trimmed(stack, 29)),
        ("trimmed-mean", {}, 19, lambda stack: trimmed(stack, 1)),
    ],
)
def test_against_the_formula(
    name: str, arguments: dict[str, Any], count: int, formula: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Three coordinates at a time: the chunks' seams are in it.
    monkeypatch.setattr(rounds, "STACK", 8 * 3 * count)
    base, _ = learning.base(tmp_path)
    round = begin(load(name, arguments), base)
    made = learning.updates(tmp_path, count)
    for file, _ in made:
        round.add(file)
    info = round.finish(tmp_path / "model", tmp_path / "state", parent="m-0")
    learning.close(ModelFile(tmp_path / "model"), {key: formula(np.stack([arrays[key] for _, arrays in made])) for key in made[0][1]})
    assert (info.parent, info.examples) == ("m-0", sum(file.info.examples or 0 for file, _ in made))
    assert info.metrics.keys() == {"loss", "accuracy"}


@pytest.mark.parametrize(("name", "arguments"), [("median", {}), ("trimmed-mean", {"trim": 0.2}), ("norm-clipping", {"clip": 10.0})])
def test_one_bad_update_does_not_move_it_far(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    base, arrays = learning.base(tmp_path)
    round = begin(load(name, arguments), base)
    for file, _ in learning.updates(tmp_path, 9):
        round.add(file)
    round.add(save(tmp_path / "bad", {key: np.full_like(array, 1e9) for key, array in arrays.items()}, ModelInfo(examples=40)))
    round.finish(tmp_path / "model", tmp_path / "state")
    assert max(float(np.abs(array).max()) for array in ModelFile(tmp_path / "model").load().values()) < 5


def test_bad_updates_are_refused_by_the_robust_ones_too(tmp_path: Path) -> None:
    base, arrays = learning.base(tmp_path)
    round = begin(load("median"), base)
    good = save(tmp_path / "good", arrays)
    round.add(good)
    for bad, words in ((good, "good is counted already"), (save(tmp_path / "short", {"scale": arrays["scale"]}), "is missing")):
        with pytest.raises(ModelRefused, match=words):
            round.add(bad)
    assert round.members == {"good"}


def test_a_trimmed_mean_that_trims_none_is_refused(tmp_path: Path) -> None:
    base, _ = learning.base(tmp_path)
    round = begin(load("trimmed-mean", {"trim": 0.1}), base)
    for file, _ in learning.updates(tmp_path, 9):
        round.add(file)
    with pytest.raises(SettingsError, match=r"of 9 updates, a share of 0\.1 to be trimmed is none at all"):
        round.finish(tmp_path / "model", tmp_path / "state")


@pytest.mark.parametrize("name", ["norm-clipping", "fedavgm", "fednova"])
def test_clipping_is_that_of_each_update(name: str, tmp_path: Path) -> None:
    """Every linear aggregator can clip: the same as if the shortened updates had come."""
    aggregator, plain = load(name, {"clip": 3.0}), load(name if name != "norm-clipping" else "fedavg")
    assert isinstance(aggregator, Linear)
    assert isinstance(plain, Linear)
    base, x = learning.base(tmp_path)
    clipped, shortened = StreamingRound(aggregator, base), StreamingRound(plain, base)
    shares = []
    for file, arrays in learning.updates(tmp_path, 6):
        share = min(1.0, 3.0 / np.sqrt(sum(float(((arrays[key] - x[key]) ** 2).sum()) for key in x)))
        shares.append(share)
        clipped.add(file)
        shortened.add(save(tmp_path / f"{file.name}.short", {key: x[key] + share * (arrays[key] - x[key]) for key in x}, file.info))
    assert min(shares) < 1
    clipped.finish(tmp_path / "clipped", tmp_path / "state")
    shortened.finish(tmp_path / "shortened", tmp_path / "state")
    learning.close(ModelFile(tmp_path / "clipped"), ModelFile(tmp_path / "shortened").load())


def test_the_noise_has_the_deviation_it_should_and_is_new_each_time(tmp_path: Path) -> None:
    aggregator = load("dp-fedavg", {"clip": 2.0, "noise_multiplier": 1.5})
    base = save(tmp_path / "base", {"w": np.ones(200_000), "batches": np.array(5)})
    round = begin(aggregator, base)
    moved = np.zeros(200_000)
    moved[:4] = 4.0
    for number in range(4):
        # 8 away, whatever their examples: shortened to a quarter, and all alike.
        round.add(save(tmp_path / f"c{number}", {"w": 1 + moved, "batches": np.array(100)}, ModelInfo(examples=10.0**number)))
    for name in ("first", "second"):
        round.finish(tmp_path / name, tmp_path / "state")
    first, second = (ModelFile(tmp_path / name).load() for name in ("first", "second"))
    noise = first["w"] - (1 + moved / 4)
    # 1.5 * 2 / 4 clients; six standard errors either way.
    assert noise.std() == pytest.approx(0.75, rel=6 / np.sqrt(2 * 200_000))
    assert abs(noise.mean()) < 6 * 0.75 / np.sqrt(200_000)
    assert not np.array_equal(first["w"], second["w"])
    assert first["batches"] == 5


def test_the_account_is_that_of_the_gaussian_mechanism() -> None:
    for noise, times in ((3.7, 1), (1.0, 10), (40.0, 100)):
        found, sigma = epsilon(noise, times, 1e-5), noise / np.sqrt(times)
        # Balle and Wang 2018, theorem 8: the delta of this epsilon, for sensitivity 1.
        normal = NormalDist().cdf
        delta = normal(1 / (2 * sigma) - found * sigma) - np.exp(found) * normal(-1 / (2 * sigma) - found * sigma)
        assert delta == pytest.approx(1e-5, rel=1e-3)
    assert epsilon(1.0, 0, 1e-5) == 0
    assert epsilon(1.0, 10, 1e-5) > epsilon(1.0, 5, 1e-5) > epsilon(2.0, 5, 1e-5) > 0
    for impossible in ((0.0, 1, 1e-5), (1.0, -1, 1e-5), (1.0, 1, 1.0), (float("nan"), 1, 1e-5)):
        with pytest.raises(SettingsError, match="no account of noise_multiplier"):
            epsilon(*impossible)


def test_the_missing_accountant_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(SettingsError, match=r"the accountant is not installed .*\[privacy\]"):
        epsilon(1.0, 1, 1e-5)
