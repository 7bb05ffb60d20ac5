"""What every object store keeps to: the folder and a real S3 server, the same tests."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
import urllib3
from minio import Minio

from fdn_worker.errors import FdnError, ObjectMissing, SettingsError, StoreUnavailable
from fdn_worker.protocol.names import NameRefused
from fdn_worker.protocol.upload import SMALLEST_PART, PartETag
from storage.objects import ObjectInfo, ObjectStore, open_store, s3
from storage.objects.checks import STALE_UPLOAD_DAYS, ShortSource
from storage.objects.folder import FolderStore
from tests.support.waiting import eventually

ODD_KEYS = ["a b/ü–文.txt", "100%/#1?x=y&z+w.csv", 'it\'s "quoted";*~!.bin', "%2e%2e/x", "a\\b"]
HTTP = urllib3.PoolManager(retries=False)


@pytest.fixture(params=["folder", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path, unique: str) -> Iterator[str]:
    """The address of an empty store."""
    if request.param == "folder":
        yield f"file://{tmp_path}/a store"
        return
    url = f"{request.getfixturevalue('services').s3_url}/{unique}"
    yield url
    store = open_store(url)
    store.delete([found.key for found in store.list("")])
    admin(url).remove_bucket(unique)
    store.close()


@pytest.fixture
def store(store_url: str) -> Iterator[ObjectStore]:
    opened = open_store(store_url)
    yield opened
    opened.close()


@pytest.fixture
def s3_url(services: object, unique: str) -> str:
    return f"{services.s3_url}/{unique}"  # type: ignore[attr-defined]


def admin(url: str) -> Minio:
    parts = urlsplit(url)
    return Minio(f"{parts.hostname}:{parts.port}", parts.username, parts.password, secure=False)


def put(store: ObjectStore, key: str, data: bytes) -> None:
    store.put(key, io.BytesIO(data), len(data))


def get(store: ObjectStore, key: str, offset: int = 0, length: int | None = None) -> bytes:
    return b"".join(store.get(key, offset=offset, length=length))


def keys(store: ObjectStore, prefix: str = "") -> list[str]:
    return [found.key for found in store.list(prefix)]


def node_puts(url: str, data: bytes) -> str:
    """What a node does with a URL that takes data; the ETag."""
    parts = urlsplit(url)
    if parts.scheme != "file":
        answer = HTTP.request("PUT", url, body=data)
        assert answer.status == 200, answer.data
        return answer.headers["ETag"].strip('"')
    path, query = Path(unquote(parts.path)), parse_qs(parts.query)
    if "offset" in query:
        with path.open("r+b") as file:
            file.seek(int(query["offset"][0]))
            file.write(data)
    else:
        half = path.with_name(f".{path.name}.1.partial")
        half.write_bytes(data)
        half.rename(path)
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def node_gets(url: str) -> bytes:
    parts = urlsplit(url)
    if parts.scheme == "file":
        return Path(unquote(parts.path)).read_bytes()
    answer = HTTP.request("GET", url)
    assert answer.status == 200, answer.data
    return answer.data


PART = SMALLEST_PART
DATA = os.urandom(64 * 1024) * (3 * PART // (64 * 1024)) + b"the end"
OFFSETS = range(0, len(DATA), PART)


def put_part(store: ObjectStore, key: str, upload: str, number: int) -> PartETag:
    offset = OFFSETS[number - 1]
    etag = node_puts(store.part_url(key, upload, number, offset, 60), DATA[offset : offset + PART])
    return PartETag(number=number, etag=etag)


# Objects


@pytest.mark.parametrize("size", [0, 1, 3 * 1024**2 + 1, s3.PUT_PART + 5])
def test_what_is_put_is_what_is_got(store: ObjectStore, size: int) -> None:
    data = os.urandom(size)
    put(store, "a/b/c.bin", data)
    assert get(store, "a/b/c.bin") == data
    assert store.stat("a/b/c.bin") == ObjectInfo("a/b/c.bin", size)
    assert max(map(len, store.get("a/b/c.bin")), default=0) <= 1024**2


def test_put_replaces(store: ObjectStore) -> None:
    put(store, "k", b"the first, longer")
    put(store, "k", b"second")
    assert get(store, "k") == b"second"


@pytest.mark.parametrize("offset", [0, 1, 5, 9, 10, 11])
def test_get_from_an_offset(store: ObjectStore, offset: int) -> None:
    put(store, "k", b"0123456789")
    assert get(store, "k", offset) == b"0123456789"[offset:]


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (0, 10), (3, 4), (8, 5), (10, 1), (11, 2)])
def test_get_a_stretch(store: ObjectStore, offset: int, length: int) -> None:
    put(store, "k", b"0123456789")
    put(store, "empty", b"")
    assert get(store, "k", offset, length) == b"0123456789"[offset : offset + length]
    assert get(store, "empty", offset, length) == b""


def test_a_source_is_read_no_further_than_its_size(store: ObjectStore) -> None:
    source = io.BytesIO(b"0123456789")
    store.put("k", source, 4)
    assert get(store, "k") == b"0123"
    assert source.tell() == 4


def test_a_source_that_gives_little_at_a_time(store: ObjectStore) -> None:
    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(7, size or 0))

    store.put("k", Trickle(b"0123456789" * 10), 100)
    assert get(store, "k") == b"0123456789" * 10


def test_what_is_missing(store: ObjectStore) -> None:
    put(store, "folder/there", b"x")
    for key in ("missing", "folder", "folder/there/below"):
        assert store.stat(key) is None
        with pytest.raises(ObjectMissing, match="has no"):
            get(store, key)
    assert keys(store, "missing/") == []


@pytest.mark.parametrize("key", ODD_KEYS)
def test_odd_keys(store: ObjectStore, key: str) -> None:
    put(store, key, b"here")
    assert (get(store, key), keys(store)) == (b"here", [key])
    assert node_gets(store.get_url(key, 60)) == b"here"
    node_puts(store.put_url(key, 60), b"changed")
    assert (get(store, key), keys(store)) == (b"changed", [key])
    store.delete([key])
    assert store.stat(key) is None


@pytest.mark.parametrize("key", ["../x", "a/../../x", "/x", "", "a//b", "a\nb", "x" * 256])
def test_keys_that_no_store_takes(store: ObjectStore, key: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: put(store, key, b""), lambda: get(store, key), lambda: store.stat(key), lambda: store.delete([key]),
        lambda: store.get_url(key, 60), lambda: store.put_url(key, 60), lambda: store.begin_upload(key),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(NameRefused):
            call()


def test_list_is_in_order_and_below_its_prefix(store: ObjectStore) -> None:
    names = ["a-b", "a.txt", "a/1", "a/10", "a/2/x", "ab/1", "b", "É", "Z"]
    for name in names:
        put(store, name, name.encode())
    in_order = sorted(names, key=str.encode)
    assert [(found.key, found.size) for found in store.list("")] == [(name, len(name.encode())) for name in in_order]
    for prefix in ("a", "a/", "a/1", "a/2/", "ab", "c", "É"):
        assert keys(store, prefix) == [name for name in in_order if name.startswith(prefix)]


def test_delete_takes_what_is_there(store: ObjectStore) -> None:
    for name in ("a/1", "a/2", "b"):
        put(store, name, b"x")
    store.delete(iter(["a/1", "never/was", "b", "b"]))
    store.delete([])
    assert keys(store) == ["a/2"]


class Breaks(io.RawIOBase):
    """A source that gives out after two parts."""

    given = 0

    def __init__(self, error: OSError | None) -> None:
        self._error = error

    def read(self, size: int = -1) -> bytes:
        self.given += size
        if self.given > 2 * s3.PUT_PART:
            if self._error:
                raise self._error
            return b""
        return b"x" * size


@pytest.mark.parametrize("before", [None, b"before"])
def test_a_put_that_fails_halfway_leaves_what_was_there(store: ObjectStore, before: bytes | None) -> None:
    if before:
        put(store, "k", before)
    size = 3 * s3.PUT_PART
    mine = OSError("the disk of the source")
    with pytest.raises(OSError, match="the disk of the source") as told:
        store.put("k", Breaks(mine), size)  # type: ignore[arg-type]
    assert told.value is mine
    with pytest.raises(ShortSource, match=f"'k' ended after .* of {size} bytes"):
        store.put("k", Breaks(None), size)  # type: ignore[arg-type]
    assert keys(store) == (["k"] if before else [])
    assert before is None or get(store, "k") == before


# Uploads in parts, by a node that has nothing but URLs


def test_an_upload_in_parts_resumed_by_a_new_client(store_url: str) -> None:
    first, key = open_store(store_url), "outputs/a b.bin"
    upload = first.begin_upload(key)
    done = [put_part(first, key, upload, number) for number in (2, 1)]
    assert (first.stat(key), keys(first)) == (None, [])
    first.close()

    second = open_store(store_url)
    done += [put_part(second, key, upload, number) for number in (4, 3, 3)][:2]
    second.complete_upload(key, upload, len(DATA), done)
    assert get(second, key) == DATA
    assert keys(second) == [key]
    second.complete_upload(key, upload, len(DATA), done)  # its answer was lost, so the node asks again
    assert get(second, key) == DATA
    second.close()


def test_an_upload_of_one_part(store: ObjectStore) -> None:
    upload = store.begin_upload("k")
    etag = node_puts(store.part_url("k", upload, 1, 0, 60), b"all of it")
    assert etag == hashlib.md5(b"all of it", usedforsecurity=False).hexdigest()
    store.complete_upload("k", upload, 9, [PartETag(number=1, etag=etag)])
    assert get(store, "k") == b"all of it"


def test_parts_from_the_centre_itself(store: ObjectStore) -> None:
    """For nodes that reach the centre alone; some parts may have come by signed URLs."""
    upload, done = store.begin_upload("k"), []
    for number in (4, 2, 2, 1):
        offset = OFFSETS[number - 1]
        data = DATA[offset : offset + PART]
        etag = store.put_part("k", upload, number, offset, data)
        assert etag == hashlib.md5(data, usedforsecurity=False).hexdigest()
        done.append(PartETag(number=number, etag=etag))
    done.append(put_part(store, "k", upload, 3))
    assert store.stat("k") is None
    store.complete_upload("k", upload, len(DATA), done[:1] + done[2:])
    assert get(store, "k") == DATA
    for of, wrong in (("k", upload), ("other", upload), ("k", "../../x"), ("k", "")):
        with pytest.raises(ObjectMissing):
            store.put_part(of, wrong, 1, 0, b"x")
    assert get(store, "k") == DATA


@pytest.mark.parametrize("missing", [1, 2, 4])
def test_an_upload_without_all_parts_is_not_seen(store: ObjectStore, missing: int) -> None:
    upload = store.begin_upload("k")
    done = [put_part(store, "k", upload, number) for number in (1, 2, 3, 4) if number != missing]
    with pytest.raises(StoreUnavailable, match="not complete") as told:
        store.complete_upload("k", upload, len(DATA), done)
    assert told.value.code == "upload-incomplete"
    assert (store.stat("k"), keys(store)) == (None, [])

    done.append(put_part(store, "k", upload, missing))
    store.complete_upload("k", upload, len(DATA), done)
    assert get(store, "k") == DATA


def test_an_upload_of_another_size_is_not_seen(store: ObjectStore) -> None:
    upload = store.begin_upload("k")
    done = [put_part(store, "k", upload, number) for number in (1, 2, 3, 4)]
    for size in (len(DATA) - 1, len(DATA) + 1):
        with pytest.raises(StoreUnavailable, match="not complete"):
            store.complete_upload("k", upload, size, done)
    assert store.stat("k") is None
    store.abort_upload("k", upload)


def test_what_is_aborted_is_gone(store: ObjectStore) -> None:
    upload = store.begin_upload("k")
    done = [put_part(store, "k", upload, number) for number in (1, 2)]
    store.abort_upload("k", upload)
    store.abort_upload("k", upload)
    with pytest.raises(ObjectMissing, match="neither the upload of 'k' nor the object"):
        store.complete_upload("k", upload, 2 * PART, done)
    assert keys(store) == []


def test_a_part_of_an_upload_that_is_gone_is_taken_nowhere(store: ObjectStore) -> None:
    """A folder says so when asked for the URL; S3, which signs without a look, when it is used."""
    put(store, "k", b"whole")
    upload = store.begin_upload("k")
    store.abort_upload("k", upload)
    try:
        url = store.part_url("k", upload, 1, 0, 60)
    except ObjectMissing:
        assert isinstance(store, FolderStore)
    else:
        assert HTTP.request("PUT", url, body=b"x").status == 404
    assert get(store, "k") == b"whole"


def test_an_upload_is_good_for_its_own_key_alone(store: ObjectStore) -> None:
    """A node hands the id back, so that it must not lead to another's object."""
    upload = store.begin_upload("mine")
    done = [put_part(store, "mine", upload, 4)]
    for wrong in (upload, "../../etc/passwd", "", "x" * 5000):
        with pytest.raises(FdnError):
            store.complete_upload("theirs", wrong, len(DATA) - OFFSETS[3], done)
        store.abort_upload("theirs", wrong)
    assert keys(store) == []
    put_part(store, "mine", upload, 4)  # it still stands
    store.abort_upload("mine", upload)


