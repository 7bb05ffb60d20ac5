"""The files of examples/learning and examples/flower are sound, and what they name is there."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from federation.catalogue.folder import load_tool
from federation.learning.local_client import local_client
from federation.learning.models import save
from federation.learning.package import Package
from federation.learning.session import load_session
from tests.support.checkout import ROOT

SESSIONS = sorted((ROOT / "examples/learning").glob("*.yaml"))


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_a_session_of_the_examples_is_sound(path: Path) -> None:
    asked = load_session(path)
    package = Package.load(Path(asked.package))
    assert asked.local is not None
    assert asked.datasets == (asked.local.dataset,) == (package.settings["dataset"],)
    assert asked.settings.keys() <= package.settings.keys()
    assert asked.clients_required <= asked.local.nodes


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_a_model_of_the_examples_predicts(path: Path, tmp_path: Path) -> None:
    """`predict` tells a class for each example, and is as often right as `validate` says."""
    asked = load_session(path)
    assert asked.local is not None
    package, (test, *_) = Package.load(Path(asked.package)), (share["test"] for share in asked.local.shares().values())
    model = local_client(package, "in-process").seed(package.settings)
    rng = np.random.default_rng(1)
    model = {name: (array + rng.normal(size=array.shape)).astype(array.dtype) for name, array in model.items()}
    save(tmp_path / "model.safetensors", model)
    (tmp_path / "settings.json").write_text(json.dumps(package.settings))
    place = tmp_path / asked.local.dataset
    place.mkdir()
    np.savez(place / "test.npz", x=test["x"], y=test["y"])
    _, *words = package.words("predict")
    subprocess.run(
        [sys.executable, *words, tmp_path / "model.safetensors", tmp_path / "predictions.csv"], cwd=package.folder, check=True,
        env=os.environ | {"FEM_SETTINGS": str(tmp_path / "settings.json"), "DATA_PATH": str(tmp_path)},
    )  # fmt: skip
    rows = list(csv.DictReader((tmp_path / "predictions.csv").read_text().splitlines()))
    right = [int(row["class"]) == label for row, label in zip(rows, test["y"], strict=True)]
    said = local_client(package, "in-process").validate(model, package.settings, test)
    assert np.mean(right) == said["accuracy"]
    assert all(0 < float(row["probability"]) <= 1 for row in rows)


def test_both_examples_are_there() -> None:
    assert [path.stem for path in SESSIONS] == ["breast_cancer", "digits"]


def test_the_tool_of_a_flower_app_is_sound() -> None:
    tool = load_tool(ROOT / "examples/flower/flower.yaml")
    server, client = tool.tasks
    assert server.single_node
    assert set(server.files) == {"server.py", "app/pyproject.toml", "app/server_app.py", "app/client_app.py"}
    assert set(client.files) == {"client.py"}
