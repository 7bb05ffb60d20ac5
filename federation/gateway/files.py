"""Outputs over HTTP: one file with ranges, several as a zip that is made while it is sent; memory is constant, whatever their size.

What is sent whole is hashed on its way, and its last bytes are held back until the hash is the manifest's: a file that was
damaged in the store, or a store that fails midway, gives a download that is cut off, and none that looks whole.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import logging
import re
from collections.abc import Collection, Generator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, field
from datetime import datetime
from itertools import chain
from urllib.parse import quote
from uuid import UUID
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from fastapi import Request
from starlette.concurrency import iterate_in_threadpool, run_in_threadpool
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from fdn_worker.errors import FdnError, ObjectMissing, StoreUnavailable
from fdn_worker.protocol import Report, now
from fdn_worker.protocol.manifest import OUTPUTS
from federation.centre import Centre, Submission
from federation.gateway.access import Caller
from federation.gateway.manifests import Manifests
from federation.gateway.services import of
from federation.results import FilesDeleted, ManifestDiffers, OutputFile, listed
from storage.objects import ObjectStore
from storage.records import ExecutionRow

log = logging.getLogger(__name__)

#: One range of bytes. Others than these are answered with the whole, as HTTP allows.
_RANGE = re.compile(r"bytes=\s*(\d{0,18})\s*-\s*(\d{0,18})\s*")


@dataclass(frozen=True)
class Output:
    """A file that a run has left."""

    task: str
    node: str
    file: OutputFile

    @property
    def path(self) -> str:
        """As the task wrote it below its sandbox."""
        return self.file.path.removeprefix(OUTPUTS)

    @property
    def name(self) -> str:
        """Its path's last part."""
        return self.path.rpartition("/")[2]


@dataclass
class Left:
    """What an execution has left so far: files, those of runs that ended first before the others, and what is wrong at which node."""

    files: list[Output] = field(default_factory=list)
    troubles: dict[str, str] = field(default_factory=dict)


def outputs(centre: Centre, row: ExecutionRow, nodes: Collection[str] = (), *, known: Manifests | None = None) -> Left:
    """Of these nodes, or of all: what their manifests say, without a look at each file in the store. FilesDeleted after retention.

    What one node left damaged holds up no other. What is `known` is not read again.
    """
    ended: list[tuple[datetime, Submission, str]] = []
    for run, attempt in centre.records.current_attempts(row.id):
        sha256 = Report.model_validate_json(attempt.report).manifest_sha256 if attempt.report else None
        if sha256 is not None and (not nodes or run.node in nodes):
            if row.cleaned is not None and row.cleaned > attempt.issued:
                raise FilesDeleted(f"the files of execution {row.id} were deleted on {row.cleaned:%Y-%m-%d} by retention")
            ended.append((attempt.state_at, Submission(UUID(row.id), UUID(run.id), run.task, run.node, run.attempt), sha256))
    ended.sort(key=lambda one: (one[0], one[1].run))
    known = known or Manifests()
    found = {submission.run: files for _, submission, sha256 in ended if (files := known.get(submission, sha256)) is not None}
    left = Left()

    def read(one: tuple[datetime, Submission, str]) -> None:
        _, submission, sha256 = one
        try:
            found[submission.run] = listed(centre, submission, sha256)
            known.put(submission, sha256, found[submission.run])
        except (ManifestDiffers, ObjectMissing) as error:
            log.error("%s: %s", submission.node, error, extra={"action": "manifest-differs"})
            left.troubles[submission.node] = "what this node left is damaged in the store"

    centre.side_by_side([one for one in ended if one[1].run not in found], read)
    for _, submission, _ in ended:
        files = found.get(submission.run, [])
        left.files += [Output(submission.task, submission.node, file) for file in files if file.path.startswith(OUTPUTS)]
    return left


def send(request: Request, who: Caller, file: OutputFile, name: str) -> Response:
    """The file, or the one range of it that is asked for. It is always a download: no browser shows what a site sent as a page of ours."""
    headers = {"Accept-Ranges": "bytes", "ETag": f'"{file.sha256}"', **_attached(name)}
    if request.headers.get("If-None-Match") in (headers["ETag"], "*"):
        return Response(status_code=304, headers=headers)
    try:
        asked = _span(request.headers, file)
    except _Unsatisfiable:
        return JSONResponse(
            {"detail": f"{name} has {file.size:,} bytes, and none in that range"}, 416, {"Content-Range": f"bytes */{file.size}"}
        )
    begin, end = asked or (0, file.size)
    headers["Content-Length"] = str(end - begin)
    if asked:
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{file.size}"
    status = 206 if asked else 200
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type=_BYTES)
    services = of(request)
    chunks = _part(services.centre.store, file, begin, end) if asked else _whole(services.centre.store, file)
    return Sending(chunks, status, headers, _BYTES, held=services.gate.download(who), patience=services.settings.patience)


