"""The commands of README.md, run as they stand there, in their order: one that stops working fails here."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from .conftest import ROOT

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: CI runs these by themselves, and a test that ran them would run itself.
BY_CI = ("make demo\n", "make test\n")
FEDERATION = "python -m examples.federation\n"
UUID = re.compile(r"execution ([0-9a-f-]{36})")


def blocks() -> list[tuple[str, str]]:
    """(language, text) of each fenced block, in order."""
    return FENCE.findall((ROOT / "README.md").read_text())


@dataclass
class Terminal:
    """A shell in a folder like the checkout's, with what was pasted into it."""

    folder: Path
    exported: str = ""
    said: str = ""
    _federation: list[subprocess.Popen[str]] = field(default_factory=list)

    def run(self, block: str) -> None:
        """Run a block to its end; it must succeed."""
        script = f"set -euo pipefail\nPATH=.venv/bin:$PATH\n{self.exported}\n{block}"
        done = subprocess.run(["bash", "-c", script], cwd=self.folder, env=_environment(), capture_output=True, text=True, timeout=110)
        self.said = done.stdout + done.stderr
        assert done.returncode == 0, f"{block}\n{self.said}"

    def start_federation(self, block: str) -> None:
        """The block that goes on until Ctrl-C; returns when it has said how to reach it."""
        process = subprocess.Popen(
            ["bash", "-c", f"{block.removesuffix(FEDERATION)}\nexec {FEDERATION}"], cwd=self.folder, env=_environment(), stdout=subprocess.PIPE, text=True
        )  # fmt: skip
        self._federation.append(process)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("export FEM_HOME="):
                self.exported = line
            if "Ctrl-C" in line:
                return
        raise AssertionError(f"the federation ended with {process.wait()}")

    def close(self) -> list[int]:
        """Ctrl-C; the exit codes."""
        for process in self._federation:
            process.send_signal(signal.SIGINT)
        return [process.wait(30) for process in self._federation]


def _environment() -> dict[str, str]:
    """A new terminal's: nothing of ours, and of this virtual environment nothing either."""
    path = ":".join(entry for entry in os.environ["PATH"].split(":") if Path(entry) != Path(sys.executable).parent)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FEM_", "FDN_", "PREFECT_", "VIRTUAL_ENV"))}
    return inherited | {"PATH": path}


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A folder that has what a clone has, but may be written to."""
    for name in ("constraints.txt", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    shutil.copytree(ROOT / "fdn_worker", tmp_path / "fdn_worker", ignore=shutil.ignore_patterns("__pycache__"))
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


@pytest.mark.timeout(300)
def test_every_command_of_the_readme_works(terminal: Terminal) -> None:
    execution, seen, ran = "", "", []
    for language, block in blocks():
        if language == "text" or block in BY_CI:
            continue
        if block.endswith(FEDERATION):
            terminal.start_federation(block)
        elif language == "python":
            (terminal.folder / "ask.py").write_text(block)
            terminal.run("python ask.py")
        else:
            terminal.run(block.replace("EXECUTION", execution))
        if found := UUID.search(terminal.said):
            execution = found[1]
        seen += terminal.said
        ran.append(block)
    assert len(ran) == 6
    assert (terminal.folder / "results/hospital-north/outputs/count.txt").read_text() == "120\n"
    for line in ("hospital-north | 120", "SUCCEEDED ['outputs/malignant.txt']", "enrolled site-d", "and has this node's queues"):
        assert line in seen
    assert terminal.close() == [0]


def test_the_readme_shows_what_people_look_for_first() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    shown = "".join(block for language, block in blocks() if language != "text")
    for expected in (*BY_CI, "fem run ", "from flows.federated_task import federated_task", "fdn-worker init"):
        assert expected in shown
    assert {language for language, _ in blocks()} == {"sh", "python", "text"}
