"""The folders of one attempt at the node, and the outputs that are collected from its sandbox after the end."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from fdn_worker.errors import TaskFailed
from fdn_worker.protocol.base import check_relative_path
from fdn_worker.protocol.manifest import OUTPUTS, ManifestFile


@dataclass(frozen=True)
class RunFolder:
    """`sandbox/` is the task's to write; `inputs/`, `source/` and `log` are the node's."""

    root: Path

    @property
    def sandbox(self) -> Path:
        return self.root / "sandbox"

    @property
    def inputs(self) -> Path:
        return self.root / "inputs"

    @property
    def source(self) -> Path:
        return self.root / "source"

    @property
    def log(self) -> Path:
        return self.root / "log"

    def make(self) -> None:
        """Make the folders; what stands already stays."""
        self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        # A container's user reaches its mounts directly, never through this folder.
        self.sandbox.mkdir(exist_ok=True)
        self.inputs.mkdir(exist_ok=True)

    def remove(self) -> None:
        """Take all of it away. Idempotent."""
        if self.root.exists():
            shutil.rmtree(self.root)


def collect(sandbox: Path, patterns: Sequence[str], *, most_files: int, most_bytes: int) -> list[tuple[ManifestFile, Path]]:
    """The regular files below `sandbox` that match a pattern, hashed, in order of their paths.

    No link is followed, and only files with one name (link count 1) are taken. Raises TaskFailed when a pattern
    matches something else, when a pattern matches nothing, or when the caps are passed.
    """
    matchers = [(pattern, re.compile(_regex(pattern))) for pattern in patterns]
    unmatched = set(patterns)
    found: list[tuple[ManifestFile, Path]] = []
    total = 0
    for path, info in _walk(sandbox):
        hits = [pattern for pattern, matcher in matchers if matcher.fullmatch(path)]
        if not hits:
            continue
        unmatched -= set(hits)
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            raise TaskFailed(
                f"output {path!r} is not a plain file", code="output-refused", remedy="links, devices and pipes stay at the site"
            )
        try:
            check_relative_path(path)
        except ValueError as error:
            raise TaskFailed(f"output {path!r}: {error}", code="output-refused") from error
        total += info.st_size
        if len(found) >= most_files or total > most_bytes:
            raise TaskFailed(f"the outputs pass the node's cap of {most_files:,} files or {most_bytes:,} bytes", code="output-too-big")
        found.append((describe(sandbox / path, OUTPUTS + path), sandbox / path))
    if unmatched:
        raise TaskFailed(
            f"the task left no output that matches {', '.join(map(repr, sorted(unmatched)))}", code="output-missing", remedy="see its log"
        )
    return sorted(found, key=lambda pair: pair[0].path)


def _walk(top: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below `top` but folders: (POSIX path, lstat). Folders are opened without following links."""
    for folder, _, files, handle in os.fwalk(top, follow_symlinks=False):
        for name in files:
            info = os.lstat(name, dir_fd=handle)
            yield (Path(folder).relative_to(top) / name).as_posix(), info


def describe(file: Path, path: str) -> ManifestFile:
    """Size and SHA-256 of what is really in `file`, to be listed as `path`. Fails on a link."""
    with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb", buffering=0) as source:
        digest = hashlib.file_digest(source, "sha256").hexdigest()
        return ManifestFile(path=path, size=source.tell(), sha256=digest)


def _regex(pattern: str) -> str:
    """A glob as a regular expression: `*` and `?` stay within a folder, `**` crosses folders."""
    out, rest = "", pattern
    while rest:
        if rest.startswith("**/"):
            out, rest = out + "(?:.*/)?", rest[3:]
        elif rest.startswith("**"):
            out, rest = out + ".*", rest[2:]
        elif rest[0] == "*":
            out, rest = out + "[^/]*", rest[1:]
        elif rest[0] == "?":
            out, rest = out + "[^/]", rest[1:]
        else:
            out, rest = out + re.escape(rest[0]), rest[1:]
    return out
