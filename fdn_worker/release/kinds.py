"""A file's type by its beginning, whatever its name says."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path
from typing import Literal

Kind = Literal["empty", "csv", "json", "text", "png", "jpeg", "pdf", "zip", "gzip", "parquet", "hdf5", "numpy", "safetensors", "binary"]

#: Bytes that are looked at.
BEGINNING = 64 * 1024
#: Control codes but tab and ends of lines.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
#: A CSV file's rows have the same number of fields, of two at least, with one of these between.
DELIMITERS = ",;\t|"
_MAGIC: tuple[tuple[bytes, Kind], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"), (b"\xff\xd8\xff", "jpeg"), (b"%PDF-", "pdf"), (b"PK\x03\x04", "zip"), (b"\x1f\x8b", "gzip"),
    (b"PAR1", "parquet"), (b"\x89HDF\r\n\x1a\n", "hdf5"), (b"\x93NUMPY", "numpy"),
)  # fmt: skip


def open_plain(file: Path) -> int:
    """A descriptor of a regular file; no link is followed, and no pipe waited for."""
    return os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)


def kind_of(file: Path) -> Kind:
    """What the file looks like. The rest of it may be anything, so a rule on types wants a limit of size as well."""
    with open(open_plain(file), "rb") as source:
        start = source.read(BEGINNING)
        whole = not source.read(1)
    if not start:
        return "empty"
    for magic, kind in _MAGIC:
        if start.startswith(magic):
            return kind
    if _is_safetensors(start):
        return "safetensors"
    text = decoded(start, whole=whole)
    if text is None:
        return "binary"
    if text.lstrip().startswith(("{", "[")):
        return "json" if _is_json(text, whole) else "text"
    return "csv" if _is_csv(text, whole) else "text"


def decoded(start: bytes, *, whole: bool) -> str | None:
    """The text that a file begins with, if that is UTF-8 without control codes; a character cut by the end is left out."""
    try:
        text = start.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if whole or error.start < len(start) - 3:
            return None
        text = start[: error.start].decode("utf-8-sig")
    return None if CONTROL.search(text) else text


def _is_safetensors(start: bytes) -> bool:
    length = int.from_bytes(start[:8], "little")
    return (
        len(start) > 9 and start[8:9] == b"{" and length <= 100 * 1024**2 and (len(start) < 8 + length or _is_object(start[8 : 8 + length]))
    )


def _is_object(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


def _is_json(text: str, whole: bool) -> bool:
    try:
        json.loads(text)
    except RecursionError:
        return False
    except ValueError:
        return not whole
    return True


def _is_csv(text: str, whole: bool) -> bool:
    lines = text.splitlines()
    # The last line may be cut.
    lines = [line for line in (lines if whole else lines[:-1]) if line]
    for delimiter in DELIMITERS:
        try:
            widths = {len(row) for row in csv.reader(lines, delimiter=delimiter, strict=True)}
        except csv.Error:
            continue
        if len(widths) == 1 and widths.pop() > 1:
            return True
    return False
