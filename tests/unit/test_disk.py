"""What a sandbox weighs, whatever a task does to it, and the watch over it."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from fdn_worker import disk
from fdn_worker.disk import Weight, watching, weigh
from fdn_worker.errors import JournalUnavailable, LauncherUnavailable
from fdn_worker.launchers.open_files import deleted
from tests.support.waiting import SOON

MIB = 1024**2


def test_what_is_really_stored_counts(tmp_path: Path) -> None:
    assert weigh(tmp_path / "gone") == Weight()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/full").write_bytes(b"x" * MIB)
    before = weigh(tmp_path)
    assert MIB <= before.size < MIB + 64 * 1024
    assert before.names == 2
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1024**4)
    os.link(tmp_path / "sub/full", tmp_path / "again")
    (tmp_path / "link").symlink_to("/usr")
    os.mkfifo(tmp_path / "pipe")
    after = weigh(tmp_path)
    assert after.size < before.size + 64 * 1024
    assert (after.names, after.whole) == (6, True)


def test_what_cannot_be_looked_at_is_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed/sub").mkdir(parents=True)
    real = os.open

    def refusing(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if path == "closed":  # as for whoever is not root
            raise PermissionError(13, "Permission denied")
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", refusing)
    assert weigh(tmp_path).exceeds(Weight(MIB, 10))
    monkeypatch.undo()
    assert not weigh(tmp_path).exceeds(Weight(MIB, 10))
    assert weigh(tmp_path).exceeds(Weight(MIB, 1))


def test_a_folder_that_becomes_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    real = os.open

    def swapping(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if path == "sub":
            (tmp_path / "sub").rmdir()
            (tmp_path / "sub").symlink_to("/usr")
        return real(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", swapping)
    assert weigh(tmp_path).names == 1


def test_deleted_files_that_are_open_are_seen(tmp_path: Path) -> None:
    script = "import os, sys; f = open('x', 'wb'); f.write(b'x' * 2**20); f.flush(); os.unlink('x'); print('ready', flush=True); input()"
    task = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert task.stdout is not None
        task.stdout.readline()
        device = tmp_path.stat().st_dev
        assert weigh(tmp_path).size == 0
        assert MIB <= deleted([task.pid, 2**22 + 1], device) < 2 * MIB
        assert deleted([task.pid], device + 1) == 0
    finally:
        task.communicate(b"\n")


class Launcher:
    """Holds so many bytes of deleted files, or does not answer."""

    def __init__(self, held: int | None) -> None:
        self.held = held

    def unlinked(self, name: str, folder: Path) -> int:
        if self.held is None:
            raise LauncherUnavailable("no engine")
        return self.held


@pytest.mark.parametrize("held", [0, None, 2 * MIB])
def test_a_sandbox_that_grows_is_noticed_once_and_while_the_task_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held: int | None
) -> None:
    monkeypatch.setattr(disk, "EVERY", 0.01)
    told: list[str] = []
    noticed = threading.Event()

    def exceeded() -> None:
        told.append("")
        if len(told) == 1:
            raise JournalUnavailable("full")  # then it is told again
        noticed.set()

    launcher: Any = Launcher(held)
    with watching(launcher, "fdn-1", tmp_path, Weight(MIB, 100), exceeded):
        if not held:
            (tmp_path / "x").write_bytes(b"x" * 2 * MIB)
        assert noticed.wait(SOON)
        (tmp_path / "x").unlink(missing_ok=True)
    assert len(told) == 2


def test_what_came_between_the_last_look_and_the_end_is_noticed(tmp_path: Path) -> None:
    told: list[str] = []
    with watching(Launcher(0), "fdn-1", tmp_path, Weight(MIB, 100), lambda: told.append("")):  # type: ignore[arg-type]
        pass
    assert told == []
    with watching(Launcher(0), "fdn-1", tmp_path, Weight(MIB, 100), lambda: told.append("")):  # type: ignore[arg-type]
        (tmp_path / "x").write_bytes(b"x" * 2 * MIB)
    assert told == [""]
