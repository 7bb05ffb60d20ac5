"""A task's output as lines of bounded length."""

from __future__ import annotations

#: Bytes of a line that are kept.
MAX_LINE = 64 * 1024


class Line:
    """A line that comes in pieces; what exceeds MAX_LINE is counted, not kept."""

    def __init__(self) -> None:
        self._kept = bytearray()
        #: Bytes of the line so far, its end not counted.
        self.length = 0

    def add(self, piece: bytes) -> None:
        room = MAX_LINE - len(self._kept)
        if room > 0:
            self._kept += piece[:room]
        self.length += len(piece)

    def text(self) -> str:
        """The line; undecodable bytes are replaced, a cut is marked."""
        mark = f" [cut: the line has {self.length} bytes]" if self.length > MAX_LINE else ""
        return self._kept.decode(errors="replace") + mark
