"""The images that this node's worker has pulled: what it brought here it may take away again, and nothing else of the site's.

A file each in the launcher's folder, named by the reference's hash; its time is that of the last use.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fdn_worker.errors import TaskFailed
from fdn_worker.launchers.docker_engine import Engine
from fdn_worker.launchers.docker_images import drop, size_of


class Pulled:
    """Safe from any thread. Without a folder nothing is noted, and nothing collected."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()

    def note(self, reference: str) -> None:
        """It has just been pulled."""
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._mark(reference).write_text(reference)

    def used(self, *references: str) -> None:
        """They are in use now. Whoever is told so after a collection began keeps them."""
        with self._lock:
            for reference in references:
                if self._folder is not None and self._mark(reference).exists():
                    os.utime(self._mark(reference))

    def collect(self, engine: Engine, most: int, keep: Callable[[str], bool]) -> int:
        """Remove those that were not used for longest until the rest takes at most `most` bytes; the bytes of the rest."""
        began, sizes = time.time(), dict[str, int]()
        marks = sorted(self._folder.glob("*") if self._folder else (), key=lambda mark: mark.stat().st_mtime)
        for mark in marks:
            reference = mark.read_text()
            if (size := size_of(engine, reference)) is None:
                mark.unlink()  # somebody else took it away
            else:
                sizes[reference] = size
        total = sum(sizes.values())
        for reference, size in sizes.items():
            if total <= most:
                break
            with self._lock:
                if keep(reference) or self._mark(reference).stat().st_mtime > began:
                    continue
                try:
                    drop(engine, reference)
                except TaskFailed:
                    continue  # a container has it
                self._mark(reference).unlink()
                total -= size
        return total

    def _mark(self, reference: str) -> Path:
        assert self._folder is not None
        return self._folder / hashlib.sha256(reference.encode()).hexdigest()[:32]
