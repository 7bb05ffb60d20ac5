"""Docker's multiplexed log stream, taken apart.

The stream is frames of (kind, 3 zero bytes, size as 4 bytes, payload); with timestamps a payload is `TIME TEXT`. The
cursor of a line is its TIME, in which RFC 3339 with nine decimals sorts as text. A line beyond 16 KiB comes in
several frames of one TIME, all of 16 KiB but the last; that one ends in a newline or, by the driver `local`, does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime

from fdn_worker.errors import LauncherUnavailable
from fdn_worker.launchers import LogLine
from fdn_worker.launchers.lines import Line

_HEADER = 8
#: Kind of the frame in which the daemon tells an error of its own.
_DAEMON = 3
#: Bytes of a part of a line that goes on in the next frame.
_PART = 16 * 1024


def since(cursor: str) -> str:
    """A cursor as Docker's `since` wants it: seconds.nanoseconds. It includes the moment itself."""
    if not cursor:
        return "0"
    whole, _, rest = cursor.partition(".")
    return f"{int(datetime.fromisoformat(whole + 'Z').timestamp())}.{rest.rstrip('Z')}"


def frames(chunks: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """(kind, payload) of each frame, however the chunks cut them."""
    buffer = b""
    for chunk in chunks:
        buffer = buffer + chunk if buffer else chunk
        start = 0
        while len(buffer) >= start + _HEADER:
            end = start + _HEADER + int.from_bytes(buffer[start + 4 : start + _HEADER], "big")
            if len(buffer) < end:
                break
            yield buffer[start], buffer[start + _HEADER : end]
            start = end
        buffer = buffer[start:]


def lines(chunks: Iterable[bytes], after: str) -> Iterator[LogLine]:
    """The lines later than cursor `after`. A last line without an end is given at the end of the stream."""
    unfinished: dict[int, Line] = {}
    newest = after
    for kind, frame in frames(chunks):
        if kind == _DAEMON:
            raise LauncherUnavailable(f"Docker broke off the log: {frame.decode(errors='replace').strip()}")
        stamp, _, text = frame.partition(b" ")
        time = stamp.decode(errors="replace")
        if time <= after:
            continue
        # Output and errors come side by side and may be a little out of order: the cursor never goes back.
        newest = max(newest, time)
        line = unfinished.setdefault(kind, Line())
        line.add(text.removesuffix(b"\n"))
        if text.endswith(b"\n") or len(text) < _PART:
            yield LogLine(unfinished.pop(kind).text(), newest)
    for line in unfinished.values():
        yield LogLine(line.text(), newest)
