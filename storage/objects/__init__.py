"""ObjectStore: where inputs, outputs and logs lie. Two of them pass one set of contract tests: `folder` and `s3`.

Nodes hold no credentials: the centre mints a URL for each object or part when the node asks for it. With a folder
the URLs are `file://`, for nodes on the same machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from fdn_worker.errors import SettingsError
from fdn_worker.protocol.upload import PartETag


@dataclass(frozen=True)
class ObjectInfo:
    """An object: its key, and its size in bytes."""

    key: str
    size: int


class ObjectStore(Protocol):
    """All methods raise StoreUnavailable when the store cannot be reached, ObjectMissing when the key is not there."""

    def put(self, key: str, source: BinaryIO, size: int) -> None:
        """Store `size` bytes; whole or not at all; replaces what was there. Constant memory."""

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The object's bytes from `offset` on, `length` of them or all, in chunks of at most 1 MiB; constant memory."""

    def stat(self, key: str) -> ObjectInfo | None:
        """The object, or None."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """The objects whose keys start with `prefix`, in order of their keys. Half-done uploads are not among them."""

    def delete(self, keys: Iterable[str]) -> None:
        """Take the objects away; one that is not there is no error."""

    def get_url(self, key: str, expires: float) -> str:
        """A URL that gives the object for `expires` seconds."""

    def put_url(self, key: str, expires: float) -> str:
        """A URL that takes the whole object in one PUT for `expires` seconds."""

    def begin_upload(self, key: str) -> str:
        """Start an upload in parts; the id that the next three take."""

    def part_url(self, key: str, upload_id: str, number: int, offset: int, expires: float) -> str:
        """A URL that takes part `number` (from 1), which begins at byte `offset` of the object."""

    def put_part(self, key: str, upload_id: str, number: int, offset: int, data: bytes) -> str:
        """Take a part from the centre itself; its ETag. Again with the same bytes changes nothing."""

    def complete_upload(self, key: str, upload_id: str, size: int, parts: Sequence[PartETag]) -> None:
        """Assemble the parts. Done before: no error. Raises StoreUnavailable(code="upload-incomplete") when a part is
        missing or differs, ObjectMissing when the upload is unknown and the object is not there."""

    def abort_upload(self, key: str, upload_id: str) -> None:
        """Drop an upload with its parts. Idempotent."""

    def close(self) -> None:
        """Let go of connections."""


def open_store(url: str, *, site_url: str = "") -> ObjectStore:
    """The store at `url`: `s3://KEY:SECRET@HOST:PORT/BUCKET`, `s3+http://...` without TLS, or `file:///PATH`.

    `site_url` is the same store's address as the sites see it (`https://HOST:PORT`), where that differs: signed URLs
    carry it, since the host is part of what is signed.
    """
    scheme = url.partition(":")[0]
    if scheme == "file":
        from storage.objects.folder import FolderStore

        return FolderStore(Path(url.removeprefix("file://")))
    if scheme in ("s3", "s3+http"):
        from storage.objects.s3 import S3Store

        return S3Store.at(url, site_url=site_url)
    raise SettingsError(f"object store address has the unknown scheme {scheme!r}", remedy="use s3://, s3+http:// or file:///PATH")
