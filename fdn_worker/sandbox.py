"""The folders of one attempt at the node, and the outputs that are collected from its sandbox after the end."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from fdn_worker.errors import TaskFailed
from fdn_worker.globs import Glob
from fdn_worker.protocol.base import check_relative_path
from fdn_worker.protocol.manifest import LOG_PATH, OUTPUTS, ManifestFile


@dataclass(frozen=True)
class RunFolder:
    """`sandbox/` is the task's to write; `inputs/`, `source/` and `log` are the node's."""

    root: Path
    #: Folder that holds the sandbox instead, when that outlives the attempt.
    kept: Path | None = None

    @property
    def sandbox(self) -> Path:
        return (self.kept or self.root) / "sandbox"

    @property
    def inputs(self) -> Path:
        return self.root / "inputs"

    @property
    def source(self) -> Path:
        return self.root / "source"

    @property
    def log(self) -> Path:
        return self.root / "log"

    def listed(self, path: str) -> Path:
        """The file that a manifest lists as `path`."""
        return self.log if path == LOG_PATH else self.sandbox / path.removeprefix(OUTPUTS)

    def make(self) -> None:
        """Make the folders; what stands already stays."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.kept is not None:
            self.kept.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.used()
        # A container's user reaches its mounts directly, never through this folder.
        self.sandbox.mkdir(exist_ok=True)

    def used(self) -> None:
        """A kept sandbox was in use now: its age is told by the folder around it, in which no task can write."""
        if self.kept is not None and self.kept.exists():
            os.utime(self.kept)

    def remove(self) -> None:
        """Take all of it away but a kept sandbox. Idempotent."""
        if self.root.exists():
            remove_tree(self.root)


def remove_tree(root: Path) -> None:
    """Take a folder away with all that a task made in it."""
    try:
        shutil.rmtree(root)
    except (PermissionError, RecursionError):
        # A task may close its folders to whoever is not root, or put them so deep in each other that they have no path.
        _flatten(root)
        shutil.rmtree(root)


def _flatten(root: Path) -> None:
    """Open all folders below and bring them to the top; whatever else they hold goes."""
    waiting = [path for path in root.iterdir() if _is_folder(path)]
    while waiting:
        folder = waiting.pop()
        folder.chmod(0o700)
        for path in folder.iterdir():
            if _is_folder(path):
                path.chmod(0o700)  # or it could not be moved
                waiting.append(path.rename(root / uuid4().hex))
            else:
                path.unlink()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def collect(sandbox: Path, patterns: Sequence[str], *, most_files: int, most_bytes: int) -> list[tuple[ManifestFile, Path]]:
    """The regular files below `sandbox` that match a pattern, hashed, in order of their paths.

    No link is followed, and only files with one name (link count 1) are taken. Raises TaskFailed when a pattern
    matches something else, when a pattern matches nothing, or when the caps are passed.
    """
    if not patterns:
        return []
    globs = [(pattern, Glob(pattern)) for pattern in patterns]
    unmatched = set(patterns)
    found: list[tuple[ManifestFile, Path]] = []
    total = 0
    for path, info in walk(sandbox):
        hits = [pattern for pattern, glob in globs if glob.matches(path)]
        if not hits:
            continue
        unmatched -= set(hits)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            raise TaskFailed(
                f"output {path!r} is not a plain file", code="output-refused", remedy="links, devices and pipes stay at the site"
            )
        try:
            check_relative_path(path).encode()
        except ValueError as error:
            raise TaskFailed(f"output {path!r}: {error}", code="output-refused", remedy="give it a plain name") from error
        total += info.st_size
        if len(found) >= most_files or total > most_bytes:
            raise TaskFailed(f"the outputs pass the node's cap of {most_files:,} files or {most_bytes:,} bytes", code="output-too-big")
        try:
            found.append((describe(sandbox / path, OUTPUTS + path), sandbox / path))
        except OSError as error:
            raise TaskFailed(f"output {path!r} cannot be read: {error.strerror}", code="output-refused") from error
    if unmatched:
        raise TaskFailed(
            f"the task left no output that matches {', '.join(map(repr, sorted(unmatched)))}", code="output-missing", remedy="see its log"
        )
    return sorted(found, key=lambda pair: pair[0].path)


def walk(top: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below `top` but folders: (POSIX path, lstat). Folders are opened without following links."""

    def refuse(error: OSError) -> None:
        raise _unreadable(error) from error

    try:
        for folder, folders, files, handle in os.fwalk(top, follow_symlinks=False, onerror=refuse):
            # a link to a folder stands among the folders
            for name in folders + files:
                info = os.lstat(name, dir_fd=handle)
                if not stat.S_ISDIR(info.st_mode):
                    yield (Path(folder).relative_to(top) / name).as_posix(), info
    except RecursionError as error:
        raise TaskFailed("the sandbox's folders lie too deep in each other", code="output-refused") from error


def _unreadable(error: OSError) -> TaskFailed:
    return TaskFailed(f"output {error.filename!r} cannot be read: {error.strerror}", code="output-refused", remedy="mend its mode")


def describe(file: Path, path: str) -> ManifestFile:
    """Size and SHA-256 of what is really in `file`, to be listed as `path`. Fails on a link."""
    with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0) as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
        return ManifestFile(path=path, size=source.tell(), sha256=digest)
