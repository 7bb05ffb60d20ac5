"""The folders of an attempt, and what is collected from its sandbox: plain files by pattern, and nothing else."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from fdn_worker.disk import weigh
from fdn_worker.errors import TaskFailed
from fdn_worker.protocol import ManifestFile
from fdn_worker.sandbox import RunFolder, collect, describe


@pytest.fixture
def sandbox(tmp_path: Path) -> Path:
    folder = tmp_path / "sandbox"
    folder.mkdir()
    return folder


def fill(sandbox: Path, *paths: str) -> None:
    for path in paths:
        (sandbox / path).parent.mkdir(parents=True, exist_ok=True)
        (sandbox / path).write_text(path)


def paths(sandbox: Path, *patterns: str, most_files: int = 100, most_bytes: int = 10**6) -> list[str]:
    found = collect(sandbox, patterns, most_files=most_files, most_bytes=most_bytes)
    return [file.path for file, _ in found]


def refused(sandbox: Path, *patterns: str, code: str = "output-refused", **caps: int) -> str:
    with pytest.raises(TaskFailed) as caught:
        paths(sandbox, *patterns, **caps)
    assert caught.value.code == code
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_are_described(sandbox: Path) -> None:
    fill(sandbox, "b.csv", "sub/a.csv")
    (sandbox / "empty").touch()
    found = collect(sandbox, ["**"], most_files=9, most_bytes=99)
    assert found == [
        (ManifestFile(path=f"outputs/{path}", size=len(text), sha256=hashlib.sha256(text.encode()).hexdigest()), sandbox / path)
        for path, text in (("b.csv", "b.csv"), ("empty", ""), ("sub/a.csv", "sub/a.csv"))
    ]


def test_patterns_choose(sandbox: Path) -> None:
    fill(sandbox, "a.csv", "b.txt", "out/c.csv", "out/deep/d.csv", ".hidden")
    assert paths(sandbox, "*.csv") == ["outputs/a.csv"]
    assert paths(sandbox, "**/*.csv") == ["outputs/a.csv", "outputs/out/c.csv", "outputs/out/deep/d.csv"]
    assert paths(sandbox, "out/*") == ["outputs/out/c.csv"]
    assert paths(sandbox, "?.txt", "b.*", "out/**/d.csv") == ["outputs/b.txt", "outputs/out/deep/d.csv"]
    assert paths(sandbox, "*") == ["outputs/.hidden", "outputs/a.csv", "outputs/b.txt"]
    assert paths(sandbox) == []


def test_a_pattern_that_matches_nothing_is_named(sandbox: Path) -> None:
    fill(sandbox, "a.csv")
    (sandbox / "folder.bin").mkdir()
    said = refused(sandbox, "*.csv", "z.txt", "*.bin", code="output-missing")
    assert said == "the task left no output that matches '*.bin', 'z.txt' (see its log)"


@pytest.mark.parametrize("there", [True, False])
def test_a_link_is_refused_wherever_it_leads(sandbox: Path, tmp_path: Path, there: bool) -> None:
    if there:
        (tmp_path / "secret").write_text("secret")
    (sandbox / "out").symlink_to(tmp_path / "secret")
    assert refused(sandbox, "*") == "output 'out' is not a plain file (links, devices and pipes stay at the site)"


def test_a_link_to_a_folder_is_neither_followed_nor_passed_over(sandbox: Path, tmp_path: Path) -> None:
    fill(tmp_path / "data", "patients.csv")
    (sandbox / "out").symlink_to(tmp_path / "data")
    assert "'out' is not a plain file" in refused(sandbox, "**")
    assert "'out/*'" in refused(sandbox, "out/*", code="output-missing")


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _device(path: Path) -> None:
    try:
        os.mknod(path, 0o660 | 0o020000, os.makedev(1, 3))
    except PermissionError:
        _fifo(path)  # only root makes devices


def _hard_link(path: Path) -> None:
    (path.parent.parent / "data").write_text("secret")
    path.hardlink_to(path.parent.parent / "data")


@pytest.mark.parametrize("make", [_fifo, _socket, _device, _hard_link])
def test_what_is_no_plain_file_is_refused_if_it_is_asked_for(
    sandbox: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(sandbox)
    make(Path("../sandbox/odd") if make is _socket else sandbox / "odd")
    fill(sandbox, "plain")
    assert paths(sandbox, "plain") == ["outputs/plain"]
    assert "output 'odd' is not a plain file" in refused(sandbox, "*")


@pytest.mark.parametrize("pattern", ["*", "**", "**/*", "a*"])
def test_a_name_with_a_newline_is_refused_by_every_pattern(sandbox: Path, pattern: str) -> None:
    (sandbox / "a\nb").touch()
    assert "output 'a\\nb': path 'a\\nb' holds a control character (give it a plain name)" in refused(sandbox, pattern)


def test_a_name_that_is_no_unicode_is_refused(sandbox: Path) -> None:
    Path(os.fsdecode(bytes(sandbox) + b"/a\xff")).touch()
    said = refused(sandbox, "*")
    assert "output 'a\\udcff'" in said
    said.encode()


def test_caps_on_files_and_bytes(sandbox: Path) -> None:
    fill(sandbox, "aa", "bb", "cc")
    assert len(paths(sandbox, "*", most_files=3, most_bytes=6)) == 3
    assert "the node's cap of 2 files or 6 bytes" in refused(sandbox, "*", code="output-too-big", most_files=2, most_bytes=6)
    refused(sandbox, "*", code="output-too-big", most_files=3, most_bytes=5)
    assert paths(sandbox, "a*", most_files=1, most_bytes=2) == ["outputs/aa"]


@pytest.mark.parametrize("closed", ["file", "folder"])
def test_what_cannot_be_read_is_told(sandbox: Path, monkeypatch: pytest.MonkeyPatch, closed: str) -> None:
    """Root may read all, so the refusal is played."""
    fill(sandbox, "file", "folder/x")
    real = os.open

    def refusing(path: object, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if str(path).endswith(closed):
            raise PermissionError(13, "Permission denied", path)
        return real(path, flags, mode, dir_fd=dir_fd)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", refusing)
    assert "cannot be read" in refused(sandbox, "**")


def test_folders_without_end_do_no_harm(tmp_path: Path) -> None:
    """As a task might make them. What is told of them is an error that the runner knows, and they do not stay behind."""
    folder = RunFolder(tmp_path / "run")
    folder.make()
    here = os.open(folder.sandbox, os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=here)
        os.close(os.open("file", os.O_CREAT, dir_fd=here))
        os.symlink("/etc", "link", dir_fd=here)
        above, here = here, os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(above)
    os.close(here)
    try:
        assert not weigh(folder.sandbox).whole
        assert "too deep" in refused(folder.sandbox, "d/d/file")
        folder.remove()
        assert not folder.root.exists()
        assert Path("/etc/passwd").exists()
    finally:
        subprocess.run(["rm", "-rf", folder.root], check=True)


def test_describe_follows_no_link(sandbox: Path) -> None:
    fill(sandbox, "a")
    (sandbox / "link").symlink_to("a")
    with pytest.raises(OSError, match="link"):
        describe(sandbox / "link", "outputs/link")


def test_folders_are_made_and_removed_as_often_as_asked(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "runs" / "fdn-1")
    for _ in range(2):
        folder.make()
    assert folder.root.stat().st_mode & 0o077 == 0
    fill(folder.sandbox, "sub/x")
    (folder.sandbox / "sub").chmod(0o500)
    folder.log.touch()
    for _ in range(2):
        folder.remove()
    assert not folder.root.exists()
