"""Parts of files in chunks over the broker, for a site that reaches nothing else.

node                                        relay
TransferRequest(put, by broker)     ->      checks it, opens uploads in parts, reads queue `up.<node>` from now on
                                    <-      Grant, without URLs
Chunk, Chunk, ... of a part         ->      (exchange `evt.<node>`, key `up`) gathers the part, checks its SHA-256,
                                            puts it into the store
                                    <-      Taken, with its ETag
Complete, Completed, Abort                  as by signed URLs

TransferRequest(get, by broker)     ->
                                    <-      Grant, without URLs
Fetch(a stretch of an input)        ->
                                    <-      Chunk, Chunk, ... of the stretch (queue `down.<node>`)

A Refusal answers what cannot be done. Chunks may be lost, come twice or in any order: a part counts once it is whole
and its SHA-256 is right, and whoever waits for one in vain asks for it, or sends it, once more. Who sends is held back
by queues that are bounded and refuse.

A chunk's body is no envelope but a frame: four bytes, big-endian, that give the length of an envelope, the envelope
with the Chunk, and the chunk's own bytes as they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from io import BufferedRandom, BytesIO
from typing import Annotated, ClassVar

from pydantic import Field

from fdn_worker.errors import MessageError
from fdn_worker.protocol.base import ByteCount, Sha256
from fdn_worker.protocol.upload import OfAttempt, PartNumber

#: Bytes of each chunk of a part but the last.
CHUNK = 256 * 1024
#: Bytes that one Fetch may ask for.
MOST_FETCHED = 4 * 1024**2
#: Bytes of the biggest part that S3 takes.
BIGGEST_PART = 5 * 1024**3
_PREFIX = 4


class Chunk(OfAttempt):
    """Some bytes of a part. `request` is the part's: the sender draws it from what the part is, so that a repeat has the same."""

    kind: ClassVar[str] = "chunk"
    durable: ClassVar[bool] = False

    #: Up: below the attempt's prefix. Down: the input's key.
    path: str
    #: The upload that the part belongs to; None for a file in one piece.
    upload_id: str | None = None
    number: PartNumber = 1
    #: Where in the file the part begins.
    at: ByteCount = 0
    #: Bytes and SHA-256 of the whole part.
    size: Annotated[int, Field(ge=0, le=BIGGEST_PART)]
    sha256: Sha256
    #: Where in the part these bytes stand.
    offset: ByteCount

    @property
    def message_id(self) -> str:
        return f"{self.request}.{self.offset}"

    def same_part(self, other: Chunk) -> bool:
        """Whether both are of one part."""
        return self.model_copy(update={"offset": other.offset}) == other


class Taken(OfAttempt):
    """The relay's word that a part stands in the store; `etag` as the store gave it, empty for a file in one piece."""

    kind: ClassVar[str] = "taken"
    etag: str = ""


class Fetch(OfAttempt):
    """The node asks for a stretch of an input."""

    kind: ClassVar[str] = "fetch"
    path: str
    offset: ByteCount
    length: Annotated[int, Field(ge=1, le=MOST_FETCHED)]


def frame(envelope: bytes, data: bytes) -> bytes:
    """A chunk's body."""
    return len(envelope).to_bytes(_PREFIX, "big") + envelope + data


def unframe(body: bytes) -> tuple[bytes, memoryview]:
    """The envelope and the chunk's bytes."""
    end = _PREFIX + int.from_bytes(body[:_PREFIX], "big")
    if not _PREFIX < end <= len(body):
        raise MessageError("not a chunk: its body is cut, or no frame")
    return body[_PREFIX:end], memoryview(body)[end:]


def stretches(size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the chunks of a part; one, without bytes, of an empty part."""
    for offset in range(0, max(size, 1), CHUNK):
        yield offset, min(CHUNK, size - offset)


class Assembly:
    """A part as its chunks come, written to `file` at their places. One thread at a time."""

    def __init__(self, first: Chunk, file: BufferedRandom | BytesIO) -> None:
        self.part, self.file = first, file
        self._left = {offset for offset, _ in stretches(first.size)}

    def add(self, chunk: Chunk, data: memoryview) -> bool:
        """Whether the part is whole now. What came before is passed over."""
        if len(data) != min(CHUNK, self.part.size - chunk.offset) or chunk.offset % CHUNK:
            raise MessageError(f"chunk {chunk.message_id} has {len(data)} bytes, which is not its share of a part of {self.part.size}")
        if chunk.offset in self._left:
            self.file.seek(chunk.offset)
            self.file.write(data)
            self._left.discard(chunk.offset)
        return not self._left

    def right(self) -> bool:
        """Whether the whole part is what its SHA-256 says; leaves the file at its start."""
        self.file.seek(0)
        digest = hashlib.file_digest(self.file, "sha256").hexdigest()
        self.file.seek(0)
        return digest == self.part.sha256
