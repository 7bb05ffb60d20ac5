"""Accounts against the kernel's own: within 2% of the worker's parent cgroup, for tasks of 5 CPU seconds, however they end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from fdn_worker.protocol import State
from federation.centre import Submission
from federation.local import LocalFederation
from federation.request import TaskRequest
from storage.schema import accounts
from tests.conftest import Services
from tests.support.rig import Rig, rig
from tests.support.services import real_rig

ROOT = Path("/sys/fs/cgroup")
UNIFIED = (ROOT / "cgroup.controllers").exists()
#: Two processes burn five seconds and a half; then it ends as it is told to.
BURN = """
import os, signal, sys, time
def burn(seconds):
    while time.process_time() < seconds: pass
if os.fork() == 0:
    burn(2); os._exit(0)
burn(3.5); os.wait()
if sys.argv[1] == "stay": signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("burnt", flush=True)
if sys.argv[1] == "stay": time.sleep(600)
if sys.argv[1] == "grow":
    grown = []
    while True: grown.append(bytearray(1 << 20))
sys.exit(int(sys.argv[1]))
"""

pytestmark = pytest.mark.skipif(not os.access(ROOT if UNIFIED else ROOT / "cpuacct", os.W_OK), reason="no cgroups that may be written")


def burnt(parent: str) -> float:
    """CPU seconds of all that ever ran below a cgroup, by the kernel."""
    if not UNIFIED:
        path = ROOT / "cpuacct" / parent / "cpuacct.usage"
        return int(path.read_text()) / 1e9 if path.exists() else 0.0
    path = ROOT / parent / "cpu.stat"
    return int(path.read_text().split()[1]) / 1e6 if path.exists() else 0.0


@contextmanager
def cgroup(name: str) -> Iterator[str]:
    """A cgroup's name, with nothing below it; taken away at the end with what Docker leaves there."""
    try:
        yield name
    finally:
        for folder in {folder / name for folder in (ROOT, *ROOT.glob("*")) if (folder / name).is_dir()}:
            for below in sorted(folder.glob("**/"), reverse=True):
                below.rmdir()


@pytest.fixture(scope="module")
def parent() -> Iterator[str]:
    with cgroup(f"fdn-test-{time.time_ns():x}") as name:
        yield name


@pytest.fixture(scope="module")
def house(services: Services, parent: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    options = {"docker_host": services.docker_host, "pull_policy": "never", "cgroup_parent": f"/{parent}"}
    name = f"account-{time.time_ns():x}"
    with real_rig(services, tmp_path_factory.mktemp("accounts"), (name,), name, launcher_options=options, options={"grace": 0.5}) as made:
        made.start(name)
        yield made


def account(house: Rig, submission: Submission) -> Any:
    of = (accounts.c.run == str(submission.run), accounts.c.attempt == submission.attempt)
    with house.centre.records.database.read() as db:
        return db.execute(select(accounts).where(*of)).one()


def check(row: Any, kernel: float, state: State) -> None:
    assert kernel >= 5.0
    assert row.state is state
    assert row.cpu_seconds == pytest.approx(kernel, rel=0.02)
    assert not row.estimated
    # both processes take longer than the one that burns most
    assert row.running >= 3.0
    assert row.peak_memory > 2**20


@pytest.mark.parametrize(
    ("then", "state", "exit_code"), [("0", State.SUCCEEDED, 0), ("3", State.FAILED, 3), ("stay", State.CANCELLED, 137), ("grow", State.FAILED, 137)]
)  # fmt: skip
def test_a_container(house: Rig, services: Services, parent: str, then: str, state: State, exit_code: int) -> None:
    before = burnt(parent)
    submission = house.send(house.federation.nodes[0], "python3", "-c", BURN, then, image=services.images["python"], memory=64 * 1024**2)
    house.line(submission, "burnt")
    if then == "stay":
        house.centre.cancel(submission.execution, "a test")
    assert house.result(submission).state is state
    house.check_clean(submission.node)
    row = account(house, submission)
    check(row, burnt(parent) - before, state)
    assert row.exit_code == exit_code
    assert row.image_digest.startswith("sha256:")
    assert row.launcher == "docker"


def test_an_attempt_that_is_tried_again_has_two(house: Rig, services: Services, parent: str) -> None:
    request = TaskRequest(node=house.federation.nodes[0], argv=("python3", "-c", BURN, "3"), image=services.images["python"])
    for attempt in (1, 2):
        before = burnt(parent)
        submission = house.centre.stage_in(request, parent, new_attempt=True)
        assert submission.attempt == attempt
        assert house.centre.dispatch(submission)
        assert house.result(submission).state is State.FAILED
        house.check_clean(submission.node)
        check(account(house, submission), burnt(parent) - before, State.FAILED)


@pytest.mark.parametrize(("then", "state"), [("0", State.SUCCEEDED), ("stay", State.CANCELLED)])
def test_a_process(tmp_path: Path, unique: str, then: str, state: State) -> None:
    """It steps into a cgroup of its own first, which the launcher knows nothing of."""
    with cgroup(f"fdn-test-{unique}") as parent, rig(LocalFederation(tmp_path, ("site",), options={"grace": 0.5})) as house:
        folder = (ROOT if UNIFIED else ROOT / "cpuacct") / parent
        folder.mkdir()
        step_in = f"open('{folder}/cgroup.procs', 'w').write('0')\n"
        house.start("site")
        submission = house.send("site", "/usr/bin/python3", "-c", step_in + BURN, then)
        house.line(submission, "burnt")
        if then == "stay":
            house.centre.cancel(submission.execution, "a test")
        assert house.result(submission).state is state
        house.check_clean("site")
        check(account(house, submission), burnt(parent), state)
