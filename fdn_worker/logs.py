"""A task's log on its way: kept in a file up to a cap, sent as events up to a rate, and what is dropped is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from fdn_worker.errors import JournalUnavailable
from fdn_worker.journal import Entry, Journal
from fdn_worker.launchers import LogLine
from fdn_worker.settings import LimitsSection

#: Seconds that a line waits at most for others to travel with.
FLUSH_SECONDS = 0.25
#: Lines, and bytes, that travel together at most.
BATCH_LINES = 200
BATCH_BYTES = 64 * 1024


class LogSink:
    """Takes an attempt's lines; safe from the following thread and the worker's ticking one.

    Cursor, bytes kept and counts are journalled with the event, so after a crash it goes on at the last flush, and
    lines between that and the crash are read from the launcher again. What is `hidden` is shown in none.
    """

    def __init__(
        self, entry: Entry, path: Path, journal: Journal, limits: LimitsSection, *, live: bool, hidden: Sequence[str] = ()
    ) -> None:
        self._live, self._hidden = live, hidden
        self._name, self._journal, self._limits = entry.name, journal, limits
        self._cursor, self._bytes, self._sent, self.dropped = entry.cursor, entry.log_bytes, entry.lines_sent, entry.lines_dropped
        self._lines: list[str] = []
        self._size = 0
        self._flushed = self._began = time.monotonic()
        self._began_with = self._sent
        self._changed = False
        self._lock = threading.Lock()
        # Unbuffered: what a full disk refused must not be written later by an old file's end.
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (closed by `close`)
        self._file.truncate(entry.log_bytes)

    @property
    def cursor(self) -> str:
        return self._cursor

    def line(self, line: LogLine) -> None:
        """Take one line."""
        with self._lock:
            self._cursor, self._changed = line.cursor, True
            text = self._shown(line.text)
            data = text.encode() + b"\n"
            kept = self._bytes + len(data) <= self._limits.log_bytes
            if kept:
                self._keep(data)
                self._bytes += len(data)
            if (self._live and not self._send(text)) or not kept:
                self.dropped += 1
            if len(self._lines) >= BATCH_LINES or self._size >= BATCH_BYTES:
                self._flush()

    def _shown(self, text: str) -> str:
        for secret in self._hidden:
            text = text.replace(secret, "[secret]")
        return text

    def _keep(self, data: bytes) -> None:
        """Write to the file, which is journalled with the cursor and as good as a part of the journal."""
        try:
            written = self._file.write(data)
        except OSError as error:
            raise JournalUnavailable(f"log {self._file.name}: {error.strerror}", remedy="free space on its disk") from error
        if written != len(data):
            raise JournalUnavailable(f"log {self._file.name}: no space is left", remedy="free space on its disk")

    def _send(self, text: str) -> bool:
        """Have a line travel with the next event, if the caps allow."""
        if not self._may_send():
            return False
        self._sent += 1
        self._lines.append(text if len(text) <= self._limits.log_line_length else text[: self._limits.log_line_length] + " [cut]")
        self._size += len(self._lines[-1])
        return True

    def _may_send(self) -> bool:
        if self._sent >= self._limits.log_lines:
            return False
        # One second's worth may come at once; beyond that the average counts.
        allowed = (time.monotonic() - self._began + 1.0) * self._limits.log_lines_per_second
        return self._sent - self._began_with < allowed

    def tick(self) -> None:
        """Send what has waited long enough."""
        with self._lock:
            if self._changed and time.monotonic() - self._flushed >= FLUSH_SECONDS:
                self._flush()

    def _flush(self) -> None:
        self._flushed = time.monotonic()
        self._changed = False
        lines, self._lines, self._size = self._lines, [], 0
        self._journal.record(
            self._name, lines=lines, cursor=self._cursor, log_bytes=self._bytes, lines_sent=self._sent, lines_dropped=self.dropped
        )  # fmt: skip

    def close(self) -> None:
        """Send what is left, and say what was dropped."""
        with self._lock:
            if self.dropped and self._live:
                self._lines.append(f"[{self.dropped:,} lines were dropped: the node's caps on log lines and bytes]")
                self._changed = True
            if self._changed:
                self._flush()
            self._file.close()
