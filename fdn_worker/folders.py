"""The site's folders that an order may name: datasets, paths of the host, shelves. Each is real, and lies where the site allows.

All raise PolicyRefused; where a folder leads is told to nobody elsewhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from fdn_worker.errors import PolicyRefused
from fdn_worker.globs import Glob
from fdn_worker.protocol import Mount, TaskOrder
from fdn_worker.settings import WorkerSettings


def dataset(name: str, settings: WorkerSettings) -> Path:
    """The real folder of a dataset, which must lie under one of the site's data roots, links resolved."""
    real = _named("dataset", name, settings.datasets, settings.node)
    if not _inside(real, settings.data_roots):
        what = f"dataset {name!r} of node {settings.node}"
        raise PolicyRefused(f"{what} leads outside its data roots", code="dataset-refused", remedy="tell the site")
    return real


def mounted(mount: Mount, settings: WorkerSettings) -> Path:
    """What a mount of a dataset, or of a path of the host, really is."""
    if mount.kind == "dataset":
        name, _, below = mount.source.partition("/")
        folder = dataset(name, settings)
        real = _real(folder / below, f"{mount.source!r} of node {settings.node}", "dataset-unavailable")
        if not _inside(real, (folder,)):
            raise PolicyRefused(f"{mount.source!r} leads out of its dataset at node {settings.node}", code="dataset-refused")
        return real
    path = Path(mount.source)
    what = f"path {mount.source!r} of node {settings.node}"
    # First by its name alone: whether anything is there is told only where the site has named it.
    if not any(path.is_relative_to(root) for root in settings.host_paths):
        raise PolicyRefused(f"node {settings.node} does not give {mount.source!r} to tasks", code="mounts-refused", remedy="name a dataset")
    real = _real(path, what, "mounts-refused")
    if not _inside(real, settings.host_paths):
        raise PolicyRefused(f"{what} leads out of what the site gives to tasks", code="mounts-refused", remedy="tell the site")
    return real


def in_sandbox(below: str, sandbox: Path) -> Path:
    """The real folder `below` in a sandbox, made if it is not there. An earlier task may have left links: none leads out."""
    top = sandbox.resolve()
    folder = top
    for part in Path(below).parts:
        folder /= part
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise PolicyRefused(f"{below!r} is no folder in the sandbox", code="mounts-refused", remedy="take another, or a fresh sandbox")
        folder.mkdir(exist_ok=True)
    return folder


def shelf(name: str, settings: WorkerSettings) -> Path:
    """The real folder of a shelf."""
    return _named("shelf", name, settings.shelves, settings.node)


def _named(kind: str, name: str, named: Mapping[str, Path], node: str) -> Path:
    if name not in named:
        raise PolicyRefused(
            f"node {node} has no {kind} {name!r}", code=f"{kind}-unknown", remedy=f"it offers {', '.join(sorted(named)) or 'none'}"
        )
    what, code = f"{kind} {name!r} of node {node}", f"{kind}-unavailable"
    real = _real(named[name], what, code)
    if not real.is_dir():
        raise PolicyRefused(f"{what} is not a folder", code=code, remedy="tell the site")
    return real


def check(order: TaskOrder, settings: WorkerSettings) -> None:
    """Refuse unless each of the order's patterns matches something below its datasets. Takes as long as they are large."""
    names = {*order.datasets, *(mount.source.partition("/")[0] for mount in order.mounts if mount.kind == "dataset")}
    missing = [pattern for pattern in order.checks if not any(_holds(name, pattern, settings) for name in sorted(names))]
    if missing:
        raise PolicyRefused(
            f"nothing in the task's datasets at node {settings.node} matches {', '.join(map(repr, missing))}", code="check-failed",
            remedy="the first part of a pattern is the dataset; tell the site if data is missing",
        )  # fmt: skip


def _holds(name: str, pattern: str, settings: WorkerSettings) -> bool:
    first, *parts = pattern.split("/")
    glob = Glob(pattern)
    # A `**` may stand for more than the dataset's name.
    crossing = "**" in first
    if not crossing and not Glob(first).matches(name):
        return False
    folder = dataset(name, settings)
    fixed = [] if crossing else list(_plain(parts))
    begin = _real_or_none(folder.joinpath(*fixed))
    if begin is None or not _inside(begin, (folder,)):
        return False
    prefix = "/".join((name, *fixed))
    return glob.matches(prefix) or any(glob.matches(f"{prefix}/{path}") for path in _walk(begin))


def _plain(parts: Iterable[str]) -> Iterator[str]:
    """The parts before the first that holds a wildcard: what lies beside them need not be looked at."""
    for part in parts:
        if "*" in part or "?" in part:
            return
        yield part


def _walk(top: Path) -> Iterator[str]:
    """Everything below, as POSIX paths; links are named and not followed."""
    for folder, folders, files in os.walk(top):
        place = Path(folder).relative_to(top)
        yield from ((place / name).as_posix() for name in folders + files)


def _inside(real: Path, roots: Iterable[Path]) -> bool:
    return any(real.is_relative_to(root) for root in map(_real_or_none, roots) if root is not None)


def _real(path: Path, what: str, code: str) -> Path:
    real = _real_or_none(path)
    if real is None:
        raise PolicyRefused(f"{what} cannot be read, or is not there", code=code, remedy="tell the site")
    return real


def _real_or_none(path: Path) -> Path | None:
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError):  # a RuntimeError tells of links in a circle
        return None
