"""FolderStore: objects as files below one folder, for processes of one machine.

Its URLs are `file://` with a percent-encoded path; they never expire, and who may write the folder may use them.

| URL | what its client does |
|---|---|
| `file:///ROOT/KEY` | reads the file |
| `file:///ROOT/KEY?put` | writes a new file `.SOMETHING.partial` in the same folder, fsyncs it, renames it to the path |
| `file:///ROOT/.uploads/ID?offset=N` | opens the file that is there (never creates it), writes the part from byte N on, fsyncs it |

The folder of a `?put` URL is there. The ETag of a part is its MD5, in hexadecimal. Files `.*.partial` are never listed,
and what lies untouched in `.uploads` for two weeks is swept away.
"""

# the contract has arguments that a folder does not need
# ruff: noqa: ARG002

from __future__ import annotations

import hashlib
import os
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from fdn_worker.errors import ObjectMissing, StoreUnavailable
from fdn_worker.protocol.names import NameRefused
from fdn_worker.protocol.upload import PartETag
from storage.objects import ObjectInfo
from storage.objects.checks import STALE_UPLOAD_DAYS, Exactly, check_done_before, check_key, incomplete

UPLOADS = ".uploads"
#: Bytes read at a time.
CHUNK = 1024**2


class FolderStore:
    """The object store in the folder `root`, which is made when something is first put."""

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._uploads = self._root / UPLOADS

    def __repr__(self) -> str:
        return f"FolderStore({str(self._root)!r})"

    def put(self, key: str, source: BinaryIO, size: int) -> None:
        path, exactly = self._path(key), Exactly(key, source, size)
        half = self._uploads / f"put-{uuid.uuid4().hex}"
        try:
            with self._told(key):
                self._uploads.mkdir(parents=True, exist_ok=True)
                target = half.open("xb", buffering=0)
            with target:
                # the source's own errors pass as they are
                while chunk := exactly.read(CHUNK):
                    with self._told(key):
                        target.write(chunk)
                with self._told(key):
                    self._place(target.fileno(), half, path)
        finally:
            with suppress(OSError):
                half.unlink()

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        if self.stat(key) is None:
            raise ObjectMissing(f"object store folder {self._root} has no {key!r}")
        with self._told(key), self._path(key).open("rb") as source:
            source.seek(offset)
            left = sys.maxsize if length is None else length
            while chunk := source.read(min(CHUNK, left)):
                left -= len(chunk)
                yield chunk

    def stat(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        with self._told(key):
            return ObjectInfo(key, path.stat().st_size) if path.is_file() else None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._told(prefix):
            yield from self._walk(self._root, "", prefix)

    def delete(self, keys: Iterable[str]) -> None:
        # folders stay, though empty: a client of a `?put` URL may be about to write there
        for key in keys:
            if self.stat(key):
                with suppress(ObjectMissing), self._told(key):
                    self._path(key).unlink()

    def get_url(self, key: str, expires: float) -> str:
        return self._url(self._path(key))

    def put_url(self, key: str, expires: float) -> str:
        path = self._path(key)
        with self._told(key):
            path.parent.mkdir(parents=True, exist_ok=True)
        return f"{self._url(path)}?put"

    def begin_upload(self, key: str) -> str:
        self._path(key)
        upload_id = f"{uuid.uuid4().hex}-{_seal(key)}"
        with self._told(key):
            self._uploads.mkdir(parents=True, exist_ok=True)
            self._sweep()
            (self._uploads / upload_id).touch(exist_ok=False)
        return upload_id

    def part_url(self, key: str, upload_id: str, number: int, offset: int, expires: float) -> str:
        return f"{self._url(self._upload(key, upload_id))}?offset={offset}"

    def put_part(self, key: str, upload_id: str, number: int, offset: int, data: bytes) -> str:
        with self._told(key), self._upload(key, upload_id).open("r+b", buffering=0) as file:
            file.seek(offset)
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
        return hashlib.md5(data, usedforsecurity=False).hexdigest()

    def complete_upload(self, key: str, upload_id: str, size: int, parts: Sequence[PartETag]) -> None:
        """Only the parts' numbers and the whole size are checked: to read all of it again would cost as much as the upload,
        and who takes the object checks its SHA-256."""
        path = self._path(key)
        try:
            upload = self._upload(key, upload_id)
            with self._told(key), upload.open("r+b") as file:
                there = os.fstat(file.fileno()).st_size
                if there != size or sorted(part.number for part in parts) != list(range(1, len(parts) + 1)):
                    raise incomplete(key, f"{there} of {size} bytes are there, and {len(parts)} parts were named")
                self._place(file.fileno(), upload, path)
        except ObjectMissing:
            check_done_before(key, self.stat(key), size)

    def abort_upload(self, key: str, upload_id: str) -> None:
        with suppress(ObjectMissing), self._told(key):
            self._upload(key, upload_id).unlink()

    def close(self) -> None:
        """Nothing is held open."""

    def _path(self, key: str) -> Path:
        """Where `key` lies; no link on the way there is followed."""
        parts = check_key(key).split("/")
        if parts[0] == UPLOADS or _half_put(parts[-1]):
            raise NameRefused(f"{key!r} cannot be an object's key: {UPLOADS}/ and .*.partial are the store's own")
        path = self._root
        for part in parts:
            path /= part
            with self._told(key):
                linked = path.is_symlink()
            if linked:
                raise StoreUnavailable(f"object store folder {self._root}: {path} is a symbolic link", remedy="take the link away")
        return path

    def _upload(self, key: str, upload_id: str) -> Path:
        """The file of an upload in parts. The id, which a node hands us, is good only for the key that it was made for."""
        stem, _, seal = upload_id.partition("-")
        if len(stem) == 32 and stem.isalnum() and seal == _seal(key):
            path = self._uploads / upload_id
            with self._told(key):
                if path.is_file():
                    return path
        raise ObjectMissing(f"object store folder {self._root} knows no upload {upload_id[:80]!r} of {key!r}")

    def _place(self, descriptor: int, source: Path, path: Path) -> None:
        """Move a whole, open file to its key, durably."""
        os.fsync(descriptor)
        path.parent.mkdir(parents=True, exist_ok=True)
        source.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _walk(self, folder: Path, above: str, prefix: str) -> Iterator[ObjectInfo]:
        """The files below `folder` in the order of their keys, in which `a.txt` stands before `a/b`."""
        try:
            with os.scandir(folder) as entries:
                found = {entry.name + "/" * entry.is_dir(follow_symlinks=False): entry for entry in entries}
        except FileNotFoundError:
            return
        for name in sorted(found):
            key, entry = above + name, found[name]
            if name.endswith("/"):
                if key != f"{UPLOADS}/" and (key.startswith(prefix) or prefix.startswith(key)):
                    yield from self._walk(folder / entry.name, key, prefix)
            elif key.startswith(prefix) and entry.is_file(follow_symlinks=False) and not _half_put(name):
                with suppress(FileNotFoundError):
                    yield ObjectInfo(key, entry.stat(follow_symlinks=False).st_size)

    def _sweep(self) -> None:
        """Drop what nobody touched for long: uploads that were given up, and puts that a crash cut off."""
        oldest = time.time() - STALE_UPLOAD_DAYS * 86_400
        for path in self._uploads.iterdir():
            with suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()

    def _url(self, path: Path) -> str:
        return f"file://{quote(str(path))}"

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """File errors as the store's own."""
        try:
            yield
        except FileNotFoundError as error:
            raise ObjectMissing(f"object store folder {self._root} has no {key!r}") from error
        except OSError as error:
            raise StoreUnavailable(
                f"object store folder {self._root}: {error.strerror or error} at {key!r}",
                remedy="look whether the folder can be written and its disk has room",
            ) from error


def _half_put(name: str) -> bool:
    """Whether the client of a `?put` URL is still writing this file."""
    return name.startswith(".") and name.endswith(".partial")


def _seal(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]
