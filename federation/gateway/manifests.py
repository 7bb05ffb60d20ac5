"""Manifests that were read and checked: dashboards ask for an execution's files every few seconds, and what a hash names does not change."""

from __future__ import annotations

import threading
from collections import OrderedDict

from federation.centre import Submission
from federation.results import OutputFile

#: Files that are kept in memory, at some 600 bytes each.
HELD = 50_000


class Manifests:
    """What they list; those that were asked for last. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: OrderedDict[tuple[Submission, str], list[OutputFile]] = OrderedDict()
        self._held = 0

    def get(self, submission: Submission, sha256: str) -> list[OutputFile] | None:
        """The files of the manifest with that hash, or None if it is to be read."""
        with self._lock:
            if (found := self._found.get((submission, sha256))) is not None:
                self._found.move_to_end((submission, sha256))
            return found

    def put(self, submission: Submission, sha256: str, files: list[OutputFile]) -> None:
        """Keep what was read."""
        with self._lock:
            if (submission, sha256) not in self._found:
                self._found[submission, sha256] = files
                # One that lists nothing takes its place, too.
                self._held += 1 + len(files)
            while self._held > HELD:
                self._held -= 1 + len(self._found.popitem(last=False)[1])
