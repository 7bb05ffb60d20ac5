"""What both stores check in the same way, and the errors that they then raise."""

from __future__ import annotations

from typing import BinaryIO

from fdn_worker.errors import ObjectMissing, StoreUnavailable, SystemFault
from fdn_worker.protocol.base import check_relative_path
from fdn_worker.protocol.names import NameRefused
from storage.objects import ObjectInfo

#: Longest key, and longest part of one between two slashes, in bytes of UTF-8: what S3 and file systems take.
LONGEST_KEY, LONGEST_KEY_PART = 1024, 255
#: Days after which a half-done upload that nobody touched is given up; a signed URL lives for seven at most.
STALE_UPLOAD_DAYS = 14


class ShortSource(SystemFault):
    """What was to be put ended early."""

    code = "short-source"
    retryable = False


class Exactly:
    """Reads `size` bytes of a source, no more, and raises ShortSource when it has less."""

    def __init__(self, key: str, source: BinaryIO, size: int) -> None:
        self._key, self._source, self._size, self._left = key, source, size, size

    def read(self, size: int) -> bytes:
        """The next `size` bytes in one piece, fewer at the end only."""
        wanted = min(size, self._left)
        data = self._source.read(wanted)
        if len(data) < wanted:
            whole = bytearray(data)
            while len(whole) < wanted:
                if not (more := self._source.read(wanted - len(whole))):
                    there = self._size - self._left + len(whole)
                    raise ShortSource(f"the source of {self._key!r} ended after {there} of {self._size} bytes", remedy="was it changed?")
                whole += more
            data = bytes(whole)
        self._left -= wanted
        return data


def check_key(key: str) -> str:
    """Return `key` if every store takes it, else raise NameRefused."""
    try:
        parts = [part.encode() for part in check_relative_path(key).split("/")]
    except ValueError as error:
        raise NameRefused(f"{key!r} cannot be an object's key: {error}") from error
    if max(map(len, parts)) > LONGEST_KEY_PART or len(key.encode()) > LONGEST_KEY:
        raise NameRefused(
            f"the object key {key[:80]!r}... is too long",
            remedy=f"use at most {LONGEST_KEY} bytes in all and {LONGEST_KEY_PART} between two slashes",
        )
    return key


def incomplete(key: str, why: str) -> StoreUnavailable:
    """The error of `complete_upload` when parts are missing or differ."""
    return StoreUnavailable(
        f"the upload of {key!r} is not complete: {why}", code="upload-incomplete", remedy="send the missing parts again"
    )


def check_done_before(key: str, found: ObjectInfo | None, size: int) -> None:
    """`complete_upload` of an upload that is gone: right if the object came of it."""
    if found is None:
        raise ObjectMissing(f"neither the upload of {key!r} nor the object is in the store", remedy="upload it again")
    if found.size != size:
        raise incomplete(key, f"the object has {found.size} bytes, not {size}")
