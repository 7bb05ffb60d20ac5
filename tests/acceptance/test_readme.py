"""What README, tutorial and how-to tell people to type, run as it stands there, in order: what stops working fails here."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import ROOT

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: CI runs these by themselves, and a test that ran them would run itself.
BY_CI = ("make demo\n", "make test\n")
FEDERATION = "source .venv/bin/activate\npython -m examples.federation\n"
EXECUTION = re.compile(r"^execution ([0-9a-f-]{36})", re.MULTILINE)

#: Page -> what its commands must have said, and how many blocks are run at least.
PAGES = {
    "README.md": (
        5,
        [
            "hospital-north | 120", "results/hospital-north/outputs/count.txt", "SUCCEEDED ['outputs/malignant.txt']", "enrolled site-d",
            "and has this node's queues",
        ],
    ),
    "docs/tutorial/first-task.md": (
        8,
        [
            "mean radius,mean texture,mean smoothness,mean concavity,malignant", "looked at 120 patients", '{"0": [49,', "exit code 4",
            "exit code 1", "exit code 2", "benign: 199 patients, mean radius 11.98", "malignant: 161 patients, mean radius 17.16",
        ],
    ),
    "docs/how-to/run-a-task.md": (
        6, ["# Federated Execution Manager", "outputs/a/b/c.txt", "FAILED (the task ended with exit code 1)", "SUCCEEDED"],
    ),
}  # fmt: skip


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(the words before it, language, text) of each fenced block, in order."""
    text = (ROOT / page).read_text()
    return [(text[: block.start()], block[1], block[2]) for block in FENCE.finditer(text)]


def environment() -> dict[str, str]:
    """A new terminal's: nothing of ours, and of this virtual environment nothing either."""
    path = ":".join(entry for entry in os.environ["PATH"].split(":") if Path(entry) != Path(sys.executable).parent)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FEM_", "FDN_", "PREFECT_", "VIRTUAL_ENV"))}
    return inherited | {"PATH": path, "COLUMNS": "100"}


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder that has what a clone has, but may be written to."""
    return make_clone(tmp_path)


def make_clone(folder: Path) -> Path:
    for name in ("constraints.txt", "examples", "README.md"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(Path(sys.executable).parent.parent)
    shutil.copytree(ROOT / "fdn_worker", folder / "fdn_worker", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def pasted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The `export` line of a federation that runs in another terminal; Ctrl-C ends it without a trace."""
    folder, homes = make_clone(tmp_path_factory.mktemp("terminal")), tmp_path_factory.mktemp("homes")
    words = ["bash", "-c", FEDERATION.replace("python -m", "exec python -m")]
    with subprocess.Popen(words, cwd=folder, env=environment() | {"TMPDIR": str(homes)}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "Ctrl-C" in line:
                break
        [exported] = [line for line in said if line.startswith("export FEM_HOME=")]
        yield exported
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        assert process.returncode == 0
    assert list(homes.iterdir()) == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", PAGES)
def test_what_it_says_works(page: str, clone: Path, pasted: str) -> None:
    at_least, expected = PAGES[page]
    said, ran = "", 0
    for before, language, block in blocks(page):
        if language == "text" or block in BY_CI or block == FEDERATION:
            continue
        if language == "python":
            # Saved under the name that the page says; a page that says none leaves it to the reader.
            named = re.findall(r"Save this as `(\w+\.py)`", before)
            (clone / (named[-1] if named else "call.py")).write_text(block)
            block = "" if named else "python call.py"
        executions = EXECUTION.findall(said)
        script = block.replace("EXECUTION", executions[-1] if executions else "EXECUTION")
        done = subprocess.run(
            ["bash", "-c", f"set -euo pipefail\nPATH=$PWD/.venv/bin:$PATH\n{pasted}\n{script}"],
            cwd=clone, env=environment(), capture_output=True, text=True, timeout=110,
        )  # fmt: skip
        said += done.stdout + done.stderr
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        ran += bool(script)
    assert ran >= at_least
    for words in expected:
        assert words in said
    # A task may end with one, in its own log.
    assert not re.search(r"^Traceback", said, re.MULTILINE)


def test_the_readme_shows_what_people_look_for_first() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    shown = [block for _, language, block in blocks("README.md") if language != "text"]
    for expected in (*BY_CI, FEDERATION, "python ask.py\n"):
        assert expected in shown
    for expected in ("fem run ", "from flows.federated_task import federated_task", "fdn-worker init"):
        assert expected in "".join(shown)
    assert {language for page in PAGES for _, language, _ in blocks(page)} == {"sh", "python", "text"}
