"""What README, tutorials and how-to tell people to type, run as it stands there, in order: what stops working fails here.

Each page has a clone and a federation of its own. What a page exports stays, as in a terminal; what it says to start in a
terminal of its own runs until the page is done.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.checkout import clone
from tests.support.waiting import SOON, eventually

from .conftest import ROOT

FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: CI runs these by themselves, and a test that ran them would run itself.
BY_CI = ("make demo\n", "make test\n")
FEDERATION = "source .venv/bin/activate\npython -m examples.federation\n"
EXECUTION = re.compile(r"^execution ([0-9a-f-]{36})", re.MULTILINE)
SAVED = re.compile(r"Save this as `([^`]+)`")
#: What is started in a terminal of its own -> what it says when it is ready.
READY = {"examples.federation": "Ctrl-C", "fdn-worker start": " is up", "prefect worker start": "started!"}
TERMINAL = "in a terminal of its own"

#: What is another one each time: ids, keys, moments, ages, free space, paths.
CHANGING = re.compile(
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|\b[0-9a-f]{8}\b|[\w+/]{43}=|(?:\d\d-\d\d )?\d\d:\d\d:\d\d|\b\d+ s ago|[\d.]+ GiB|/\S+"
)

#: In the clone, a file and what is less there, so that learning takes seconds: the way is the same.
SHORTER = {
    "examples/learning/digits.yaml": ("rounds: 10", "rounds: 2"),
    "examples/simulation/digits.yaml": ("num_rounds: 20", "num_rounds: 2"),
}

#: Page -> how many blocks are run at least, and what its commands must have said beside the outputs that it shows.
PAGES = {
    "README.md": (
        8,
        [
            "9 files of 3 nodes", "fl-demo: Succeeded, 3/3, 4 outputs", "hospital-north | 120", "digits: FINISHED after 2 rounds",
            "simulation-digits/report.html", "and has this node's queues",
        ],
    ),
    "docs/tutorial/researcher.md": (10, ["(there are: data-summary)", "exit code 2"]),
    "docs/tutorial/tool-author.md": (10, ["'$INPUT_PATH/radius.py' malignant --at-least=10", '{"patients": 49, "sum": ']),
    "docs/tutorial/site-administrator.md": (14, ["exit code 4", "would accept, takes no orders at present", "orders are taken again"]),
    "docs/tutorial/operator.md": (
        14,
        [
            "nothing to change", "+ enrol node hospital-east", "bundles/hospital-east/fdn-worker.toml", "+ deployment execute-tool/default",
            "Flow run finished successfully in 'Succeeded'", "+ deployment execute-tool/nightly-summary", "cron: 0 3 * * *",
            "Flow run finished successfully in 'Changed'", "would delete 0 objects", "hospital-west is paused",
            "hospital-west takes orders again",
        ],
    ),
    "docs/how-to/run-a-task.md": (
        6, ["# Federated Execution Manager", "outputs/a/b/c.txt", "FAILED (the task ended with exit code 1)", "SUCCEEDED"],
    ),
}  # fmt: skip


def blocks(page: str) -> list[tuple[str, str, str]]:
    """(the paragraph before it, language, text) of each fenced block, in order."""
    text = (ROOT / page).read_text()
    return [(text[: block.start()].rstrip().rpartition("\n\n")[2], block[1], block[2]) for block in FENCE.finditer(text)]


def environment() -> dict[str, str]:
    """A new terminal's: nothing of ours, and of this virtual environment nothing either."""
    path = ":".join(entry for entry in os.environ["PATH"].split(":") if Path(entry) != Path(sys.executable).parent)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("FEM_", "FDN_", "PREFECT_", "VIRTUAL_ENV"))}
    git = {f"GIT_{who}_{what}": "test@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    return inherited | git | {"PATH": path, "COLUMNS": "120", "LOGNAME": "you"}


def unchanging(text: str) -> str:
    """Without what is another one each time, and with single spaces."""
    return "\n".join(" ".join(CHANGING.sub("~", line).split()) for line in text.splitlines())


class Desk:
    """A person's clone, the terminal in which they type, and the others that they have opened."""

    def __init__(self, folder: Path) -> None:
        self.clone = clone(folder / "clone")
        for name, (long, short) in SHORTER.items():
            text = (self.clone / name).read_text()
            assert long in text
            (self.clone / name).write_text(text.replace(long, short))
        (self.clone / ".venv").symlink_to(Path(sys.executable).parent.parent)
        (self.clone / ".cache").mkdir()
        if (seed := ROOT / ".cache/prefect-seed.db").exists():
            (self.clone / ".cache/prefect-seed.db").symlink_to(seed)
        self.homes, self._exports = folder / "homes", folder / "exports"
        self.homes.mkdir()
        self.pasted = ""
        self.others: list[tuple[subprocess.Popen[str], Path]] = []

    def type(self, script: str) -> subprocess.CompletedProcess[str]:
        self._exports.touch()
        words = f"set -euo pipefail\nsource {self._exports}\n{script}\nexport -p > {self._exports}"
        return subprocess.run(["bash", "-c", words], cwd=self.clone, env=self._environment, capture_output=True, text=True, timeout=SOON)

    def paste(self, line: str) -> None:
        self.pasted = line
        done = self.type(f"source .venv/bin/activate\n{line}")
        assert done.returncode == 0, done.stderr

    def open(self, script: str) -> str:
        """Start it in a terminal of its own; what it has said when it is ready."""
        *first, last = script.strip().splitlines()
        said = self.homes.parent / f"terminal-{len(self.others)}"
        words = "\n".join(["set -e", self.pasted, "source .venv/bin/activate", *first, re.sub(r"^((?:\w+=\S+ )*)", r"\1exec ", last)])
        with said.open("w") as log:
            process = subprocess.Popen(
                # Whoever runs this in the background ignores Ctrl-C, and would hand that on.
                ["env", "--default-signal=INT", "bash", "-c", words], cwd=self.clone, env=self._environment, stdout=log, stderr=log,
                text=True, start_new_session=True,
            )  # fmt: skip
        self.others.append((process, said))
        [ready] = [word for command, word in READY.items() if command in script]

        def up() -> bool:
            assert process.poll() is None, said.read_text()
            return ready in said.read_text()

        eventually(f"{last!r} is ready", up)
        return said.read_text()

    def close(self) -> None:
        """Ctrl-C in each of the others, the latest first."""
        for process, said in reversed(self.others):
            os.killpg(process.pid, signal.SIGINT)
            assert process.wait(SOON) == 0, said.read_text()
        # Prefect leaves a folder of its own there.
        assert list(self.homes.glob("fem-*")) == []

    @property
    def _environment(self) -> dict[str, str]:
        return environment() | {"TMPDIR": str(self.homes)}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """With a federation that runs in another terminal; Ctrl-C ends it without a trace."""
    made = Desk(tmp_path)
    try:
        [exported] = re.findall(r"^export FEM_HOME=.*$", made.open(FEDERATION), re.MULTILINE)
        made.paste(exported)
        yield made
        made.close()
    finally:
        for process, _ in made.others:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("page", PAGES)
def test_what_it_says_works(page: str, desk: Desk) -> None:
    at_least, expected = PAGES[page]
    said, ran, shown = "", 0, ""
    for before, language, block in blocks(page):
        if language == "text":
            shown += block
        if language == "text" or block in BY_CI or block == FEDERATION:
            continue
        if language != "sh":
            # Saved under the name that the page says; a call whose page says none leaves it to the reader.
            named = SAVED.findall(before)
            file = desk.clone / (named[-1] if named else "call.py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block)
            if named:
                continue
            block = "python call.py"
        ran += 1
        if TERMINAL in before:
            said += desk.open(block)
            continue
        executions = EXECUTION.findall(said)
        script = block.replace("EXECUTION", executions[-1] if executions else "EXECUTION")
        done = desk.type(script)
        print(f"$ {script}{done.stdout}{done.stderr}")
        said += done.stdout + done.stderr
        assert done.returncode == 0, script
    assert ran >= at_least
    for words in expected:
        assert words in said
    for line in unchanging(shown).splitlines():
        assert re.search(re.escape(line).replace(re.escape("..."), ".*"), unchanging(said)), line
    # A task may end with one, in its own log.
    assert not re.search(r"^Traceback", said, re.MULTILINE)


def test_the_readme_shows_what_people_look_for_first() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) < 150
    shown = [block for _, language, block in blocks("README.md") if language != "text"]
    for expected in (*BY_CI, FEDERATION, "python ask.py\n"):
        assert expected in shown
    for expected in ("fem run ", "from flows.execute_tool import execute_tool", "fdn-worker init"):
        assert expected in "".join(shown)
    assert {language for page in PAGES for _, language, _ in blocks(page)} == {"sh", "python", "yaml", "text"}
