"""A client package in a simulation: as its class and as its program, by every algorithm, and what can be wrong with one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fdn_worker.errors import FdnError
from federation.learning.package import PackageRefused
from federation.simulation import export
from federation.simulation.algorithms import ALGORITHMS, FedAvg
from federation.simulation.configuration import Configuration, load, merged
from federation.simulation.errors import SimulationError
from federation.simulation.package_model import PackageLearner, PackageModel
from federation.simulation.simulator import Status, check, simulate
from federation.simulation.streams import Purpose, stream
from federation.simulation.training import Local
from tests.support.checkout import ROOT

DIGITS = ROOT / "examples/learning/digits"
BASE: dict[str, Any] = {
    "simulation": {"repetitions": 1, "num_rounds": 2, "model_name": "package", "model_params": {"package": str(DIGITS), "settings": {"hidden": 5}}},
    "data": {"dataset": "synthetic", "dataset_params": {"examples": 600, "features": 6, "spread": 0.5}, "num_examples_mean": 60},
    "devices": {"num": 4, "p_available": 1, "p_fail": 0},
    "algorithms": {"fit": {"params": {"num_examples": 40}}, "eval": {"params": {"num_examples": 60}}},
    "workers": {"kind": "in-process"},
}  # fmt: skip


def run(**changes: Any) -> Status:
    return simulate(Configuration.model_validate(merged(BASE, changes)))[0]


def test_its_class_and_its_program_come_to_the_same_to_the_last_bit() -> None:
    scaffold = {"federated_algorithm": "scaffold", "federated_algorithm_params": {"lr": 0.1}}
    inside, outside = (run(simulation={"model_params": {"run": way}}, algorithms=scaffold) for way in ("in-process", "process"))
    assert inside.weights.tobytes() == outside.weights.tobytes()
    for phase in ("fit", "eval"):
        assert getattr(inside, phase).loss.tobytes() == getattr(outside, phase).loss.tobytes()
    assert inside.eval.metric.tobytes() == outside.eval.metric.tobytes()


def test_worker_processes_come_to_the_same() -> None:
    assert run().weights.tobytes() == run(workers={"kind": "processes", "number": 1}).weights.tobytes()


@pytest.mark.parametrize("name", ALGORITHMS.names())
def test_it_learns_by_every_algorithm(name: str) -> None:
    rate = {"lr": 0.1} if name == "scaffold" else {}
    status = run(simulation={"num_rounds": 8}, algorithms={"federated_algorithm": name, "federated_algorithm_params": rate})
    assert status.eval.agg_loss[7] < status.eval.agg_loss[0]
    assert status.eval.agg_metric[7] > 0.7


def test_a_device_is_told_what_its_algorithm_adds(tmp_path: Path) -> None:
    """A package that gives back what it was told."""
    folder = tmp_path / "echo"
    folder.mkdir()
    (folder / "client.yaml").write_text("name: echo\nentry_points: {train: [x], validate: [x]}\nclass: echo:Echo\n")
    (folder / "echo.py").write_text(
        "import json, pathlib, numpy as np\n"
        "class Echo:\n"
        "    def seed(self, settings): return {'w': np.full((2, 1), 0.5, np.float32), 'b': np.zeros(1)}\n"
        "    def train(self, model, settings, data):\n"
        "        told = {'settings': settings, 'model': {name: array.tolist() for name, array in model.items()}}\n"
        f"        pathlib.Path({str(tmp_path / 'told.json')!r}).write_text(json.dumps(told))\n"
        "        return {'w': model['w'], 'b': model['b']}, {'examples': 7, 'steps': 3, 'metrics': {'loss': 0.5}}\n"
    )
    learner = PackageLearner(PackageModel(package=folder, settings={"own": 1}), {"features": 2, "classes": 3})
    w = np.array([3.0, 1.0, 2.0])  # b, then w

    def told(name: str, state: np.ndarray, **shared: np.ndarray) -> tuple[dict[str, Any], Any]:
        work = Local(np.zeros((7, 2)), np.zeros(7, np.int64), 2, 4, state, stream(1, Purpose.TRAINING))
        trained = learner.train(ALGORITHMS.make(name, {}, ""), 0.25, w, shared, [work], together=True)
        return json.loads((tmp_path / "told.json").read_text()), trained

    said, trained = told("fedavg", np.empty(0))
    assert (trained.updates.examples, trained.updates.steps, trained.losses) == ([7], [3], [0.5])
    assert trained.updates.weights.tolist() == [[3, 1, 2]]
    assert said["model"] == {"w": [[1], [2]], "b": [3]}
    assert {key: said["settings"][key] for key in ("own", "features", "classes", "epochs", "batch_size", "learning_rate", "proximal")} == {
        "own": 1, "features": 2, "classes": 3, "epochs": 2, "batch_size": 4, "learning_rate": 0.25, "proximal": 0.0
    }  # fmt: skip
    said, trained = told("fedprox", np.array([0.9, 0.4]))
    assert said["settings"]["proximal"] == 0.9
    assert trained.states == pytest.approx(np.array([[1.0, 0.5]]))
    said, _ = told("feddyn", np.array([0.3, 0.1, 0.2]))
    assert said["settings"]["proximal"] == 0.01
    assert said["model"]["correction/b"] == [-0.3]
    said, trained = told("scaffold", np.array([0.0, 1.0, 0.0]), c=np.array([2.0, 0.0, 0.0]))
    assert (said["model"]["correction/w"], said["model"]["correction/b"]) == ([[-1], [0]], [2])
    assert trained.updates.extra["change"].tolist() == [[-2, 0, 0]]


def test_the_package_is_found_from_the_file_and_any_metric_of_it_is_one(tmp_path: Path) -> None:
    shutil.copytree(DIGITS, tmp_path / "mine")
    client = (tmp_path / "mine/client.py").read_text()
    (tmp_path / "mine/client.py").write_text(client.replace('"accuracy": float', '"hits": float'))
    (tmp_path / "sub").mkdir()
    own = merged(BASE, {"simulation": {"metric": "hits", "model_params": {"package": "../mine"}}})
    (tmp_path / "sub/file.yaml").write_text(json.dumps(own))
    configuration = load(tmp_path / "sub/file.yaml")[""]
    [status] = simulate(configuration)
    assert status.eval.agg_metric[1] > 0.3
    document = json.loads(json.dumps(export.document(configuration, [status]), allow_nan=False))
    assert Configuration.model_validate(document["config"]) == configuration
    (tmp_path / "sub/file.yaml").write_text(json.dumps(merged(own, {"simulation": {"metric": "accuracy"}})))
    with pytest.raises(
        SimulationError, match=r"simulation\.metric: digits tells no accuracy when it validates \(it tells loss, hits, examples\)"
    ):
        simulate(load(tmp_path / "sub/file.yaml")[""])


@pytest.mark.parametrize("kind", ["in-process", "processes"])
def test_an_error_of_the_package_comes_through(tmp_path: Path, kind: str) -> None:
    shutil.copytree(DIGITS, tmp_path / "mine")
    client = (tmp_path / "mine/client.py").read_text()
    (tmp_path / "mine/client.py").write_text(client.replace('"steps": steps, ', ""))
    with pytest.raises(FdnError, match="digits: its update says no examples, steps or loss"):
        run(simulation={"model_params": {"package": str(tmp_path / "mine")}}, workers={"kind": kind, "number": 1})
    (tmp_path / "mine/client.py").write_text(client.replace("update = {", "update = {'w3': np.zeros(1)} | {"))
    with pytest.raises(FdnError, match=r"digits: its model was \{'b1'.* and now is \{'b1'.*'w3'"):
        run(simulation={"model_params": {"package": str(tmp_path / "mine")}}, workers={"kind": kind, "number": 1})


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"package": "/nowhere"}, "/nowhere: is no folder"),
        ({"package": str(DIGITS), "run": "threads"}, r"simulation\.model_name_params\.run: Input should be 'process' or 'in-process'"),
    ],
)
def test_bad_parameters_are_named_before_anything_runs(changes: dict[str, Any], said: str) -> None:
    with pytest.raises((SimulationError, PackageRefused), match=said):
        check(Configuration.model_validate(merged(BASE, {"simulation": {"model_params": changes}})))


def test_an_algorithm_that_no_package_can_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd(FedAvg):
        def correction(self, v: Any, w: Any, state: Any, shared: Any) -> Any:
            return v**2

    monkeypatch.setattr(ALGORITHMS, "_here", {**ALGORITHMS._here, "odd": Odd})
    with pytest.raises(SimulationError, match=r"Odd has a correction that a package cannot be told \(say it by `pull`\)"):
        run(algorithms={"federated_algorithm": "odd"})


def test_the_example_learns() -> None:
    configuration = load(ROOT / "examples/simulation/package.yaml")["fedavg"]
    [status] = simulate(configuration.model_copy(update={"workers": Configuration.model_validate(BASE).workers}))
    assert status.eval.agg_metric[-1] > 0.8
