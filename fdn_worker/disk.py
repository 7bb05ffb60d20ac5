"""What a folder takes of its disk, and the watch that ends a task whose sandbox takes more than it asked for.

Docker can limit a folder's size on xfs with project quotas alone, so it is looked at from outside, once a second or so. Until
the next look a task may write what its disk takes in that time.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fdn_worker.errors import JournalUnavailable, SystemFault
from fdn_worker.launchers import Launcher, Weighable

log = logging.getLogger(__name__)

#: Seconds between two looks at a sandbox; longer where a look itself takes long, so that it has a tenth of a processor at most.
EVERY, _SHARE = 1.0, 9.0
#: Folders in folders below which nothing is counted any more.
DEEPEST = 200
#: Bytes that a file system may add for itself: whole blocks, folders.
_ROUNDING = 256 * 1024
#: What is said of an entry that is gone, or something else, since it was listed.
_CHANGED = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass
class Weight:
    """What lies in a folder."""

    #: Really stored: a sparse file counts for what it holds, and one of several names once.
    size: int = 0
    #: Files, folders and whatever else has a name.
    names: int = 0
    #: False where some of it cannot be looked at: too deep, or closed to the worker.
    whole: bool = True

    def exceeds(self, most: Weight) -> bool:
        """What cannot be looked at is too much, too."""
        return self.size > most.size + _ROUNDING or self.names > most.names or not self.whole


def weigh(top: Path) -> Weight:
    """All below `top`, while a task may be changing it; no link is followed. A folder that is not there weighs nothing."""
    weight = Weight()
    try:
        handle = os.open(top, _FOLDER)
    except FileNotFoundError:
        return weight
    _add(handle, weight, set(), DEEPEST)
    return weight


def _add(handle: int, weight: Weight, seen: set[int], depth: int) -> None:
    """What lies in the open folder, which is closed at the end. Paths could be longer than the system takes, so none are made."""
    try:
        with os.scandir(handle) as entries:
            for entry in entries:
                try:
                    info = entry.stat(follow_symlinks=False)
                    weight.names += 1
                    if info.st_nlink == 1 or stat.S_ISDIR(info.st_mode) or info.st_ino not in seen:
                        weight.size += info.st_blocks * 512
                    if stat.S_ISDIR(info.st_mode):
                        if depth == 0:
                            weight.whole = False
                        else:
                            _add(os.open(entry.name, _FOLDER, dir_fd=handle), weight, seen, depth - 1)
                    elif info.st_nlink > 1:
                        seen.add(info.st_ino)
                except PermissionError:
                    weight.whole = False
                except OSError as error:
                    if error.errno not in _CHANGED:
                        raise
    finally:
        os.close(handle)


@contextmanager
def watching(launcher: Launcher, name: str, sandbox: Path, most: Weight, exceeded: Callable[[], None]) -> Iterator[None]:
    """Inside, the attempt runs: `exceeded` is called once its sandbox weighs more than `most`; looked at once more at the end."""

    def watch() -> None:
        pause = EVERY
        while not done.wait(pause):
            began = time.monotonic()
            try:
                weight = weigh(sandbox)
                weight.size += _unlinked(launcher, name, sandbox)
                if weight.exceeds(most):
                    return exceeded()
            except (JournalUnavailable, OSError) as error:
                log.warning("%s: its sandbox cannot be watched: %s", name, error, extra={"action": "watch-waits"})
            pause = max(EVERY, _SHARE * (time.monotonic() - began))
        return None

    done = threading.Event()
    thread = threading.Thread(target=watch, name=f"disk-{name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
    if weigh(sandbox).exceeds(most):
        exceeded()


def _unlinked(launcher: Launcher, name: str, sandbox: Path) -> int:
    try:
        return launcher.unlinked(name, sandbox) if isinstance(launcher, Weighable) else 0
    except SystemFault as error:
        # An engine that does not answer, or a task that has just ended: whoever follows it will tell.
        log.debug("%s: its open files cannot be looked at: %s", name, error)
        return 0
