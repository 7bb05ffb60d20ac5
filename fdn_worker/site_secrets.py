"""The site's secrets: files of its own that a task is given to read, from memory, for as long as it runs.

Messages, records and Docker know their names alone: a variable of a container is shown to whoever may ask Docker for it. Where a
task prints one of them as it stands, its log has `[secret]` there; what it writes elsewhere is the release's matter.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from fdn_worker.errors import PolicyRefused, SystemFault
from fdn_worker.protocol import TaskOrder
from fdn_worker.settings import WorkerSettings

#: Bytes of one secret at most.
MOST = 64 * 1024
#: Characters of a line that is short enough to stand in any log by chance.
_SHORT = 6
_IN_MEMORY = ("tmpfs", "ramfs")


def check(name: str, settings: WorkerSettings) -> Path:
    """The secret's file. PolicyRefused when there is none that the worker can read; where it stands is told to nobody elsewhere."""
    if name not in settings.secrets:
        raise PolicyRefused(f"node {settings.node} has no secret {name!r}", code="secret-unknown", remedy="ask the site for it")
    path = settings.secrets[name]
    if not path.is_file() or not os.access(path, os.R_OK) or path.stat().st_size > MOST:
        raise PolicyRefused(
            f"secret {name!r} of node {settings.node} cannot be read, or is larger than {MOST:,} bytes", code="secret-unavailable",
            remedy="tell the site",
        )  # fmt: skip
    return path


def place(settings: WorkerSettings) -> Path:
    """The worker's own folder in memory, made if it is not there. Raises SystemFault (secrets-place)."""
    folder = _folder(settings)
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        info = folder.lstat()
    except OSError as error:
        raise _unfit(f"cannot be made: {error.strerror}") from error
    # Anybody may make a folder in /dev/shm.
    if not folder.is_dir() or folder.is_symlink() or info.st_uid != os.geteuid() or info.st_mode & 0o077:
        raise _unfit("is not the worker's own")
    if _kind(info.st_dev) not in _IN_MEMORY:
        raise _unfit("is on a disk")
    return folder


def lay(order: TaskOrder, settings: WorkerSettings) -> Path | None:
    """The folder with the order's secrets; None when it asks for none. What stands there already stays: a container may have it mounted."""
    if not order.secrets:
        return None
    folder = place(settings) / order.name
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in order.secrets:
        if not (folder / name).exists():
            content, partial = check(name, settings).read_bytes(), folder / f".{name}"
            partial.unlink(missing_ok=True)
            with open(partial, "xb", opener=lambda path, flags: os.open(path, flags, 0o400)) as file:
                file.write(content)
            partial.rename(folder / name)
    return folder


def lines(order: TaskOrder, settings: WorkerSettings) -> tuple[str, ...]:
    """What no log line of the order's task may hold: each line of its secrets, the longest first."""
    if not order.secrets:
        return ()
    folder = place(settings) / order.name
    found = {line.strip() for file in folder.glob("[!.]*") for line in file.read_text(errors="replace").splitlines()}
    return tuple(sorted((line for line in found if len(line) >= _SHORT), key=len, reverse=True))


def clear(name: str, settings: WorkerSettings) -> None:
    """Take the attempt's secrets out of memory. Idempotent."""
    shutil.rmtree(_folder(settings) / name, ignore_errors=True)


def laid(settings: WorkerSettings) -> set[str]:
    """Names of the attempts whose secrets are in memory."""
    return {folder.name for folder in _folder(settings).glob("*")}


def _folder(settings: WorkerSettings) -> Path:
    return settings.secrets_dir / f"fdn-worker-{settings.node}"


def _unfit(what: str) -> SystemFault:
    return SystemFault(
        f"secrets cannot be given: their folder below secrets_dir {what}", code="secrets-place",
        remedy="the site may set secrets_dir to a folder on a tmpfs",
    )  # fmt: skip


def _kind(device: int) -> str:
    """The type of the file system that is mounted as that device."""
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, system = line.partition(" - ")
        if mount.split()[2] == number:
            return system.split()[0]
    return ""
