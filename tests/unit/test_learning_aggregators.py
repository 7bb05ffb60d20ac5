"""Every linear aggregator against its formula, written out over all updates at once, for two rounds, so that what is remembered counts."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fdn_worker.errors import SettingsError
from federation.learning.aggregator import BUILT_IN, Aggregator, Corrected, Linear, load
from federation.learning.client_state import model_for_client, remember
from federation.learning.models import BLOCK, ModelFile, ModelInfo, ModelRefused, save
from federation.learning.rounds import RoundEmpty, StreamingRound, begin
from tests.unit import learning

Array = NDArray[Any]
#: Global model, updates, their examples, their steps, and a dictionary to remember in -> the next global model.
Formula = Callable[[Array, Array, Array, Array, dict[str, Array]], Array]


def weighted(ys: Array, n: Array) -> Array:
    return np.tensordot(n / n.sum(), ys, 1)


def fedavg(x: Array, ys: Array, n: Array, k: Array, kept: dict[str, Array]) -> Array:
    return weighted(ys, n)


def fedavgm(x: Array, ys: Array, n: Array, k: Array, kept: dict[str, Array]) -> Array:
    kept["v"] = 0.8 * kept.get("v", 0) + weighted(ys, n) - x
    return x + 0.5 * kept["v"]


def fednova(x: Array, ys: Array, n: Array, k: Array, kept: dict[str, Array]) -> Array:
    p = n / n.sum()
    return x - (p @ k) * np.tensordot(p / k, x - ys, 1)


def scaffold(x: Array, ys: Array, n: Array, k: Array, kept: dict[str, Array]) -> Array:
    c = kept.get("c", np.zeros_like(x))
    changes = [-c + (x - y) / (steps * 0.05) for y, steps in zip(ys, k, strict=True)]
    kept["c"] = c + sum(changes) / 20
    return x + 0.7 * (ys - x).mean(axis=0)


def feddyn(x: Array, ys: Array, n: Array, k: Array, kept: dict[str, Array]) -> Array:
    kept["h"] = kept.get("h", 0) - 0.3 / 20 * (ys - x).sum(axis=0)
    return ys.mean(axis=0) - kept["h"] / 0.3


def adaptive(variance: Callable[[Array, Array], Array]) -> Formula:
    def formula(x: Array, ys: Array, n: Array, k: Array, kept: dict[str, Array]) -> Array:
        d = weighted(ys, n) - x
        kept["m"] = 0.9 * kept.get("m", 0) + (1 - 0.9) * d
        kept["v"] = variance(kept.get("v", np.full_like(x, 1e-4**2)), d)
        return x + 1e-3 * kept["m"] / (np.sqrt(kept["v"]) + 1e-4)

    return formula


LINEAR: dict[str, tuple[dict[str, Any], Formula]] = {
    "fedavg": ({}, fedavg),
    "fedavgm": ({"momentum": 0.8, "learning_rate": 0.5}, fedavgm),
    "fedprox": ({"mu": 0.2}, fedavg),
    "fednova": ({}, fednova),
    "scaffold": ({"clients": 20, "learning_rate": 0.05, "server_learning_rate": 0.7}, scaffold),
    "feddyn": ({"clients": 20, "alpha": 0.3}, feddyn),
    # The defaults are part of the contract.
    "fedadam": ({}, adaptive(lambda v, d: 0.99 * v + (1 - 0.99) * d**2)),
    "fedyogi": ({}, adaptive(lambda v, d: v - (1 - 0.99) * d**2 * np.sign(v - d**2))),
    "fedadagrad": ({}, adaptive(lambda v, d: v + d**2)),
    # So far off that nothing is clipped; test_learning_robust.py has what is.
    "norm-clipping": ({"clip": 1e6}, fedavg),
}


def linear(name: str) -> Linear:
    found = load(name, LINEAR[name][0])
    assert isinstance(found, Linear)
    return found


def streamed(
    aggregator: Linear, base: ModelFile, state: ModelFile | None, files: Sequence[ModelFile], out: Path
) -> tuple[ModelFile, ModelFile]:
    """The next model and state, the updates taken in that order."""
    round = StreamingRound(aggregator, base, state)
    for file in files:
        round.add(file)
    round.finish(out.with_suffix(".model"), out.with_suffix(".state"))
    return ModelFile(out.with_suffix(".model")), ModelFile(out.with_suffix(".state"))


@pytest.mark.parametrize("name", LINEAR)
def test_against_the_formula(name: str, tmp_path: Path) -> None:
    aggregator, formula = linear(name), LINEAR[name][1]
    assert aggregator.name == name
    model, expected = learning.base(tmp_path)
    state: ModelFile | None = None
    kept: dict[str, dict[str, Array]] = {key: {} for key in expected}
    for number in range(3):
        made = learning.updates(tmp_path, 5, seed=number)
        model, state = streamed(aggregator, model, state, [file for file, _ in made], tmp_path / f"{number}")
        n = np.array([file.info.examples for file, _ in made], float)
        k = np.array([file.info.steps for file, _ in made], float)
        expected = {key: formula(expected[key], np.stack([arrays[key] for _, arrays in made]), n, k, kept[key]) for key in expected}
        learning.close(model, expected, 1e-12)


def test_every_name_has_a_test() -> None:
    assert BUILT_IN.keys() - LINEAR.keys() == {"dp-fedavg", "median", "trimmed-mean"}


@pytest.mark.parametrize("name", LINEAR)
def test_the_order_does_not_matter(name: str, tmp_path: Path) -> None:
    aggregator = linear(name)
    base, _ = learning.base(tmp_path)
    files = [file for file, _ in learning.updates(tmp_path, 40)]
    first, state = streamed(aggregator, base, None, files, tmp_path / "first")
    random.Random(7).shuffle(files)
    second, other = streamed(aggregator, base, None, files, tmp_path / "second")
    learning.close(second, first.load(), 1e-9)
    learning.close(other, state.load(), 1e-9)


def test_float32_models_are_summed_in_float64(tmp_path: Path) -> None:
    base = save(tmp_path / "base", {"w": np.zeros(BLOCK + 3, "f4")})
    rng, round = np.random.default_rng(3), StreamingRound(linear("fedavg"), base)
    ys = rng.normal(size=(200, BLOCK + 3)).astype("f4")
    for number, y in enumerate(ys):
        round.add(save(tmp_path / f"c{number}", {"w": y}, ModelInfo(examples=number + 1)))
    round.finish(tmp_path / "model", tmp_path / "state")
    expected = weighted(ys.astype("f8"), np.arange(1.0, 201))
    found = ModelFile(tmp_path / "model").load()["w"]
    np.testing.assert_array_max_ulp(found, expected.astype("f4"), 1)


def test_integers_are_averaged_and_never_learned(tmp_path: Path) -> None:
    base = save(tmp_path / "base", {"w": np.zeros(2), "batches": np.array(100)})
    round = StreamingRound(linear("fedadam"), base)
    for number, batches in enumerate((110, 121)):
        round.add(save(tmp_path / f"c{number}", {"w": np.ones(2), "batches": np.array(batches)}, ModelInfo(examples=1)))
    round.finish(tmp_path / "model", tmp_path / "state")
    assert ModelFile(tmp_path / "model").load()["batches"] == 116
    assert set(ModelFile(tmp_path / "state").tensors) == {"momentum/w", "variance/w"}


def test_the_next_model_says_what_it_is_made_of(tmp_path: Path) -> None:
    base, _ = learning.base(tmp_path)
    round = StreamingRound(linear("fedavg"), base)
    made = learning.updates(tmp_path, 4)
    for file, _ in made:
        round.add(file)
    info = round.finish(tmp_path / "model", tmp_path / "state", parent="m-0")
    examples = [file.info.examples or 0 for file, _ in made]
    loss = sum(n * file.info.metrics["loss"] for n, (file, _) in zip(examples, made, strict=True)) / sum(examples)
    assert info == ModelFile(tmp_path / "model").info
    assert (info.parent, info.examples) == ("m-0", sum(examples))
    # Half of them say an accuracy: theirs alone is averaged.
    assert info.metrics == pytest.approx({"loss": loss, "accuracy": 0.25})


def test_a_refused_update_leaves_the_round_as_it_was(tmp_path: Path) -> None:
    base, arrays = learning.base(tmp_path)
    files = [file for file, _ in learning.updates(tmp_path, 3)]
    expected, _ = streamed(linear("fednova"), base, None, files, tmp_path / "expected")
    round = StreamingRound(linear("fednova"), base)
    short = save(tmp_path / "short", {"scale": arrays["scale"]}, ModelInfo(examples=1, steps=1))
    silent = save(tmp_path / "silent", arrays, ModelInfo(examples=1))
    for file in files:
        round.add(file)
        for bad, words in (
            (short, "is missing"),
            (silent, "silent: its metadata do not say steps"),
            (file, f"the update of {file.name} is counted"),
        ):
            with pytest.raises(ModelRefused, match=words):
                round.add(bad)
    assert round.members == {"c0", "c1", "c2"}
    round.finish(tmp_path / "model", tmp_path / "state")
    learning.close(ModelFile(tmp_path / "model"), expected.load(), 0)


def test_a_round_with_no_update_ends_by_name(tmp_path: Path) -> None:
    base, _ = learning.base(tmp_path)
    for name, arguments in (("fedavg", {}), ("median", {})):
        with pytest.raises(RoundEmpty, match="no update came"):
            begin(load(name, arguments), base).finish(tmp_path / "model", tmp_path / "state")
    assert not (tmp_path / "model").exists()


def test_a_state_of_something_else_is_refused(tmp_path: Path) -> None:
    base, _ = learning.base(tmp_path)
    files = [file for file, _ in learning.updates(tmp_path, 2)]
    _, state = streamed(linear("fedadam"), base, None, files, tmp_path / "adam")
    with pytest.raises(ModelRefused, match="the state of aggregator fedadam, and this is fedyogi"):
        StreamingRound(linear("fedyogi"), base, state)
    with pytest.raises(ModelRefused, match="for another model"):
        StreamingRound(linear("fedadam"), save(tmp_path / "other", {"w": np.zeros(2)}), state)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("fedmagic", {}, r"there is no aggregator 'fedmagic' \(there are dp-fedavg, fedadagrad"),
        (
            "fedadam",
            {"beta3": 1},
            r"aggregator fedadam: beta3: Extra inputs .* \(its arguments are clip, learning_rate, beta1, tau, beta2\)",
        ),
        ("fedadam", {"beta1": 1.0}, "fedadam: beta1: Input should be less than 1"),
        ("scaffold", {}, "scaffold: clients: Field required"),
        ("trimmed-mean", {"trim": 0.5}, "trimmed-mean: trim"),
        ("norm-clipping", {"clip": -1}, "norm-clipping: clip"),
        ("fedprox", {"mu": float("nan")}, "fedprox: mu"),
    ],
)
def test_unknown_names_and_arguments_are_told(name: str, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        load(name, arguments)


def test_others_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    class Mine(Linear):
        name = "mine"
        share: float = 0.5

    class Point:
        name = "mine"

        def load(self) -> type[Aggregator]:
            return Mine

    monkeypatch.setattr("federation.learning.aggregator.entry_points", lambda group: [Point()] if group == "federation.aggregators" else [])
    assert load("mine", {"share": 0.25}) == Mine(share=0.25)


def test_what_clients_are_told() -> None:
    assert load("fedprox", {"mu": 0.3}).settings() == {"proximal": 0.3}
    assert load("feddyn", {"clients": 4, "alpha": 0.2}).settings() == {"proximal": 0.2}
    assert load("scaffold", {"clients": 4}).settings() == {"learning_rate": 0.01}
    assert load("fedavg").settings() == {}


# What is remembered of a client


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_corrections_follow_the_formula(name: str, tmp_path: Path) -> None:
    aggregator = linear(name)
    assert isinstance(aggregator, Corrected)
    model, _ = learning.base(tmp_path)
    state: ModelFile | None = None
    own: ModelFile | None = None
    control, mine = 0.0, 0.0
    for number in range(3):
        made = learning.updates(tmp_path, 3, seed=number)
        model_for_client(aggregator, model, state, own, tmp_path / "sent")
        sent, x = ModelFile(tmp_path / "sent").load(), model.load()["dense.bias"]
        expected = control - mine if name == "scaffold" else -mine
        np.testing.assert_allclose(sent["correction/dense.bias"], np.broadcast_to(expected, 4), rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(sent["dense.bias"], x)
        # This one is c1 in every round.
        file, arrays = made[1]
        change = (
            -control + (x - arrays["dense.bias"]) / (file.info.steps * 0.05) if name == "scaffold" else -0.3 * (arrays["dense.bias"] - x)
        )
        mine = mine + change
        remember(aggregator, model, state, own, file, tmp_path / "own")
        own = ModelFile(tmp_path / "own")
        model, state = streamed(aggregator, model, state, [file for file, _ in made], tmp_path / f"{number}")
        control = state.load()["control/dense.bias"] if name == "scaffold" else 0.0


def test_the_mean_of_all_controls_is_the_servers(tmp_path: Path) -> None:
    """SCAFFOLD's invariant, when all clients take part: the corrections of a round cancel out."""
    aggregator = load("scaffold", {"clients": 3, "learning_rate": 0.1})
    assert isinstance(aggregator, Corrected)
    model, _ = learning.base(tmp_path)
    state: ModelFile | None = None
    own: dict[str, ModelFile] = {}
    for number in range(2):
        files = [file for file, _ in learning.updates(tmp_path, 3, seed=number)]
        for file in files:
            remember(aggregator, model, state, own.get(file.name), file, tmp_path / f"{file.name}.own")
            own[file.name] = ModelFile(tmp_path / f"{file.name}.own")
        model, state = streamed(aggregator, model, state, files, tmp_path / f"{number}")
    mean = sum(kept.load()["dense.weight"] for kept in own.values()) / 3
    assert state is not None
    np.testing.assert_allclose(mean, state.load()["control/dense.weight"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "arguments"), [("scaffold", {"clients": 3, "learning_rate": 0.1}), ("feddyn", {"clients": 3, "alpha": 1.0})]
)
def test_corrected_clients_find_the_common_minimum(name: str, arguments: dict[str, Any], tmp_path: Path) -> None:
    """Clients of unlike curvature, ten local steps by the documented rule: FedAvg ends elsewhere, these two do not."""
    curvature, minimum = np.array([0.1, 1.0, 5.0]), np.array([-3.0, 1.0, 2.0])
    common = float(curvature @ minimum / curvature.sum())

    def trained(sent: dict[str, Array], told: dict[str, float], client: int) -> Array:
        x = y = sent["w"]
        for _ in range(10):
            gradient = curvature[client] * (y - minimum[client])
            y = y - 0.1 * (gradient + sent.get("correction/w", 0.0) + told.get("proximal", 0.0) * (y - x))
        return y

    def learned(aggregator: Linear) -> float:
        model, state, own = save(tmp_path / "start", {"w": np.zeros(1)}), None, dict.fromkeys(range(3))
        for number in range(30):
            files = []
            for client in range(3):
                sent = model
                if isinstance(aggregator, Corrected):
                    model_for_client(aggregator, model, state, own[client], tmp_path / "sent")
                    sent = ModelFile(tmp_path / "sent")
                update = {"w": trained(sent.load(), aggregator.settings(), client)}
                files.append(save(tmp_path / f"c{client}", update, ModelInfo(examples=1, steps=10)))
                if isinstance(aggregator, Corrected):
                    remember(aggregator, model, state, own[client], files[-1], tmp_path / f"own{client}")
                    own[client] = ModelFile(tmp_path / f"own{client}")
            model, state = streamed(aggregator, model, state, files, tmp_path / f"{number % 2}")
        return float(model.load()["w"][0])

    found, plain = load(name, arguments), load("fedavg")
    assert isinstance(found, Linear)
    assert isinstance(plain, Linear)
    assert learned(found) == pytest.approx(common, abs=1e-3)
    assert abs(learned(plain) - common) > 0.1


# The page

NEEDED: dict[str, dict[str, Any]] = {
    "scaffold": {"clients": 1}, "feddyn": {"clients": 1}, "norm-clipping": {"clip": 1}, "dp-fedavg": {"clip": 1, "noise_multiplier": 1},
}  # fmt: skip


def test_the_reference_has_every_aggregator_with_its_arguments() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/reference/learning.md").read_text()
    page = page.partition("\n## Aggregators\n")[2].partition("\n### ")[0]
    told = {
        name: (formula, arguments)
        for name, formula, arguments in re.findall(r"^\| `([a-z-]+)` \| (.*) \| ([^|]*) ?\|$", page, re.MULTILINE)
    }
    assert told.keys() == BUILT_IN.keys()
    told["fedyogi"] = told["fedadam"]
    for name in BUILT_IN:
        kind = type(load(name, NEEDED.get(name)))
        own = {key: field for key, field in kind.model_fields.items() if not (key == "clip" and not field.is_required())}
        said = dict(re.findall(r"`([a-z0-9_]+)`(?: ([0-9.]+))?", told[name][1]))
        assert said.keys() == own.keys()
        for key, field in own.items():
            assert (float(said[key]) if said[key] else None) == (None if field.is_required() else field.default)
