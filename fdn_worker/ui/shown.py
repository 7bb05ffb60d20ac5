"""What is shown of a file that waits: text, a CSV file as a table, a picture, else its first bytes. A part at a time, in little memory.

Whatever stands in a file, a page shows characters: what a browser would obey, or not show, is written out.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from fdn_worker.release.desk import safe
from fdn_worker.release.kinds import BEGINNING, DELIMITERS, decoded, kind_of, open_plain
from fdn_worker.release.tables import Rows

#: Of one part: bytes of a text, characters of a line, rows, columns and characters of a cell; and bytes of what is no text.
TEXT_BYTES, LINE, ROWS, COLUMNS, CELL, HEX = 64 * 1024, 2000, 200, 60, 300, 512
#: Bytes of a picture that is shown at all.
LARGEST_PICTURE = 32 * 1024**2
#: What is shown as a picture, and how it is called to the browser.
PICTURES = {"png": "image/png", "jpeg": "image/jpeg"}


@dataclass(frozen=True)
class Shown:
    """A part of a file."""

    how: Literal["text", "table", "picture", "hex", "nothing"]
    lines: list[str] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    #: Number of the first row, and columns that are not shown.
    first: int = 1
    hidden: int = 0
    #: Where the next part begins; None at the end.
    next: int | None = None
    #: What is to be known beside it.
    note: str = ""


def show(file: Path, begin: int = 0, *, as_text: bool = False) -> Shown:
    """The part of the file that begins there: at a byte of a text, at a row of a table."""
    try:
        kind = kind_of(file)
        if kind == "empty":
            return Shown("nothing", note="The file is empty.")
        if kind in PICTURES:
            large = file.stat().st_size > LARGEST_PICTURE
            return _hex(file, "The picture is too large to be shown here.") if large else Shown("picture")
        if kind == "csv" and not as_text:
            return _table(file, begin)
        if kind in ("csv", "text", "json"):
            return _text(file, begin)
        return _hex(file, f"Type {kind}: only its beginning is shown, as bytes.")
    except OSError as error:
        return Shown("nothing", note=f"It cannot be read: {error.strerror}.")


def picture(file: Path) -> tuple[bytes, str] | None:
    """A picture and its type; None for what is none, or too large a one."""
    try:
        media = PICTURES.get(kind_of(file))
        with open(open_plain(file), "rb") as source:
            content = source.read(LARGEST_PICTURE + 1) if media else b""
    except OSError:
        return None
    return (content, media) if media and len(content) <= LARGEST_PICTURE else None


def _text(file: Path, begin: int) -> Shown:
    with open(open_plain(file), "rb") as source:
        source.seek(begin)
        data = source.read(TEXT_BYTES)
        more = bool(source.peek(1))
    # A part ends with a line, if any ends in it, and never within a character.
    end = data.rfind(b"\n") + 1 if more else len(data)
    if not end:
        end = len(data)
        while end > 1 and len(data) - end < 3 and data[end - 1] & 0xC0 == 0x80:
            end -= 1
        end -= 1 if data[end - 1] >= 0xC0 else 0
    text = data[:end].decode("utf-8-sig" if begin == 0 else "utf-8", errors="backslashreplace")
    lines = [line for whole in text.removesuffix("\n").split("\n") for line in _broken(safe(whole.removesuffix("\r").expandtabs(4)))]
    return Shown("text", lines=lines, next=begin + end if more else None)


def _broken(line: str) -> Iterator[str]:
    """A line in pieces that a page can hold."""
    yield from (line[at : at + LINE] for at in range(0, max(1, len(line)), LINE))


def _table(file: Path, begin: int) -> Shown:
    try:
        with open(open_plain(file), encoding="utf-8-sig", newline="") as source:
            rows = Rows(source, _delimiter(file))
            header = next(rows, [])
            part = list(itertools.islice(rows, begin, begin + ROWS + 1))
    except (csv.Error, UnicodeDecodeError) as error:
        # It began as a table, and goes on as something else: that is worth a look at what it is.
        return Shown("nothing", note=f"It begins as a table, but is none throughout: {error}. Look at it as text.")
    wide = max(map(len, [header, *part]))
    return Shown(
        "table", header=_cells(header), rows=[_cells(row) for row in part[:ROWS]], first=begin + 1, hidden=max(0, wide - COLUMNS),
        next=begin + ROWS if len(part) > ROWS else None,
    )  # fmt: skip


def _delimiter(file: Path) -> str:
    """That by which its beginning is a table, as `kind_of` has found."""
    with open(open_plain(file), "rb") as source:
        text = decoded(source.read(BEGINNING), whole=False) or ""
    lines = text.splitlines()[:20]
    widths = {mark: {len(row) for row in csv.reader(lines, delimiter=mark)} for mark in DELIMITERS}
    return next((mark for mark, found in widths.items() if len(found) == 1 and found != {1}), ",")


def _cells(row: list[str]) -> list[str]:
    return [safe(cell[:CELL]) + (" ..." if len(cell) > CELL else "") for cell in row[:COLUMNS]]


def _hex(file: Path, note: str) -> Shown:
    with open(open_plain(file), "rb") as source:
        start = source.read(HEX)
    lines = [f"{at:04x}  {start[at : at + 16].hex(' '):47}  {_printable(start[at : at + 16])}" for at in range(0, len(start), 16)]
    return Shown("hex", lines=lines, note=note)


def _printable(data: bytes) -> str:
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