def test_aborting_nothing_leaves_the_object(store: ObjectStore) -> None:
    """An S3 server may read a DELETE with an empty upload id as one of the object itself."""
    put(store, "k", b"here")
    for nothing in ("", "never-was", "../k"):
        store.abort_upload("k", nothing)
    assert get(store, "k") == b"here"


# Faults


def test_a_store_that_is_not_there_is_told_soon(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for url, where in (
        (f"file://{tmp_path}/file/store", f"{tmp_path}/file/store"),
        (f"s3+http://key:hushhush@127.0.0.1:{port}/bucket", f"127.0.0.1:{port}, bucket bucket"),
    ):
        store, begin = open_store(url), time.monotonic()
        calls: list[Callable[[], object]] = [lambda s=store: put(s, "k", b"x"), lambda s=store: s.begin_upload("k")]  # type: ignore[misc]
        for call in calls:
            with pytest.raises(StoreUnavailable) as told:
                call()
            assert where in str(told.value)
            assert "\n" not in str(told.value)
            assert "hushhush" not in f"{told.value!s}{store!r}"
        assert time.monotonic() - begin < 30


def test_a_store_that_takes_no_connection_is_told_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2 * s3.CONNECT_TIMEOUT + 1 < 10
    monkeypatch.setattr(s3, "CONNECT_TIMEOUT", 0.3)
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        crowd = [socket.socket() for _ in range(4)]  # fills the queue of a server that accepts nobody
        try:
            for one in crowd:
                one.setblocking(False)
                one.connect_ex(address)
            begin = time.monotonic()
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                open_store(f"s3+http://key:secret@127.0.0.1:{address[1]}/bucket").stat("k")
            assert time.monotonic() - begin < 30
        finally:
            for one in crowd:
                one.close()


def test_a_wrong_secret_is_told_as_such(s3_url: str) -> None:
    parts = urlsplit(s3_url)
    for user in (f"{parts.username}:wrong-and-hushed", "nobody:wrong-and-hushed"):
        store = open_store(s3_url.replace(f"{parts.username}:{parts.password}", user))
        for call in (lambda s=store: s.stat("k"), lambda s=store: put(s, "k", b"x"), lambda s=store: list(s.list(""))):
            with pytest.raises(StoreUnavailable, match=r"does not let us in: .*check key and secret") as told:
                call()
            assert "hushed" not in str(told.value)
        store.close()


@pytest.mark.parametrize(
    "url",
    [
        "s3://host/bucket", "s3://key:sec/ret-hush@host/bucket", "s3://key:se@c/ret-hush@host/bucket", "s3://key:se?c#ret-hush@host/b",
        "s3://key:hush@host:port/bucket", "s3://key:hush@host", "s3://key:hush@host/a/b", "s3://key:hush@host/Bad_Bucket",
        "s3://key:hush@host/bucket?regoin=x", "ftp://key:hush@host/bucket",
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_read(url: str) -> None:
    with pytest.raises(SettingsError) as told:
        open_store(url)
    assert "hush" not in str(told.value)
    assert told.value.remedy


@pytest.mark.parametrize("site_url", ["host:9000", "ftp://host", "https://host/path", "https://host:port"])
def test_an_address_for_sites_that_cannot_be_read(site_url: str) -> None:
    with pytest.raises(SettingsError):
        open_store("s3://key:secret@host/bucket", site_url=site_url)


# Of S3 alone


def test_signed_urls_expire(s3_url: str, unique: str) -> None:
    store = open_store(s3_url)
    put(store, "k", b"x")
    assert HTTP.request("GET", store.get_url("k", 60)).status == 200
    url = store.get_url("k", 1)
    eventually("it has expired", lambda: HTTP.request("GET", url).status == 403)
    unsigned = url.partition("?")[0]
    assert HTTP.request("GET", unsigned).status == 403
    assert HTTP.request("PUT", store.get_url("k", 60), body=b"y").status == 403
    assert HTTP.request("GET", store.get_url("k", 60).replace("/k?", "/other?")).status == 403
    store.delete(["k"])
    admin(s3_url).remove_bucket(unique)


def test_signed_urls_carry_the_sites_address(s3_url: str) -> None:
    """And are minted without a word to the store: none listens at either address."""
    store = open_store("s3://key:secret@centre.invalid:1/bucket?region=eu-1", site_url="https://store.example:444")
    for url in (store.get_url("a b", 60), store.part_url("a b", "id", 7, 0, 60)):
        assert url.startswith("https://store.example:444/bucket/a%20b?")
        assert "eu-1" in url
        assert "secret" not in url
    assert "partNumber=7&uploadId=id" in store.part_url("a b", "id", 7, 0, 60)


def test_more_parts_than_one_page_lists(monkeypatch: pytest.MonkeyPatch, s3_url: str, unique: str) -> None:
    pages: list[str | None] = []
    whole = Minio._list_parts

    def two_a_page(self: Minio, bucket: str, key: str, upload: str, part_number_marker: str | None = None) -> object:
        pages.append(part_number_marker)
        return whole(self, bucket, key, upload, max_parts=2, part_number_marker=part_number_marker)

    monkeypatch.setattr(Minio, "_list_parts", two_a_page)
    store = open_store(s3_url)
    upload = store.begin_upload("k")
    store.complete_upload("k", upload, len(DATA), [put_part(store, "k", upload, number) for number in (1, 2, 3, 4)])
    assert len(pages) == 2
    assert store.stat("k") == ObjectInfo("k", len(DATA))
    store.delete(["k"])
    admin(s3_url).remove_bucket(unique)


def test_a_part_that_differs_is_not_assembled(s3_url: str, unique: str) -> None:
    store = open_store(s3_url)
    upload = store.begin_upload("k")
    put_part(store, "k", upload, 4)
    with pytest.raises(StoreUnavailable, match="not complete"):
        store.complete_upload("k", upload, 7, [PartETag(number=1, etag="0" * 32)])
    store.abort_upload("k", upload)
    admin(s3_url).remove_bucket(unique)


def test_the_private_calls_of_the_client_are_as_they_were() -> None:
    """S3Store uses these; when a release of `minio` changes one, this says so before a site does."""
    takes = {
        name: [f"{p.name}{'=' if p.default is not p.empty else ''}" for p in inspect.signature(getattr(Minio, name)).parameters.values()]
        for name in ("_create_multipart_upload", "_complete_multipart_upload", "_abort_multipart_upload", "_list_parts")
    }
    assert takes["_create_multipart_upload"] == ["self", "bucket_name", "object_name", "headers"]
    assert takes["_complete_multipart_upload"] == ["self", "bucket_name", "object_name", "upload_id", "parts", "ssec="]
    assert takes["_abort_multipart_upload"] == ["self", "bucket_name", "object_name", "upload_id"]
    assert takes["_list_parts"][:6] == ["self", "bucket_name", "object_name", "upload_id", "max_parts=", "part_number_marker="]
    uploads = list(inspect.signature(Minio._upload_part).parameters)
    assert uploads == ["self", "bucket_name", "object_name", "data", "headers", "upload_id", "part_number"]
    assert isinstance(Minio("host:1", "k", "s")._http, urllib3.PoolManager)


# Of the folder alone


def test_no_link_is_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("not yours")
    store = open_store(f"file://{tmp_path}/store")
    put(store, "there", b"x")
    (tmp_path / "store/link").symlink_to(outside)
    (tmp_path / "store/file").symlink_to(outside / "secret")
    for key in ("link/secret", "file", "link/new"):
        with pytest.raises(StoreUnavailable, match="is a symbolic link"):
            put(store, key, b"changed")
        with pytest.raises(StoreUnavailable, match="is a symbolic link"):
            get(store, key)
        with pytest.raises(StoreUnavailable, match="is a symbolic link"):
            store.put_url(key, 60)
    assert keys(store) == ["there"]
    assert (outside / "secret").read_text() == "not yours"
    assert not (outside / "new").exists()


def test_what_is_the_folders_own_is_no_object(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    Path(unquote(urlsplit(store.put_url("a/k", 60)).path)).with_name(".k.1.partial").write_bytes(b"half")
    store.begin_upload("k")
    assert keys(store) == keys(store, ".uploads/") == []
    for key in (".uploads/x", "a/.k.1.partial"):
        with pytest.raises(NameRefused, match="the store's own"):
            get(store, key)


def test_stale_uploads_are_swept_away(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/store")
    stale, fresh = store.begin_upload("stale"), store.begin_upload("fresh")
    long_ago = time.time() - (STALE_UPLOAD_DAYS + 1) * 86_400
    os.utime(tmp_path / "store/.uploads" / stale, (long_ago, long_ago))
    newer = store.begin_upload("newer")
    assert {path.name for path in (tmp_path / "store/.uploads").iterdir()} == {fresh, newer}


# Memory

GIGABYTE = """
import json, sys, time
from pathlib import Path
from storage.objects import open_store
url, source, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = open_store(url)
with open(source, "rb") as file:
    store.put("big", file, size)
got = sum(map(len, store.get("big")))
store.delete(["big"])
# Not rusage, whose peak is inherited from the process that forked this one.
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(json.dumps({"got": got, "peak_kib": int(status["VmHWM"].split()[0])}))
"""


def test_a_gigabyte_goes_in_constant_memory(store_url: str, tmp_path: Path) -> None:
    source, size = tmp_path / "sparse", 1024**3
    with source.open("wb") as file:
        file.truncate(size)
    done = subprocess.run([sys.executable, "-c", GIGABYTE, store_url, source, str(size)], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["got"] == size
    assert told["peak_kib"] < 200 * 1024