def send_zip(request: Request, who: Caller, files: Sequence[tuple[str, OutputFile]], name: str) -> Response:
    """The files under these names, as NAME.zip. Its length is not known before, so it has no ranges."""
    headers = _attached(f"{name}.zip")
    if request.method == "HEAD":
        return Response(headers=headers, media_type="application/zip")
    services = of(request)
    chunks = zipped(services.centre.store, files)
    return Sending(chunks, 200, headers, "application/zip", held=services.gate.download(who), patience=services.settings.patience)


_BYTES = "application/octet-stream"


def _attached(name: str) -> dict[str, str]:
    return {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='')}", "X-Content-Type-Options": "nosniff"}


class _Unsatisfiable(Exception):
    """The range begins behind the file's end."""


def _span(headers: Headers, file: OutputFile) -> tuple[int, int] | None:
    """Which bytes are wanted, [begin, end); None for all of them."""
    found = _RANGE.fullmatch(headers.get("Range", ""))
    if found is None or found.groups() == ("", "") or headers.get("If-Range", f'"{file.sha256}"') != f'"{file.sha256}"':
        return None
    first, last = found.groups()
    if not first:
        begin, end = max(0, file.size - int(last)), file.size
    else:
        begin, end = int(first), min(int(last) + 1, file.size) if last else file.size
        if last and int(last) < begin:
            return None
    if begin >= file.size:
        raise _Unsatisfiable
    return begin, end


class Sending(StreamingResponse):
    """A body from a generator, which is closed whatever happens; holds `held` until then.

    A client that takes nothing for `patience` seconds is let go. Faults midway cut the connection: that is all that HTTP leaves.
    """

    def __init__(
        self, chunks: Generator[bytes], status: int, headers: dict[str, str], media_type: str, *, held: AbstractContextManager[None], patience: float
    ) -> None:  # fmt: skip
        super().__init__(chunks, status, headers, media_type)
        self._chunks, self._held, self._patience = chunks, held, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._held, closing(self._chunks):
            # Before the answer begins, so that a store that is down has a status of its own.
            first = await run_in_threadpool(next, self._chunks, b"")
            self.body_iterator = iterate_in_threadpool(chain((first,), self._chunks))
            await super().__call__(scope, receive, send)

    async def stream_response(self, send: Send) -> None:
        async def in_time(message: object) -> None:
            async with asyncio.timeout(self._patience):
                await send(message)  # type: ignore[arg-type]

        try:
            await super().stream_response(in_time)
        except TimeoutError:
            log.warning("a client that takes nothing is let go", extra={"action": "download-stalled"})
        except FdnError as error:
            log.error("a download is cut off: %s", error, extra={"action": "download-cut"})


def _part(store: ObjectStore, file: OutputFile, begin: int, end: int) -> Generator[bytes]:
    """Goes on where the store's connection broke, as it does under a client that is slow, as long as each try brings something."""
    at = -1
    while at < begin < end:
        at = begin
        try:
            for chunk in store.get(file.key, offset=begin, length=end - begin):
                begin += len(chunk)
                yield chunk
        except StoreUnavailable as error:
            if at == begin:
                raise
            log.info("a download goes on at byte %d: %s", begin, error, extra={"action": "download-resumed"})


def _whole(store: ObjectStore, file: OutputFile) -> Generator[bytes]:
    """All of it; what does not have the hash that the manifest lists ends in an error instead of its last bytes."""
    digest, last = hashlib.sha256(), b""
    for chunk in _part(store, file, 0, file.size):
        digest.update(chunk)
        if last:
            yield last
        last = chunk
    if digest.hexdigest() != file.sha256:
        raise ManifestDiffers(f"{file.key} is not what its manifest lists")
    if last:
        yield last


class _Taken(io.RawIOBase):
    """Where the zip is written to, and taken from at once. It cannot seek, so sizes and sums follow each file's bytes."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        part = bytes(data)  # type: ignore[call-overload]
        self._parts.append(part)
        return len(part)

    def take(self) -> bytes:
        taken, self._parts = b"".join(self._parts), []
        return taken


def zipped(store: ObjectStore, files: Sequence[tuple[str, OutputFile]]) -> Generator[bytes]:
    """A zip of the files under these names, as it grows. What the sites sent may be packed already, so it is stored as it is."""
    sink = _Taken()
    with ZipFile(sink, "w", ZIP_STORED) as archive:
        for name, file in files:
            entry = ZipInfo(name, now().timetuple()[:6])
            entry.file_size, entry.external_attr = file.size, 0o644 << 16
            with archive.open(entry, "w") as target, closing(_whole(store, file)) as chunks:
                for chunk in chunks:
                    target.write(chunk)
                    yield sink.take()
    yield sink.take()
