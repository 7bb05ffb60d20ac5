"""A cgroup of the worker's own around each container: it outlives the container, so its figures can be read at leisure.

With the `cgroupfs` driver it is `<parent>/<name>`, a plain folder, taken away by rmdir. With the `systemd` driver Docker
wants a slice: `fdn-<name>.slice` below `fdn.slice`; systemd keeps an empty slice loaded, so it is stopped by
`systemctl stop`. Both hierarchies are read: v1 (one folder for each controller) and v2.
"""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from fdn_worker.protocol import Usage

log = logging.getLogger(__name__)

#: Seconds to wait for the kernel to let go of a container's cgroup.
_PATIENCE = 2.0


@dataclass(frozen=True)
class Cgroups:
    """`driver` is Docker's: "cgroupfs" or "systemd"."""

    parent: str = "/fdn"
    driver: str = "cgroupfs"
    root: Path = Path("/sys/fs/cgroup")

    @property
    def unified(self) -> bool:
        """Whether this is cgroup v2."""
        return (self.root / "cgroup.controllers").exists()

    @property
    def usable(self) -> bool:
        """Whether the worker may clear away what it has made here: root on the host, not in a container of its own."""
        return bool(self.parent) and os.access(self.root if self.unified else self.root / "memory", os.W_OK)

    def of(self, name: str) -> str:
        """What Docker is told as the container's cgroup parent."""
        return self._slice(name) if self.driver == "systemd" else f"{self.parent}/{name}"

    def _slice(self, name: str) -> str:
        # A dash in a slice's name is a level of its own, so only the one after the parent stays.
        return f"{self.parent.strip('/').replace('-', '_')}-{name.replace('-', '_')}.slice"

    def _path(self, name: str) -> str:
        if self.driver == "systemd":
            return f"{self.parent.strip('/').replace('-', '_')}.slice/{self._slice(name)}"
        return f"{self.parent.strip('/')}/{name}"

    def read(self, name: str) -> Usage:
        """CPU seconds and peak memory; marked as estimated where a figure could not be read."""
        path = self._path(name)
        if self.unified:
            cpu = _number(self.root / path / "cpu.stat", "usage_usec", 1e6)
            peak = _number(self.root / path / "memory.peak")
        else:
            cpu = _number(self.root / "cpuacct" / path / "cpuacct.usage", scale=1e9)
            peak = _number(self.root / "memory" / path / "memory.max_usage_in_bytes")
        return Usage(cpu_seconds=cpu or 0.0, peak_memory=int(peak or 0), estimated=cpu is None or peak is None)

    def drop(self, name: str) -> None:
        """Take the attempt's cgroup away. Idempotent; what cannot be taken away is logged."""
        path = self._path(name)
        folders = [folder for folder in (self.root / path, *self.root.glob(f"*/{path}")) if folder.is_dir()]
        if not folders:
            return
        try:
            if self.driver == "systemd":
                subprocess.run(["systemctl", "stop", "--no-block", self._slice(name)], check=True, capture_output=True, timeout=10)
            else:
                for folder in folders:
                    _rmdir(folder)
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("cgroup %s stays behind: %s", path, error, extra={"action": "cgroup-left"})


def _number(file: Path, key: str = "", scale: float = 1) -> float | None:
    """The number in `file`, or after `key` in it, divided by `scale`; None when it is not there."""
    try:
        words = file.read_text().split()
    except OSError:
        return None
    if key:
        words = words[words.index(key) + 1 :] if key in words else []
    return float(words[0]) / scale if words else None


def _rmdir(folder: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return folder.rmdir()
        except FileNotFoundError:
            return None
        except OSError as error:
            # The container's own cgroup inside goes a moment after the container.
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY) or time.monotonic() > until:
                raise
            time.sleep(0.01)
