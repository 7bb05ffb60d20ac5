"""One Prefect server and one embedded federation for the whole room; commands run as a person would run them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from federation.centre import Centre
from federation.local import LocalFederation
from flows.server import prefect_server
from tests.support.shell import shell
from tests.support.waiting import SOON

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[2]
SEED = ROOT / ".cache/prefect-seed.db"
BIN = Path(sys.executable).parent
PATIENTS = "name,age\nanna,61\nbruno,48\nclara,75\n"

Value = TypeVar("Value")
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables of a running Prefect server."""
    if not SEED.exists():
        subprocess.run([sys.executable, "-m", "deployments.services", "prefect-seed"], cwd=ROOT, check=True)
    with prefect_server(tmp_path_factory.mktemp("prefect"), seed=SEED, ui=True) as client:
        yield client


@pytest.fixture(scope="session")
def federation() -> Iterator[LocalFederation]:
    """Two nodes: site-a with a dataset, site-b with none; the process launcher."""
    with tempfile.TemporaryDirectory(prefix="fem-test-") as folder:
        data = Path(folder) / "data" / "patients"
        data.mkdir(parents=True)
        (data / "patients.csv").write_text(PATIENTS)
        with LocalFederation(Path(folder) / "home", ("site-a", "site-b"), {"site-a": {"patients": data}}) as local:
            yield local


@pytest.fixture(scope="session")
def centre(federation: LocalFederation) -> Iterator[Centre]:
    """The federation's centre, with its relay, for a look at what happened."""
    with federation.connected() as centre:
        yield centre


@pytest.fixture(scope="session")
def environment(prefect_api: dict[str, str], federation: LocalFederation, centre: Centre) -> dict[str, str]:
    """What a person's shell would have set."""
    return shell(BIN, prefect_api, federation.environment(), {"COLUMNS": "120"})


@pytest.fixture
def run(environment: dict[str, str], tmp_path: Path) -> Run:
    """Run a command to its end: run("fem", "status"); run(..., env={...}, cwd=...)."""

    def call(
        *words: str, env: dict[str, str] | None = None, cwd: Path = tmp_path, timeout: float = SOON
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(words, env=environment | (env or {}), cwd=cwd, timeout=timeout, capture_output=True, text=True)

    return call


def until(condition: Callable[[], Value | None], seconds: float = SOON) -> Value:
    """Wait for what another process brings about."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.1)
    return value


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless one."""
    # Here, since most of the room looks at no page.
    from tests.support.browser import chromium

    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """Of the gateway at the `address` of the test's file."""
    from tests.support.pages import opened

    with opened(browser, address) as page:
        yield page
