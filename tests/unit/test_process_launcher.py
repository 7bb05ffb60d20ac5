"""The process launcher's own: it survives the worker, its server and its keeper; the whole tree ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fdn_worker.errors import LauncherUnavailable, RunVanished, TaskFailed
from fdn_worker.launchers import LaunchSpec
from fdn_worker.launchers.process import ProcessLauncher
from fdn_worker.launchers.process_log import Tail
from fdn_worker.launchers.process_tree import Keeper
from fdn_worker.launchers.shim import processes
from fdn_worker.testing import run, spec_of, texts
from tests.support.waiting import eventually

UNTIL_GO = "until [ -e go ]; do sleep 0.02; done"


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = tmp_path / "state"
    root.mkdir()
    yield root
    for home in root.iterdir():
        ProcessLauncher(root=root).remove(home.name)


@pytest.fixture
def launcher(root: Path) -> ProcessLauncher:
    return ProcessLauncher(root=root)


def shell(tmp_path: Path, script: str, name: str = "a") -> LaunchSpec:
    return spec_of(name, "north", ("/bin/sh", "-c", script), tmp_path / f"sandbox-{name}")


def keeper_of(root: Path, name: str = "a") -> Keeper:
    keeper = Keeper.of(root / name)
    assert keeper is not None
    return keeper


def wait_for(path: Path) -> str:
    eventually(f"{path} comes", lambda: path.exists() and path.read_text().endswith("\n"))
    return path.read_text()


def alive(pid: int) -> bool:
    """A zombie, which whoever adopted it may take a while to reap, is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_killed_worker_loses_nothing(root: Path, tmp_path: Path) -> None:
    spec = shell(tmp_path, f"echo $$ > pid; echo one; {UNTIL_GO}; echo two; exit 3")
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(root), str(spec.sandbox), spec.argv[2]],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "one\n"
    os.killpg(worker.pid, signal.SIGINT)
    os.killpg(worker.pid, signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    assert alive(int(wait_for(spec.sandbox / "pid")))
    (spec.sandbox / "go").touch()
    ended, lines = run(ProcessLauncher(root=root), spec)
    assert (ended.code, texts(lines)) == (3, ["one", "two"])


WORKER = """
import sys
from pathlib import Path
from fdn_worker.launchers.process import ProcessLauncher
from fdn_worker.testing import spec_of
launcher = ProcessLauncher(root=sys.argv[1])
launcher.start(spec_of("a", "north", ("/bin/sh", "-c", sys.argv[3]), Path(sys.argv[2])))
launcher.follow("a", lambda line: print(line.text, flush=True))
"""


def test_the_server_ends_with_its_worker_and_is_started_anew_when_it_dies(launcher: ProcessLauncher, tmp_path: Path) -> None:
    before = servers()
    run(launcher, shell(tmp_path, "exit 0", "a"))
    (server,) = servers() - before
    os.kill(server, signal.SIGKILL)
    assert run(launcher, shell(tmp_path, "exit 8", "b"))[0].code == 8
    (second,) = servers() - before
    assert second != server
    del launcher._server
    eventually("its server ends", lambda: not servers() - before)


def servers() -> set[int]:
    """Servers that this process has started and that live."""
    return {found.pid for found in processes() if found.parent == os.getpid() and b"shim.py" in _command_line(found.pid)}


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_a_killed_keeper_is_a_vanished_run_and_its_tree_goes(launcher: ProcessLauncher, root: Path, tmp_path: Path) -> None:
    spec = shell(tmp_path, "(echo $$ > main; sh -c 'echo $$ > child; exec sleep 1000') & wait")
    launcher.start(spec)
    child = int(wait_for(spec.sandbox / "child"))
    os.kill(keeper_of(root).pid, signal.SIGKILL)
    with pytest.raises(RunVanished, match="keeper was killed"):
        launcher.follow("a", print)
    launcher.start(spec)
    with pytest.raises(RunVanished):
        launcher.follow("a", print)
    launcher.remove("a")
    eventually("its tree goes", lambda: not alive(child))


def test_a_daemon_of_its_own_session_ends_with_the_task(launcher: ProcessLauncher, tmp_path: Path) -> None:
    script = "setsid sh -c 'sh -c \"echo \\$\\$ > daemon; exec sleep 1000\" &' ; until [ -s daemon ]; do sleep 0.01; done; exit 1"
    spec = shell(tmp_path, script)
    assert run(launcher, spec)[0].code == 1
    assert not alive(int((spec.sandbox / "daemon").read_text()))


def test_a_pid_used_again_is_not_taken_for_the_keeper(launcher: ProcessLauncher, root: Path) -> None:
    (root / "a").mkdir()
    (root / "a/claim").write_text(json.dumps({"pid": os.getpid(), "started": 1, "node": "north"}) + "\n")
    with pytest.raises(RunVanished):
        launcher.follow("a", print)
    launcher.stop("a", 0)
    launcher.remove("a")


def test_the_log_is_capped_and_says_so(root: Path, tmp_path: Path) -> None:
    launcher = ProcessLauncher(root=root, log_limit=1000)
    ended, lines = run(launcher, shell(tmp_path, "yes 123456789 | head -n 300; exit 4"))
    assert ended.code == 4
    assert texts(lines) == ["123456789"] * 100 + ["", "[the log is full: 2000 bytes dropped]"]


def test_limits_signals_and_descriptors_are_clean(launcher: ProcessLauncher, tmp_path: Path) -> None:
    script = "ulimit -c; ulimit -n; ulimit -f; ulimit -d; ls /proc/$$/fd; grep -E '^Sig(Ign|Blk)' /proc/self/status; readlink /proc/$$/fd/0"
    spec = shell(tmp_path, script)
    spec = replace(spec, resources=spec.resources.model_copy(update={"memory": 512 * 1024**2, "disk": 1024**2}))
    core, files, size, data, *rest = texts(run(launcher, spec)[1])
    assert (core, files, size, data) == ("0", "4096", "2048", str(512 * 1024))
    *descriptors, blocked, ignored, stdin = rest
    assert (descriptors, blocked, stdin) == (["0", "1", "2"], "SigBlk:\t0000000000000000", "/dev/null")
    # 32 and 33 are the C library's own: whoever started us may ignore them, and nobody can tell it otherwise.
    assert int(ignored.partition(":")[2], 16) & ~(0b11 << 31) == 0


def test_memory_is_limited(launcher: ProcessLauncher, tmp_path: Path) -> None:
    spec = spec_of("a", "north", (sys.executable, "-c", "bytearray(300 * 1024**2)"), tmp_path / "sandbox")
    ended, lines = run(launcher, replace(spec, resources=spec.resources.model_copy(update={"memory": 200 * 1024**2})))
    assert (ended.code, texts(lines)[-1]) == (1, "MemoryError")


@pytest.mark.parametrize("content", [None, "no interpreter line"])
def test_what_cannot_be_executed_leaves_nothing(content: str | None, launcher: ProcessLauncher, root: Path, tmp_path: Path) -> None:
    tool = tmp_path / "tool"
    if content:
        tool.write_text(content)
    with pytest.raises(TaskFailed) as caught:
        launcher.start(spec_of("a", "north", (str(tool),), tmp_path / "sandbox"))
    assert caught.value.code == "command-not-found"
    assert str(tool) in str(caught.value)
    assert list(root.iterdir()) == []


def test_a_missing_sandbox_is_our_fault(launcher: ProcessLauncher, root: Path, tmp_path: Path) -> None:
    spec = shell(tmp_path, "exit 0")
    spec.sandbox.rmdir()
    with pytest.raises(LauncherUnavailable, match="sandbox-a"):
        launcher.start(spec)
    assert list(root.iterdir()) == []


def test_a_command_is_looked_for_on_the_nodes_path(root: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/tool").write_text("#!/bin/sh\necho found\n")
    (tmp_path / "bin/tool").chmod(0o755)
    launcher = ProcessLauncher(root=root, path=f"{tmp_path}/bin:/bin:/usr/bin")
    assert texts(run(launcher, spec_of("a", "north", ("tool",), tmp_path / "sandbox"))[1]) == ["found"]


def test_tail_takes_up_a_line_that_is_still_being_written(tmp_path: Path) -> None:
    file = tmp_path / "log"
    tail = Tail(file, "")
    assert list(tail.lines()) == []
    file.write_bytes(b"one\ntw")
    first = list(tail.lines())
    assert texts(first) == ["one"]
    with file.open("ab") as more:
        more.write(b"o\nthree")
    assert texts(list(tail.lines())) == ["two"]
    assert texts(list(tail.lines(last=True))) == ["three"]
    assert texts(list(Tail(file, first[0].cursor).lines(last=True))) == ["two", "three"]
