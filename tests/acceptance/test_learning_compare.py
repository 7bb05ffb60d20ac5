"""`python -m examples.learning.compare`: a session with a package of the examples at real nodes, and the same without a federation."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from federation.local import clean_environment
from tests.support.checkout import ROOT

SESSION = """\
name: few
package: {package}
rounds: 2
aggregator: {{name: fedprox, arguments: {{mu: 0.01}}}}
datasets: [breast-cancer]
resources: {{cpus: 0.5, memory: 512MiB}}
"""
LOCAL = "local: {nodes: 2, dataset: breast-cancer, partition: {non_iid_partitions: 0.5}}\n"


def compare(file: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "examples.learning.compare", file]
    return subprocess.run(
        command, cwd=ROOT, env=clean_environment() | environment | {"COLUMNS": "120"}, capture_output=True, text=True, timeout=500
    )


@pytest.mark.timeout(600)
def test_the_table(prefect_api: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text(SESSION.format(package=ROOT / "examples/learning/breast_cancer") + LOCAL)
    done = compare(tmp_path / "few.yaml", **prefect_api)
    assert done.returncode == 0, done.stderr
    rows = {
        name: (examples, float(accuracy))
        for name, examples, accuracy in re.findall(r"^ *(\S.*?) +(\d+) +([01]\.\d+) +\d", done.stdout, re.M)
    }
    assert list(rows) == ["federated", "in one place", "site-01 alone", "site-02 alone"]
    assert rows["federated"][0] == rows["in one place"][0] == "455"
    assert int(rows["site-01 alone"][0]) + int(rows["site-02 alone"][0]) == 455
    # What the nodes told of the last model, each of its share of the test data, is what it comes to on all of them.
    told = re.findall(r"validate accuracy ([01]\.\d+)", done.stderr)
    assert rows["federated"][1] == float(told[-1]) > 0.9


def test_a_session_whose_data_lie_at_sites_cannot_be_compared(tmp_path: Path) -> None:
    (tmp_path / "few.yaml").write_text(SESSION.format(package=ROOT / "examples/learning/breast_cancer"))
    done = compare(tmp_path / "few.yaml")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(r"compare: .*few\.yaml: there is no section `local` \(data that lie at sites .*\)\n", done.stderr)
