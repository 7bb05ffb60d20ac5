"""Files that processes hold open though they were deleted: no walk through a folder finds them, and the disk has them all the same."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path


def processes(container: str) -> Iterator[int]:
    """Of the container of that id, by their cgroups; none where they cannot be seen."""
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                found = container in Path(entry.path, "cgroup").read_text()
            except OSError:
                continue  # ended meanwhile
            if found:
                yield int(entry.name)


def deleted(pids: Iterable[int], device: int) -> int:
    """Bytes of deleted files on that device that these processes have open; each file counts once."""
    found: dict[int, int] = {}
    for pid in pids:
        for info in _open_files(Path(f"/proc/{pid}/fd")):
            if stat.S_ISREG(info.st_mode) and info.st_nlink == 0 and info.st_dev == device:
                found[info.st_ino] = info.st_blocks * 512
    return sum(found.values())


def _open_files(folder: Path) -> Iterator[os.stat_result]:
    try:
        for entry in folder.iterdir():
            # Closed since it was listed, one is not there.
            with suppress(FileNotFoundError):
                yield entry.stat()
    except OSError:
        return  # ended meanwhile, or another user's
