"""Downloads over a real connection: constant memory, what cannot be sent whole is cut off, and a client that stops reading is let go."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import httpx
import psutil
import pytest

from tests.support.checkout import ROOT
from tests.support.waiting import eventually

#: Serves one large file of a folder, and a zip with it twice, as the gateway does.
SERVER = """
import sys
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path
import uvicorn
from fastapi import FastAPI, Request
from fdn_worker.errors import StoreUnavailable
from federation.gateway.files import Sending, _whole, zipped
from federation.results import OutputFile
from storage.objects.folder import FolderStore

store, size, sha256 = FolderStore(Path(sys.argv[1])), int(sys.argv[2]), sys.argv[3]
file = OutputFile(path="outputs/large", key="large", size=size, sha256=sha256)
app = FastAPI()

def sending(chunks, patience=100.0, **headers):
    return Sending(chunks, 200, headers, "application/octet-stream", held=nullcontext(), patience=patience)

@app.get("/whole")
def whole(patience: float = 100.0):
    return sending(_whole(store, file), patience, **{"Content-Length": str(size)})

@app.get("/zip")
def archive():
    return sending(zipped(store, [("large", file)]))

store.put("damaged", BytesIO(bytes(3 * 1024**2)), 3 * 1024**2)
other = OutputFile(path="outputs/damaged", key="damaged", size=3 * 1024**2, sha256=sha256)

@app.get("/damaged")
def damaged():
    return sending(_whole(store, other), **{"Content-Length": str(other.size)})

@app.get("/damaged-zip")
def damaged_zip():
    return sending(zipped(store, [("damaged", other)]))

def down():
    yield b"x"
    yield b"y"
    raise StoreUnavailable("it went down")

@app.get("/down")
def failing():
    return sending(down())

uvicorn.run(app, fd=int(sys.argv[4]), log_level="warning", http="h11")
"""
SIZE = int(os.environ.get("FEM_TEST_LARGE", 512 * 1024**2))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, psutil.Process]]:
    """The address of such a server over a sparse file of SIZE bytes, and its process."""
    folder = tmp_path_factory.mktemp("store")
    digest, zeros = hashlib.sha256(), bytes(1024**2)
    with (folder / "large").open("wb") as large:
        large.truncate(SIZE)
    for _ in range(SIZE // len(zeros)):
        digest.update(zeros)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.set_inheritable(True)
        words = [sys.executable, "-c", SERVER, str(folder), str(SIZE), digest.hexdigest(), str(listening.fileno())]
        process = subprocess.Popen(words, cwd=ROOT, pass_fds=[listening.fileno()])
        address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield address, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


async def test_a_large_file_takes_no_memory(served: tuple[str, psutil.Process]) -> None:
    """Neither whole nor in a zip, at the same time."""
    address, process = served
    most = 0

    async def fetched(client: httpx.AsyncClient, path: str) -> int:
        nonlocal most
        size = 0
        async with client.stream("GET", address + path) as answer:
            async for chunk in answer.aiter_raw(4 * 1024**2):
                size += len(chunk)
                most = max(most, process.memory_info().rss)
        return size

    async with httpx.AsyncClient(timeout=100) as client:
        async with client.stream("GET", address + "/whole") as answer:
            await anext(answer.aiter_raw())
        before = process.memory_info().rss
        whole, archive = await asyncio.gather(fetched(client, "/whole"), fetched(client, "/zip"))
    assert whole == SIZE
    assert SIZE < archive < SIZE + 10_000
    assert most - before < 64 * 1024**2


@pytest.mark.parametrize("path", ["/damaged", "/damaged-zip", "/down"])
def test_what_cannot_be_sent_whole_is_cut_off(served: tuple[str, psutil.Process], path: str) -> None:
    """So that the client sees it, with a length announced or without."""
    address, _ = served
    with httpx.stream("GET", address + path, timeout=100) as answer, pytest.raises(httpx.RemoteProtocolError):
        answer.read()


def test_a_client_that_stops_reading_is_let_go(served: tuple[str, psutil.Process]) -> None:
    address, process = served
    host, _, port = address.removeprefix("http://").partition(":")

    def held() -> int:
        return sum(one.path.endswith("/large") for one in process.open_files())

    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"GET /whole?patience=0.5 HTTP/1.1\r\nHost: gateway\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")
        eventually("the file is let go", lambda: held() == 0)
        # and what it is sent in the end is less than was announced
        size = 0
        while chunk := client.recv(1024**2):
            size += len(chunk)
        assert size < SIZE
