"""A log file that grows, read as lines. A line's cursor is the offset of the byte after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fdn_worker.launchers import LogLine
from fdn_worker.launchers.lines import Line

_CHUNK = 256 * 1024


class Tail:
    """Reads on from cursor `after`."""

    def __init__(self, path: Path, after: str) -> None:
        self._path, self._offset = path, int(after or 0)
        self._line = Line()

    def lines(self, *, last: bool = False) -> Iterator[LogLine]:
        """What is complete by now; with `last` the unfinished line too."""
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(self._offset)
                while chunk := file.read(_CHUNK):
                    yield from self._split(chunk)
        except FileNotFoundError:
            return
        if last and self._line.length:
            yield self._finished()

    def _split(self, chunk: bytes) -> Iterator[LogLine]:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._line.add(chunk[start:end])
            self._offset += end + 1 - start
            start = end + 1
            yield self._finished()
        self._line.add(chunk[start:])
        self._offset += len(chunk) - start

    def _finished(self) -> LogLine:
        line, self._line = self._line, Line()
        return LogLine(line.text(), str(self._offset))
