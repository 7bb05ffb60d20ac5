"""Results that stay at the site: folders of the sandbox, copied to one of the site's shelves after success.

A copy is whole or not there: it is made under another name and renamed. What lies at its place already is not touched.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from fdn_worker import folders
from fdn_worker.errors import SystemFault, TaskFailed
from fdn_worker.protocol import Move, TaskOrder
from fdn_worker.sandbox import RunFolder, remove_tree, walk
from fdn_worker.settings import WorkerSettings


def shelve(order: TaskOrder, folder: RunFolder, settings: WorkerSettings) -> None:
    """Make the order's moves; a second time, after a kill, only those that were not made.

    Raises TaskFailed (move-refused, move-exists), PolicyRefused, or SystemFault (shelf-unavailable).
    """
    for number, move in enumerate(order.moves):
        try:
            _shelve(order, move, folder, settings, folder.root / f"moved-{number}")
        except OSError as error:
            raise SystemFault(f"shelf {move.shelf!r}: {error.strerror}", code="shelf-unavailable", remedy="tell the site") from error


def _shelve(order: TaskOrder, move: Move, folder: RunFolder, settings: WorkerSettings, mark: Path) -> None:
    shelf = folders.shelf(move.shelf, settings)
    target = shelf / move.to
    if target.exists():
        # The rename is the last thing done, so what bears the mark of this attempt is whole.
        if mark.exists() and mark.read_text() == _identity(target):
            return
        raise TaskFailed(
            f"{move.to!r} is on shelf {move.shelf!r} already", code="move-exists", remedy="take another name, such as the execution's id"
        )
    source = _left(move.source, folder.sandbox)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.parent.resolve().is_relative_to(shelf):
        raise TaskFailed(f"{move.to!r} leads out of shelf {move.shelf!r}", code="move-refused", remedy="take another name")
    draft = target.with_name(f".{order.name}.{mark.name}")
    if draft.exists():
        remove_tree(draft)
    try:
        _copy(source, draft)
    except (TaskFailed, OSError):
        remove_tree(draft)
        raise
    mark.write_text(_identity(draft))
    draft.rename(target)


def _identity(folder: Path) -> str:
    """It stays the same when the folder is renamed."""
    info = folder.stat()
    return f"{info.st_dev}:{info.st_ino}"


def _left(below: str, sandbox: Path) -> Path:
    """The folder that the task left; no link leads to it."""
    source = sandbox / below
    if source.resolve() != sandbox.resolve() / below or not source.is_dir():
        raise TaskFailed(f"the task left no folder {below!r}", code="move-refused", remedy="see its log")
    return source


def _copy(source: Path, target: Path) -> None:
    target.mkdir(mode=0o755)
    for path, info in walk(source):
        if not stat.S_ISREG(info.st_mode) or info.st_nlink != 1:
            raise TaskFailed(
                f"{path!r} in {source.name!r} is not a plain file", code="move-refused", remedy="links, devices and pipes are not kept"
            )
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(source / path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as data, file.open("xb") as copy:
            shutil.copyfileobj(data, copy, 1024**2)
