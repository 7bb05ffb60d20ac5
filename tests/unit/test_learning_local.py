"""Data for nodes on this machine, and packages run here; the packages of the examples are held to what reference/learning.md asks of a client."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.learning.local_client import InProcess, Program, Settings, local_client
from federation.learning.local_data import LocalData
from federation.learning.package import Package, PackageRefused
from federation.simulation.errors import SimulationError
from tests.support.checkout import ROOT

EXAMPLES = {"digits": "digits", "breast_cancer": "breast-cancer"}


def example(name: str, **settings: Any) -> tuple[Package, Settings]:
    package = Package.load(ROOT / "examples/learning" / name)
    return package, package.settings | {"epochs": 1} | settings


# Data


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_every_example_lies_at_one_node_and_a_second_time_at_the_same(tmp_path: Path, alpha: float) -> None:
    local = LocalData.model_validate({"nodes": 10, "partition": {"non_iid_partitions": alpha}})
    folders = local.write(tmp_path)
    assert list(folders) == list(local.names()) == [f"site-{number:02d}" for number in range(1, 11)]
    for part, whole in (("train", 1438), ("test", 359)):
        kept = [np.load(one["digits"] / f"{part}.npz") for one in folders.values()]
        assert sum(len(one["y"]) for one in kept) == whole
        assert len({row.tobytes() for one in kept for row in one["x"]}) == whole
    again = local.shares()
    assert all(np.array_equal(np.load(folders[node]["digits"] / "train.npz")["y"], again[node]["train"]["y"]) for node in folders)


def test_dirichlet_shares_differ_and_labels_can_be_wrong() -> None:
    even, uneven = (LocalData.model_validate({"partition": {"non_iid_partitions": alpha}}).shares() for alpha in (0, 0.3))
    assert {len(one["train"]["y"]) for one in even.values()} == {143, 144}
    assert min(len(set(one["train"]["y"])) for one in uneven.values()) < 10
    wrong = LocalData.model_validate({"partition": {"mislabelling_percentage": 50}}).shares()
    assert all(0.2 < np.mean(wrong[node]["train"]["y"] != even[node]["train"]["y"]) < 0.5 for node in even)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"nodes": 400}, r"local\.nodes: digits has 1438 examples to train on and 359 for testing, too few for 400 nodes with 10 each"),
        ({"dataset": "digitz"}, r"data\.dataset: there is no 'digitz' \(there are: digits\)"),
        ({"nodes": 100, "partition": {"non_iid_partitions": 0.05, "tries": 2}}, "alpha 0.05 gave some device fewer than 10 examples"),
    ],
)
def test_data_that_do_not_go_round_are_named(asked: dict[str, Any], said: str) -> None:
    with pytest.raises(SimulationError, match=said):
        LocalData.model_validate(asked).shares()


# Packages


@pytest.mark.parametrize("name", EXAMPLES)
def test_program_and_class_come_to_the_same(name: str) -> None:
    package, settings = example(name)
    data = LocalData(dataset=EXAMPLES[name]).shares()["site-01"]
    program, inside = local_client(package, "process"), local_client(package, "in-process")
    seed = program.seed(settings)
    one, other = program.train(seed, settings, data["train"]), inside.train(inside.seed(settings), settings, data["train"])
    assert {key: array.tobytes() for key, array in one.model.items()} == {key: array.tobytes() for key, array in other.model.items()}
    assert one.info == other.info
    assert (one.info.examples, one.info.steps) == (len(data["train"]["y"]), -(-len(data["train"]["y"]) // 16))
    said = program.validate(one.model, settings, data["test"])
    assert said == inside.validate(one.model, settings, data["test"])
    assert said["loss"] < inside.validate(seed, settings, data["test"])["loss"]
    assert said["examples"] == len(data["test"]["y"])


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_step_is_gradient_and_correction_and_pull(name: str) -> None:
    """With one step of rate 1: what a correction adds is taken off; a pull does nothing at the start, and holds back later."""
    package, settings = example(name, batch_size=1000, learning_rate=1.0)
    client, data = InProcess(package), LocalData(dataset=EXAMPLES[name]).shares()["site-01"]["train"]
    model = client.seed(settings)
    plain = client.train(model, settings, data).model
    corrected = client.train(model | {f"correction/{key}": np.full_like(array, 0.25) for key, array in model.items()}, settings, data).model
    assert corrected.keys() == model.keys()
    assert all(np.allclose(plain[key] - corrected[key], 0.25, atol=1e-6) for key in model)
    assert all(np.array_equal(client.train(model, {**settings, "proximal": 0.9}, data).model[key], plain[key]) for key in model)

    def apart(proximal: float) -> float:
        trained = client.train(model, {**settings, "epochs": 20, "learning_rate": 0.1, "proximal": proximal}, data).model
        return sum(float(((trained[key] - model[key]) ** 2).sum()) for key in model)

    assert apart(5.0) < apart(1.0) < apart(0.0)


def test_gradients_of_the_network_are_those_of_its_loss() -> None:
    package, settings = example("digits", features=5, hidden=4, classes=3)
    client = InProcess(package)._client
    rng = np.random.default_rng(1)
    model = {key: rng.normal(size=array.shape) for key, array in client.seed(settings).items()}
    x, y = rng.normal(size=(7, 5)), rng.integers(3, size=7)
    _, gradients = client._gradients(model, x, y)
    for key, gradient in gradients.items():
        for at in np.ndindex(gradient.shape):
            step = np.zeros_like(gradient)
            step[at] = 1e-6
            above, below = (client._gradients(model | {key: model[key] + sign * step}, x, y)[0] for sign in (1, -1))
            assert (above - below) / 2e-6 == pytest.approx(gradient[at], abs=1e-6)


# What is wrong with a package shows where it runs

CLIENT = """\
name: odd
entry_points: {train: [python3, odd.py], validate: [python3, odd.py], seed: [python3, odd.py]}
class: odd:Odd
"""


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "client.yaml").write_text(CLIENT)
    return folder


@pytest.mark.parametrize(
    ("program", "said"),
    [
        ("import sys; print('no luck'); sys.exit(3)", r"^odd: seed ended with 3: no luck"),
        ("pass", r"^odd: what its program left is no model: model\.safetensors: there is no file"),
        ("import sys; open(sys.argv[1], 'w').write('text')", r"is no model: model\.safetensors: not a whole safetensors file"),
    ],
)
def test_of_a_program(odd: Path, program: str, said: str) -> None:
    (odd / "odd.py").write_text(program)
    with pytest.raises(PackageRefused, match=said):
        Program(Package.load(odd)).seed({})


def test_of_metrics_that_are_none(odd: Path) -> None:
    (odd / "odd.py").write_text("import sys; open(sys.argv[2], 'w').write(sys.argv[0] and '[1]')")
    with pytest.raises(PackageRefused, match=r"^odd: validate says '\[1\]' \(metrics are \{name: number\}"):
        Program(Package.load(odd)).validate({"w": np.zeros(1)}, {}, {"x": np.zeros(1), "y": np.zeros(1)})


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("import nothing_of_the_kind", r"odd\.py: cannot be loaded: No module named 'nothing_of_the_kind'"),
        ("class Even: pass", r"odd\.py: there is no class Odd"),
        ("class Odd: pass", r"odd: class odd:Odd has no method train"),
        ("class Odd:\n    def train(self, *_): return {}, {'examples': 0}", r"^odd: train says examples 0: Input should be greater than 0"),
    ],
)
def test_of_a_class(odd: Path, module: str, said: str) -> None:
    (odd / "odd.py").write_text(module)
    with pytest.raises(PackageRefused, match=said):
        InProcess(Package.load(odd)).train({}, {}, {})


def test_of_a_package_that_has_no_class(odd: Path) -> None:
    (odd / "odd.py").write_text("")
    (odd / "client.yaml").write_text(CLIENT.replace("class: odd:Odd\n", ""))
    with pytest.raises(PackageRefused, match=r"client\.yaml names no class"):
        InProcess(Package.load(odd))
