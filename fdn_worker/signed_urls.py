"""The bytes of a transfer: a part of a file to a signed URL, or an object from one; `https://`, `http://` or `file://`."""

from __future__ import annotations

import base64
import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import urllib3

from fdn_worker.errors import ObjectMissing, PolicyRefused, StoreUnavailable
from fdn_worker.protocol import base
from fdn_worker.settings import TransferSection
from fdn_worker.way import Place, changed, opened

_CHUNK = 1024**2


class SignedUrls:
    """A `Way`: puts to and gets from them."""

    name: base.Way = "store"

    def __init__(self, settings: TransferSection) -> None:
        self._settings = settings
        # Who calls decides on retries; a redirect could lead a signed upload elsewhere.
        self._http = urllib3.PoolManager(maxsize=2 * settings.parallel, retries=False, timeout=urllib3.Timeout(connect=10, read=120))

    def close(self) -> None:
        """Let go of connections."""
        self._http.clear()

    def put(self, place: Place, file: Path, offset: int, length: int, stopping: Callable[[], bool]) -> str:  # noqa: ARG002
        """Put `length` bytes from `offset`; the part's etag, which is the MD5 of what the store took."""
        url = place.url
        with opened(file) as source:
            source.seek(offset)
            data = source.read(length) if length <= self._settings.part_size else b"".join(_chunks(source, length))
        if len(data) != length:
            raise changed(file)
        digest = hashlib.md5(data, usedforsecurity=False)
        parts = urlsplit(url)
        if parts.scheme == "file":
            self._write_file(url, data)
            return digest.hexdigest()
        headers = {"Content-MD5": base64.b64encode(digest.digest()).decode(), "Content-Length": str(length)}
        response = self._request("PUT", url, headers=headers, body=data)
        if response.status == 404:
            raise ObjectMissing(f"store {parts.netloc} does not know the upload")
        if response.status != 200:
            raise StoreUnavailable(f"store {parts.netloc} answered {response.status} to an upload", code=_code(response))
        etag: str = response.headers.get("ETag", "").strip('"')
        if etag and len(etag) == 32 and etag != digest.hexdigest():
            raise StoreUnavailable(f"store {parts.netloc} took other bytes than were sent", code="upload-corrupted")
        return etag

    def _request(self, method: str, url: str, **options: object) -> urllib3.BaseHTTPResponse:
        try:
            return self._http.request(method, url, redirect=False, **options)  # type: ignore[arg-type]
        except urllib3.exceptions.HTTPError as error:
            raise StoreUnavailable(
                f"store {urlsplit(url).netloc}: {type(error).__name__}", remedy="check its address and the site's firewall"
            ) from error

    # On one machine

    def _local(self, url: str) -> Path:
        if not self._settings.allow_file:
            raise PolicyRefused(
                "the centre gave a file:// address", code="transfer-refused", remedy="set transfer.allow_file on a shared machine"
            )
        return Path(unquote(urlsplit(url).path))

    def _write_file(self, url: str, data: bytes) -> None:
        target, query = self._local(url), parse_qs(urlsplit(url).query)
        try:
            if "offset" in query:
                # Never made here: a late part must not bring a finished upload back as a file of holes.
                with open(os.open(target, os.O_WRONLY), "wb", buffering=0) as file:
                    file.seek(int(query["offset"][0]))
                    _write_all(file.fileno(), data)
                return
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{threading.get_ident()}.partial")
            with partial.open("wb", buffering=0) as file:
                _write_all(file.fileno(), data)
                os.fsync(file.fileno())
            partial.replace(target)
        except FileNotFoundError as error:
            raise ObjectMissing(f"store folder {target.parent} does not know the upload") from error
        except OSError as error:
            raise StoreUnavailable(f"store folder {target.parent}: {error.strerror}", remedy="check its disk and owner") from error

    def read(self, place: Place, offset: int, stopping: Callable[[], bool]) -> Iterator[bytes]:  # noqa: ARG002
        """The object's bytes from `offset` on; nothing from beyond its end."""
        url = place.url
        if urlsplit(url).scheme == "file":
            try:
                with self._local(url).open("rb") as source:
                    source.seek(offset)
                    yield from iter(lambda: source.read(_CHUNK), b"")
            except FileNotFoundError as error:
                raise ObjectMissing("an input is not in the store", code="input-missing", remedy="submit it again") from error
            except OSError as error:
                raise StoreUnavailable(f"store folder: {error.strerror}", remedy="check its disk and owner") from error
            return
        response = self._request("GET", url, headers={"Range": f"bytes={offset}-"} if offset else {}, preload_content=False)
        try:
            if response.status == 404:
                raise ObjectMissing("an input is not in the store", code="input-missing", remedy="submit it again")
            if response.status == 416:
                return
            if response.status != (206 if offset else 200):
                raise StoreUnavailable(f"store {urlsplit(url).netloc} answered {response.status} to a download", code=_code(response))
            yield from response.stream(_CHUNK)
        except urllib3.exceptions.HTTPError as error:
            raise StoreUnavailable(f"store {urlsplit(url).netloc}: {type(error).__name__}") from error
        finally:
            # What was read to its end has gone back to the pool; a connection with something left in it may not.
            response.close()


def _chunks(source: object, length: int) -> Iterator[bytes]:
    while length > 0 and (chunk := source.read(min(length, 16 * _CHUNK))):  # type: ignore[attr-defined]
        length -= len(chunk)
        yield chunk


def _write_all(handle: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(handle, view) :]


def _code(response: urllib3.BaseHTTPResponse) -> str:
    return "url-expired" if response.status in (401, 403) else "store-unavailable"
