"""S3Store: objects in one bucket of MinIO or of any other S3 server.

What the client of package `minio` keeps private (uploads in parts) is used in this module alone; a test pins its signatures.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from threading import Lock
from typing import BinaryIO, cast
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.datatypes import Part
from minio.deleteobjects import DeleteObject
from minio.error import MinioException, S3Error
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, LifecycleConfig, Rule
from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from fdn_worker.errors import ObjectMissing, SettingsError, StoreUnavailable
from fdn_worker.protocol.upload import MOST_PARTS, PartETag
from storage.objects import ObjectInfo
from storage.objects.checks import STALE_UPLOAD_DAYS, Exactly, check_done_before, check_key, incomplete

log = logging.getLogger(__name__)

#: Bytes read at a time.
CHUNK = 1024**2
#: Bytes of a part of what `put` sends; one such part is held in memory. Grows for objects of more than MOST_PARTS of them.
PUT_PART = 16 * CHUNK
#: Seconds to connect, and between two bytes; a store that cannot be reached is told within ten seconds.
CONNECT_TIMEOUT, READ_TIMEOUT = 4.0, 60.0
#: Codes that mean: the key, the secret or their rights are not right.
_NOT_LET_IN = frozenset({"AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed"})
_MISSING = frozenset({"NoSuchKey", "NoSuchUpload"})
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
#: What servers are known to hand out.
_UPLOAD_ID = re.compile(r"[A-Za-z0-9._~+/=-]{1,2048}")
_FORM = "write s3://KEY:SECRET@HOST:PORT/BUCKET, with special characters of key and secret percent-encoded"


class S3Store:
    """The object store in `bucket`, which is made at first use if it is missing. Safe from several threads."""

    def __init__(self, client: Minio, signer: Minio, bucket: str, where: str) -> None:
        self._minio, self._signer, self._bucket = client, signer, bucket
        #: Host and bucket, for messages.
        self._where = where
        self._bucket_is_there = False
        self._lock = Lock()

    @classmethod
    def at(cls, url: str, *, site_url: str = "") -> S3Store:
        """The store at `s3://KEY:SECRET@HOST:PORT/BUCKET?region=REGION` (`s3+http://` without TLS; the region is us-east-1 if not given).

        `site_url` (`https://HOST:PORT`) is the address that signed URLs carry; without it they carry the first one.
        """
        parts = _split(url, _FORM)
        bucket, query = parts.path.strip("/"), parse_qs(parts.query)
        if not (parts.username and parts.password) or "@" in parts.path + parts.query:
            # some piece of this may be of the secret, so nothing is shown
            raise SettingsError("the object store's address has no readable key and secret before its host", remedy=_FORM)
        if not _BUCKET.fullmatch(bucket):
            raise SettingsError(f"the object store's address at {_host(parts)} names no valid bucket: {bucket!r}", remedy=_FORM)
        if unknown := query.keys() - {"region"}:
            raise SettingsError(f"the object store's address has the unknown option {min(unknown)!r}", remedy="only `region` is known")
        key, secret, region = unquote(parts.username), unquote(parts.password), query.get("region", ["us-east-1"])[0]
        http = PoolManager(
            maxsize=16,
            timeout=Timeout(connect=CONNECT_TIMEOUT, read=READ_TIMEOUT),
            retries=Retry(total=2, connect=1, backoff_factor=0.2, status_forcelist=(500, 502, 503, 504), raise_on_status=False),
        )
        client = Minio(_host(parts), key, secret, secure=parts.scheme == "s3", region=region, http_client=http)
        signer = client
        if site_url:
            site = _split(site_url, "write https://HOST:PORT, the store's address as the sites see it")
            if site.scheme not in ("http", "https") or site.path.strip("/") or site.query or site.username:
                raise SettingsError(f"the object store's address for sites at {_host(site)} is not https://HOST:PORT")
            # only signs, which needs no connection since the region is given
            signer = Minio(_host(site), key, secret, secure=site.scheme == "https", region=region, http_client=http)
        return cls(client, signer, bucket, f"object store {_host(parts)}, bucket {bucket}")

    def __repr__(self) -> str:
        return f"S3Store({self._where!r})"

    def put(self, key: str, source: BinaryIO, size: int) -> None:
        part_size = max(PUT_PART, math.ceil(size / MOST_PARTS / CHUNK) * CHUNK)
        exactly = Exactly(check_key(key), source, size)
        with self._told(key):
            # one part at a time: the client's threads for more would never end after an error of the source
            self._client().put_object(self._bucket, key, cast(BinaryIO, exactly), size, part_size=part_size, num_parallel_uploads=1)

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        check_key(key)
        with self._told(key):
            try:
                response = self._client().get_object(self._bucket, key, offset=offset, length=length or 0)
            except S3Error as error:
                if error.code == "InvalidRange":  # nothing is left from there on
                    return
                raise
            try:
                yield from response.stream(CHUNK)
            finally:
                response.close()
                response.release_conn()

    def stat(self, key: str) -> ObjectInfo | None:
        check_key(key)
        with suppress(ObjectMissing), self._told(key):
            return ObjectInfo(key, self._client().stat_object(self._bucket, key).size or 0)
        return None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        with self._told(prefix):
            for found in self._client().list_objects(self._bucket, prefix=prefix, recursive=True):
                yield ObjectInfo(found.object_name or "", found.size or 0)

    def delete(self, keys: Iterable[str]) -> None:
        with self._told("objects to delete"):
            for error in self._client().remove_objects(self._bucket, (DeleteObject(check_key(key)) for key in keys)):
                raise StoreUnavailable(f"{self._where}: cannot delete {error.name!r}: {error.code}: {error.message}")

    def get_url(self, key: str, expires: float) -> str:
        return self._signed("GET", key, expires)

    def put_url(self, key: str, expires: float) -> str:
        with self._told(key):
            self._client()  # a site cannot make the bucket
        return self._signed("PUT", key, expires)

    def begin_upload(self, key: str) -> str:
        check_key(key)
        with self._told(key):
            return self._client()._create_multipart_upload(self._bucket, key, {})

    def part_url(self, key: str, upload_id: str, number: int, offset: int, expires: float) -> str:  # noqa: ARG002
        return self._signed("PUT", key, expires, {"partNumber": str(number), "uploadId": upload_id})

    def put_part(self, key: str, upload_id: str, number: int, offset: int, data: bytes) -> str:  # noqa: ARG002
        check_key(key)
        with self._told(key):
            return self._client()._upload_part(self._bucket, key, data, None, self._checked(upload_id), number).strip('"')

    def complete_upload(self, key: str, upload_id: str, size: int, parts: Sequence[PartETag]) -> None:
        check_key(key)
        named = {part.number: part.etag for part in parts}
        try:
            with self._told(key):
                there = {part.part_number: part for part in self._parts(key, upload_id)}
                # S3 assembles whatever parts are named and leaves the others out
                if sorted(named) != list(range(1, len(parts) + 1)) or any(n not in there or there[n].etag != named[n] for n in named):
                    raise incomplete(key, f"{len(parts)} parts were named, {len(there)} are there")
                if (total := sum(there[number].size or 0 for number in named)) != size:
                    raise incomplete(key, f"{total} of {size} bytes are there")
                self._client()._complete_multipart_upload(self._bucket, key, upload_id, [Part(n, named[n]) for n in sorted(named)])
        except ObjectMissing:
            check_done_before(key, self.stat(key), size)
            return
        # some servers answer 200 before they assemble, and tell of a failure only in the body
        if self.stat(key) != ObjectInfo(key, size):
            raise StoreUnavailable(f"{self._where}: did not assemble {key!r}")

    def abort_upload(self, key: str, upload_id: str) -> None:
        check_key(key)
        with suppress(ObjectMissing), self._told(key):
            self._client()._abort_multipart_upload(self._bucket, key, self._checked(upload_id))

    def close(self) -> None:
        self._minio._http.clear()

    def _checked(self, upload_id: str) -> str:
        """An id that a node hands us; an empty one would turn the request into one for the object itself."""
        if not _UPLOAD_ID.fullmatch(upload_id) or ".." in upload_id:
            raise ObjectMissing(f"{self._where}: knows no upload {upload_id[:80]!r}")
        return upload_id

    def _parts(self, key: str, upload_id: str) -> Iterator[Part]:
        marker: str | None = None
        self._checked(upload_id)
        while True:
            page = self._client()._list_parts(self._bucket, key, upload_id, part_number_marker=marker)
            yield from page.parts
            if not page.is_truncated:
                return
            marker = page.next_part_number_marker

    def _signed(self, method: str, key: str, expires: float, query: dict[str, str] | None = None) -> str:
        lifetime = timedelta(seconds=math.ceil(expires))
        return self._signer.get_presigned_url(method, self._bucket, check_key(key), expires=lifetime, extra_query_params={**(query or {})})

    def _client(self) -> Minio:
        """The client; at its first use the bucket is looked for, and made if need be."""
        with self._lock:
            if not self._bucket_is_there:
                if not self._minio.bucket_exists(self._bucket):
                    self._make_bucket()
                self._bucket_is_there = True
        return self._minio

    def _make_bucket(self) -> None:
        try:
            self._minio.make_bucket(self._bucket)
        except S3Error as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise
        stale = AbortIncompleteMultipartUpload(days_after_initiation=STALE_UPLOAD_DAYS)
        rule = Rule(ENABLED, rule_filter=Filter(prefix=""), rule_id="stale-uploads", abort_incomplete_multipart_upload=stale)
        try:
            self._minio.set_bucket_lifecycle(self._bucket, LifecycleConfig([rule]))
        except MinioException as error:
            log.info("%s: sets no rule that ends stale uploads: %s", self._where, _short(error), extra={"action": "store"})

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """The client's errors as our own, in one line and without secrets."""
        try:
            yield
        except S3Error as error:
            if error.code in _MISSING:
                raise ObjectMissing(f"{self._where}: has no {key!r}") from error
            if error.code in _NOT_LET_IN:
                remedy = "check key and secret in its address, and what they may do with the bucket"
                raise StoreUnavailable(f"{self._where}: does not let us in: {error.code}", remedy=remedy) from error
            raise StoreUnavailable(f"{self._where}: {error.code} at {key!r}: {error.message}") from error
        except (MinioException, HTTPError) as error:
            remedy = "check the address, and that the store runs"
            raise StoreUnavailable(f"{self._where}: cannot be reached: {_short(error)}", remedy=remedy) from error


def _split(url: str, remedy: str) -> SplitResult:
    """The parts of an address that names a host and, if any, a valid port. No error of it shows the address, which may hold a secret."""
    try:
        parts = urlsplit(url)
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise SettingsError("the object store's address cannot be read", remedy=remedy)
    return parts


def _host(parts: SplitResult) -> str:
    return parts.netloc.rpartition("@")[2]


def _short(error: Exception) -> str:
    """The last cause of a connection's error, without the object that it happened to."""
    reason = getattr(error, "reason", None) or error
    return " ".join(str(reason).rpartition("): ")[2].split())[:200]
