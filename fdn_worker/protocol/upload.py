"""Transfers between a node and the centre's store: requests by the node, answers by the relay.

node                                   relay
TransferRequest(put, files)     ->     checks attempt and paths, opens multipart uploads, mints URLs
                                <-     Grant
PUT each part to its URL, journal what is done
Complete(upload ids, parts)     ->     assembles the objects
                                <-     Completed
or Abort                        ->     drops the half-done uploads

A file of one part is whole when its PUT is: only files with an `upload_id` need Complete. A get is answered by a
Grant with one URL a file. Every request may be sent again under the same `request` id and is answered again.
A Refusal answers what cannot be granted.
"""

from __future__ import annotations

from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import Field, model_validator

from fdn_worker.errors import Fault
from fdn_worker.protocol.base import ByteCount, Direction, Id, Message, Moment, Part, RelativePath, Way

#: Smallest part that S3 takes, but for the last one of an object; in bytes.
SMALLEST_PART = 5 * 1024**2
#: Most parts that S3 takes for one object.
MOST_PARTS = 10_000


class OfAttempt(Message):
    """What a request or an answer says of whose it is."""

    request: UUID
    node: Id
    run: UUID
    attempt: Annotated[int, Field(ge=1)]

    @property
    def message_id(self) -> str:
        return f"{self.kind}.{self.request}"


#: Parts are counted from 1.
PartNumber = Annotated[int, Field(ge=1, le=MOST_PARTS)]


class PartETag(Part):
    """A part that the store took; `etag` as the store gave it, without quotes."""

    number: PartNumber
    etag: str


class TransferFile(Part):
    """A file to move: to put, `path` is below the attempt's prefix; to get, it is an input's key."""

    path: str
    size: ByteCount
    #: Bytes of each part but the last; 0 puts the file in one piece.
    part_size: ByteCount = 0
    #: To go on with an earlier upload; None starts one.
    upload_id: str | None = None
    #: The parts that still want a URL; empty means all.
    parts: tuple[PartNumber, ...] = ()

    @model_validator(mode="after")
    def _takes_so_many_parts(self) -> TransferFile:
        if self.size > self.part_size * MOST_PARTS > 0:
            raise ValueError(f"{self.size} bytes make more than {MOST_PARTS} parts of {self.part_size}")
        return self


class TransferRequest(OfAttempt):
    """The node asks for signed URLs (DESIGN's UploadRequest; inputs are asked for in the same way)."""

    kind: ClassVar[str] = "transfer-request"
    direction: Direction
    files: Annotated[tuple[TransferFile, ...], Field(min_length=1)]
    #: How the bytes are to travel (since 1.1): by signed URLs, or in chunks over the broker (`chunk.py`).
    by: Way = "store"


class GrantedUrl(Part):
    """Where to get or put a part; `number` is 1 for a file in one piece. No URL is given for what goes over the broker."""

    number: PartNumber
    url: str = Field(default="", repr=False)


class GrantedFile(Part):
    path: str
    upload_id: str | None = None
    urls: tuple[GrantedUrl, ...]


class Grant(OfAttempt):
    """The relay's answer: URLs that are good until `expires`."""

    kind: ClassVar[str] = "grant"
    expires: Moment
    files: tuple[GrantedFile, ...]


class FinishedFile(Part):
    path: RelativePath
    upload_id: str
    size: ByteCount
    parts: Annotated[tuple[PartETag, ...], Field(min_length=1)]


class Complete(OfAttempt):
    """All parts are up: the objects may be assembled."""

    kind: ClassVar[str] = "complete"
    files: Annotated[tuple[FinishedFile, ...], Field(min_length=1)]


class Completed(OfAttempt):
    """The objects stand in the store."""

    kind: ClassVar[str] = "completed"
    paths: tuple[RelativePath, ...]


class AbortedFile(Part):
    path: RelativePath
    upload_id: str


class Abort(OfAttempt):
    """The node gives these uploads up."""

    kind: ClassVar[str] = "abort"
    files: Annotated[tuple[AbortedFile, ...], Field(min_length=1)]


class Refusal(OfAttempt):
    """The relay's answer to a request that it cannot grant. `retryable`: ask again later."""

    kind: ClassVar[str] = "refusal"
    code: str
    fault: Fault
    message: str
    retryable: bool = False
