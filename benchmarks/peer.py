"""Flower, a peer that aggregation and simulation are held against, in an environment of its own below .cache, made where it is not there."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from benchmarks.harness import ROOT

VERSION = "1.42.0"
HOME = ROOT / ".cache/flower-simulation"
#: It tells nobody that it runs. One thread of linear algebra for each process, as ours have.
ENVIRONMENT = {
    "PYTHONPATH": str(ROOT), "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0",
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
}  # fmt: skip


def start(module: str, *words: str, log: Path) -> subprocess.Popen[str]:
    """A program of this folder in Flower's environment. What it says on standard error is in `log`; files of its own lie beside that."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FEM_", "FDN_", "PREFECT_", "PYTHON"))}
    own = {"FLWR_HOME": str(log.parent / "flwr"), "RAY_TMPDIR": str(log.parent)}
    with log.open("a") as told:
        return subprocess.Popen(
            [_python(), "-m", f"benchmarks.{module}", *words], cwd=ROOT, env=clean | ENVIRONMENT | own,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=told, text=True,
        )  # fmt: skip


def answer(process: subprocess.Popen[str], log: Path) -> str:
    """The next line of JSON that it writes; libraries write there, too."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            return line
    raise RuntimeError(f"Flower's program ended: {log.read_text()[-2000:]}")


def _python() -> Path:
    """The interpreter; with the numpy that is measured here."""
    python, stamp = HOME / "bin/python", HOME / f"with-{VERSION}"
    if not stamp.exists():
        wanted = [f"flwr[simulation]=={VERSION}", *(f"{name}=={version(name)}" for name in ("numpy", "safetensors"))]
        subprocess.run([sys.executable, "-m", "venv", "--clear", HOME], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted], check=True)
        stamp.touch()
    return python
