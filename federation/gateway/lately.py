"""What all dashboards ask for alike, read once a second: the nodes, their names and the catalogue, whoever asks and however many do."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from federation.catalogue.tool import Tool
from federation.gateway.fem_shapes import parsed
from federation.gateway.fem_wording import Names
from federation.presence import presence
from storage.records import Records

T = TypeVar("T")

#: Seconds for which what was read is told again. Heartbeats come no faster, and what is submitted is checked anew.
FRESH = 1.0


class Lately(Generic[T]):
    """One thing that `read` gives; who comes while it is read waits for it, and reads nothing."""

    def __init__(self, read: Callable[[], T]) -> None:
        self._read, self._lock = read, threading.Lock()
        self._found: T | None = None
        self._until = 0.0

    def __call__(self) -> T:
        with self._lock:
            if self._found is None or time.monotonic() >= self._until:
                self._found = self._read()
                self._until = time.monotonic() + FRESH
            return self._found


class Federation:
    """As it stood a second ago at most."""

    def __init__(self, records: Records) -> None:
        self.names: Lately[Names] = Lately(lambda: Names(records.nodes()))
        self.presence = Lately(lambda: presence(records))
        self.tools: Lately[list[Tool]] = Lately(lambda: [parsed(row.document) for row in records.catalogue.tools()])
