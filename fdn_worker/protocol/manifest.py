"""Manifest: the list of an attempt's files that left the site, with sizes and SHA-256; the last object uploaded."""

from __future__ import annotations

from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import Field

from fdn_worker.protocol.base import ByteCount, Id, Message, Moment, Part, RelativePath, Sha256
from fdn_worker.protocol.event import Release, Usage

#: Its path below the attempt's prefix, and the prefixes of the files it lists.
MANIFEST_PATH = "manifest.json"
OUTPUTS = "outputs/"
LOGS = "logs/"
#: The whole log, up to the node's cap.
LOG_PATH = LOGS + "run.log"


class ManifestFile(Part):
    """A file, at `path` below the attempt's prefix in the store: `outputs/...` or `logs/...`."""

    path: RelativePath
    size: ByteCount
    sha256: Sha256


class Manifest(Message):
    """Stands in the store in an envelope, sealed by the node."""

    kind: ClassVar[str] = "manifest"

    execution: UUID
    task: Id
    node: Id
    run: UUID
    attempt: Annotated[int, Field(ge=1)]
    at: Moment
    exit_code: int | None
    image_digest: str | None = None
    source_commit: str | None = None
    usage: Usage = Usage()
    files: tuple[ManifestFile, ...] = ()
    #: How it came that these left (since 1.1).
    release: Release | None = None

    @property
    def message_id(self) -> str:
        return f"{self.run}.{self.attempt}.manifest"
