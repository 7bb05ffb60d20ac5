"""`make demo` and `DEMO=real make demo`, without make: the right numbers, a page for itself alone, nothing left behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict
from pathlib import Path

import docker
import psutil
import pytest
from sklearn.datasets import load_breast_cancer

from examples.summary.data import COLUMNS, SITES
from federation.local import clean_environment
from tests.conftest import Services
from tests.support.child import child
from tests.support.services import virtual_host

from .conftest import ROOT

PAGE = ROOT / ".demo/summary.html"
#: Seconds that a demo may take, once it is set up.
A_MINUTE = 60.0


@pytest.fixture
def elsewhere(services: Services, tmp_path: Path, unique: str) -> Iterator[dict[str, str]]:
    """The real services, with a virtual host of this test's own."""
    with virtual_host(services, unique) as broker:
        (tmp_path / "services.json").write_text(json.dumps(asdict(services) | {"amqp_url": broker}))
        yield {"DEMO": "real", "FEM_SERVICES": str(tmp_path / "services.json")}


def left_running(folder: Path) -> list[str]:
    """Command lines of what was started below a demo whose TMPDIR is `folder`: it is in their environment or their arguments."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            line = " ".join(process.cmdline())
            if process.environ().get("TMPDIR") == str(folder) or f"{folder}/" in line:
                found.append(line)
    return found


def run_demo(variables: dict[str, str], tmp_path: Path) -> str:
    """Run it to its end; what it prints."""
    PAGE.unlink(missing_ok=True)
    folder, began = tmp_path / "tmp", time.monotonic()
    folder.mkdir(mode=0o755)
    # Its folder is made here, so that what stays of it is seen.
    environment = clean_environment() | variables | {"COLUMNS": "80", "TMPDIR": str(folder), "PREFECT_HOME": str(tmp_path / "prefect")}
    words = [sys.executable, "-m", "examples.summary"]
    with child(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        printed = []
        for line in process.stdout:
            printed.append(line)
            if "nodes are connected" in line:
                # Or the look at what is left could not fail: the demo, Prefect's server and three workers at least.
                assert len(left_running(folder)) >= 5
    assert process.returncode == 0, "".join(printed)
    assert time.monotonic() - began < A_MINUTE
    assert left_running(folder) == []
    assert list(folder.iterdir()) == []
    return "".join(printed)


def check_numbers(printed: str) -> None:
    """The last column of the table is what scikit-learn's data gives without any federation."""
    data = load_breast_cancer(as_frame=True)
    patients = data.data.assign(malignant=1 - data.target)[COLUMNS]
    rows = {line[:17].strip(): line.split() for line in printed.splitlines()}
    assert rows["patients"][-1] == str(len(patients))
    for name in COLUMNS:
        assert rows[name][-2:] == [f"{patients[name].mean():#.3g}", f"({patients[name].std():#.2g})"]


def check_page() -> None:
    """It names all sites, and nothing that a browser would have to fetch."""
    page = PAGE.read_text()
    for expected in ("hospital-north", "hospital-south", "hospital-west", "all sites", "569", *COLUMNS):
        assert expected in page
    assert re.findall(r"https?:|//\w|\bsrc=|\bhref=|url\(|@import", page) == []


@pytest.mark.usefixtures("prefect_api")
def test_the_embedded_demo(tmp_path: Path) -> None:
    printed = run_demo({}, tmp_path)
    check_numbers(printed)
    check_page()
    assert max(map(len, printed.splitlines())) <= 80
    assert printed.count("SUCCEEDED") == 3


@pytest.mark.usefixtures("prefect_api")
def test_the_demo_on_rabbitmq_minio_and_docker(tmp_path: Path, elsewhere: dict[str, str], services: Services) -> None:
    printed = run_demo(elsewhere, tmp_path)
    check_numbers(printed)
    check_page()
    assert "RabbitMQ, MinIO, Docker" in printed
    with closing(docker.DockerClient(base_url=services.docker_host)) as engine:
        for node in SITES:
            assert engine.containers.list(all=True, filters={"label": f"fdn.node={node}"}) == []
