"""Outputs over HTTP: ranges, checks on the way, a zip while it is sent. Over a real connection: tests/integration/test_gateway_downloads.py."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from fastapi import FastAPI, Request, Response

from fdn_worker.errors import StoreUnavailable
from federation.centre import Centre
from federation.gateway.access import Caller, Role
from federation.gateway.files import send, send_zip, zipped
from federation.gateway.gate import Gate
from federation.results import ManifestDiffers, OutputFile
from storage.objects.folder import FolderStore
from tests.unit.gateway import a_gateway

DATA = bytes(range(256)) * 10_000
WHO = Caller("anna", Role.RESEARCHER)


def stored(centre: Centre, key: str, data: bytes) -> OutputFile:
    centre.store.put(key, io.BytesIO(data), len(data))
    return OutputFile(path=f"outputs/{key}", key=key, size=len(data), sha256=hashlib.sha256(data).hexdigest())


@pytest.fixture
def files(centre: Centre) -> dict[str, OutputFile]:
    return {name: stored(centre, name, data) for name, data in {"data": DATA, "empty": b"", "small": b"abc"}.items()}


@pytest.fixture
def app(centre: Centre, files: dict[str, OutputFile]) -> FastAPI:
    app = a_gateway(centre, downloads_at_once=1)

    @app.get("/files/{name}")
    @app.head("/files/{name}")
    def one(request: Request, name: str) -> Response:
        return send(request, WHO, files[name], f'{name} "é".bin')

    @app.get("/zip")
    def several(request: Request) -> Response:
        return send_zip(request, WHO, list(files.items()), "all")

    return app


@pytest.fixture
async def client(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        yield client


async def test_the_whole(client: httpx.AsyncClient, files: dict[str, OutputFile]) -> None:
    answer = await client.get("/files/data")
    assert (answer.status_code, answer.content == DATA) == (200, True)
    assert answer.headers["etag"] == f'"{files["data"].sha256}"'
    assert (answer.headers["content-length"], answer.headers["accept-ranges"]) == (str(len(DATA)), "bytes")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''data%20%22%C3%A9%22.bin"
    assert (await client.get("/files/empty")).content == b""
    head = await client.head("/files/data")
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(DATA)))


@pytest.mark.parametrize(
    ("asked", "begin", "end"),
    [
        ("bytes=0-9", 0, 10), ("bytes=1000000-", 1_000_000, len(DATA)), ("bytes=-5", len(DATA) - 5, len(DATA)),
        ("bytes=-99999999999", 0, len(DATA)), ("bytes=2559999-9999999", 2_559_999, 2_560_000), ("bytes=0-2559999", 0, len(DATA)),
    ],
)  # fmt: skip
async def test_a_range(client: httpx.AsyncClient, asked: str, begin: int, end: int) -> None:
    for headers in ({"Range": asked}, {"Range": asked, "If-Range": f'"{hashlib.sha256(DATA).hexdigest()}"'}):
        answer = await client.get("/files/data", headers=headers)
        assert (answer.status_code, answer.content == DATA[begin:end]) == (206, True)
        assert answer.headers["content-range"] == f"bytes {begin}-{end - 1}/{len(DATA)}"
        assert answer.headers["content-length"] == str(end - begin)
    assert (await client.head("/files/data", headers={"Range": asked})).headers["content-length"] == str(end - begin)


@pytest.mark.parametrize("asked", ["bytes=9-1", "bytes=-", "bytes=0-1,5-6", "lines=0-1", "bytes=x-1", f"bytes={'9' * 5000}-"])
async def test_a_range_of_no_use_gives_the_whole(client: httpx.AsyncClient, asked: str) -> None:
    answer = await client.get("/files/small", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, b"abc")


async def test_a_range_of_another_version_gives_the_whole(client: httpx.AsyncClient) -> None:
    answer = await client.get("/files/small", headers={"Range": "bytes=0-0", "If-Range": '"another"'})
    assert (answer.status_code, answer.content) == (200, b"abc")


@pytest.mark.parametrize(("name", "asked"), [("small", "bytes=3-"), ("small", "bytes=-0"), ("empty", "bytes=0-0"), ("empty", "bytes=-1")])
async def test_a_range_beyond_the_end(client: httpx.AsyncClient, name: str, asked: str) -> None:
    answer = await client.get(f"/files/{name}", headers={"Range": asked})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{3 if name == 'small' else 0}")
    assert "none in that range" in answer.json()["detail"]


async def test_what_the_client_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    etag = (await client.head("/files/data")).headers["etag"]
    answer = await client.get("/files/data", headers={"If-None-Match": etag})
    assert (answer.status_code, answer.content) == (304, b"")


async def test_a_zip(client: httpx.AsyncClient) -> None:
    answer = await client.get("/zip")
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''all.zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {"data": DATA, "empty": b"", "small": b"abc"}


async def test_a_damaged_file_is_never_whole(client: httpx.AsyncClient, centre: Centre, files: dict[str, OutputFile]) -> None:
    centre.store.put("small", io.BytesIO(b"abd"), 3)
    answer = await client.get("/files/small")
    assert (answer.status_code, answer.json()) == (500, {"detail": "something here is out of order (tell the operator, with the time)"})
    with pytest.raises(ManifestDiffers):
        b"".join(zipped(centre.store, list(files.items())))


async def test_a_download_goes_on_where_the_store_broke(client: httpx.AsyncClient, centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as each try brings something; one that brings nothing ends it."""
    get, offsets = centre.store.get, []

    def breaking(key: str, *, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        offsets.append(offset)
        yield next(iter(get(key, offset=offset, length=min(length or 0, 1_000_000))))
        raise StoreUnavailable("it broke")

    monkeypatch.setattr(centre.store, "get", breaking)
    assert (await client.get("/files/data")).content == DATA
    assert offsets == [0, 1_000_000, 2_000_000]
    assert (await client.get("/files/data", headers={"Range": "bytes=5-2000004"})).content == DATA[5:2_000_005]
    monkeypatch.setattr(centre.store, "get", lambda *_, **__: iter_and_fail())
    assert (await client.get("/files/data")).status_code == 503


def iter_and_fail() -> Iterator[bytes]:
    raise StoreUnavailable("it is down")
    yield b""


async def test_as_many_at_once_as_are_allowed(client: httpx.AsyncClient, app: FastAPI) -> None:
    gate: Gate = app.state.services.gate
    with gate.download(WHO):
        answer = await client.get("/files/data")
        assert (answer.status_code, "1 of your downloads are under way" in answer.text) == (429, True)
    assert (await client.get("/files/data")).status_code == 200


def test_a_zip_whose_reader_goes_away_lets_go_of_the_store(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    store.put("a", io.BytesIO(bytes(3 * 1024**2)), 3 * 1024**2)
    file = OutputFile(path="outputs/a", key="a", size=3 * 1024**2, sha256="")
    chunks = zipped(store, [("a", file)])
    next(chunks)
    assert [one.path for one in psutil.Process().open_files() if one.path.startswith(str(tmp_path))]
    chunks.close()
    assert [one.path for one in psutil.Process().open_files() if one.path.startswith(str(tmp_path))] == []
