"""A launcher from a package of its own: installed beside the worker, found by its entry point, held to the published contract."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdn_worker.errors import SettingsError
from fdn_worker.launchers import load
from fdn_worker.protocol import State
from federation.local import LocalFederation
from tests.support.rig import ROOT, Rig, rig
from tests.support.waiting import SOON

PLUGIN = ROOT / "examples/launcher-plugin"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the example is installed."""
    target = tmp_path_factory.mktemp("plugin") / "site"
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--no-deps",
        "--no-build-isolation",
        "--target",
        str(target),
    ]
    subprocess.run([*command, str(PLUGIN)], check=True, timeout=120)
    return target


@pytest.fixture
def house(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.syspath_prepend(installed)
    monkeypatch.setenv("PYTHONPATH", str(installed))
    with rig(LocalFederation(tmp_path / "home", ("site",), launcher="nice", launcher_options={"level": 5})) as made:
        made.start("site")
        yield made


def test_without_the_package_the_launcher_is_unknown(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="launcher 'nice' is not installed"):
        load("nice", {}, tmp_path)


def test_it_passes_the_published_contract(installed: Path, tmp_path: Path) -> None:
    test = tmp_path / "test_nice.py"
    test.write_text((PLUGIN / "test_nice.py").read_text())
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(test)], cwd=tmp_path, capture_output=True, text=True, timeout=SOON,
        env=os.environ | {"PYTHONPATH": str(installed)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-1000:]
    assert "passed" in ran.stdout
    assert "skipped" not in ran.stdout


def test_a_worker_runs_a_task_through_it(house: Rig) -> None:
    result = house.result(house.send("site", "/bin/sh", "-c", "nice > level", outputs=("level",)))
    assert result.state is State.SUCCEEDED, result.explain()
    assert house.output(result, "outputs/level") == b"5\n"
    assert result.report.launcher == "nice"
    house.check_clean("site")
