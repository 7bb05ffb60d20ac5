"""Files between the node and the centre's store, by the node's way, as the relay grants it when they are needed.

The node holds no credentials of the store. A file larger than a part goes up in parts; what the store took is
journalled, so an upload that was cut goes on where it was, also after a restart.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from fdn_worker.asking import Asking
from fdn_worker.brokers import Broker, connect
from fdn_worker.brokers.backoff import delays
from fdn_worker.chunks import Chunks
from fdn_worker.errors import FdnError, ObjectMissing, StoreUnavailable, SystemFault, TaskFailed
from fdn_worker.journal import Journal
from fdn_worker.protocol import (
    Abort,
    Complete,
    Completed,
    Grant,
    InputFile,
    Keyring,
    Refusal,
    Signer,
    Taken,
    TaskOrder,
    TransferRequest,
    base,
)
from fdn_worker.protocol.upload import MOST_PARTS, AbortedFile, FinishedFile, GrantedFile, PartETag, TransferFile
from fdn_worker.settings import TransferSection, WorkerSettings
from fdn_worker.signed_urls import SignedUrls
from fdn_worker.way import Place, Stopped, Way

log = logging.getLogger(__name__)

#: Files, and URLs for them, in one request: a message has its limit at the broker.
FILES_A_REQUEST, URLS_A_REQUEST = 200, 2000


@dataclass(frozen=True)
class Upload:
    """A file to put at `path` below the attempt's prefix."""

    path: str
    file: Path
    size: int


class Transfers:
    """All transfers of the node; safe from every thread."""

    def __init__(self, settings: TransferSection, asking: Asking, way: Way, journal: Journal) -> None:
        self._settings, self._asking, self._way, self._journal = settings, asking, way, journal
        self._pool = ThreadPoolExecutor(settings.parallel, thread_name_prefix="part")

    @classmethod
    def of(cls, settings: WorkerSettings, broker: Broker, journal: Journal, signer: Signer, keyring: Keyring) -> Transfers:
        """As the site's settings have it. Nothing is connected yet."""
        asking = Asking(settings.node, broker, signer)
        way: Way = SignedUrls(settings.transfer)
        if settings.transfer.by == "broker":
            # A connection of its own: no event waits behind a file.
            own = connect(settings.broker.url.get_secret_value(), name=f"fdn-worker {settings.node} files")
            way = Chunks(settings.node, own, asking, signer, keyring)
        return cls(settings.transfer, asking, way, journal)

    def close(self) -> None:
        """Let go of connections and threads."""
        self._pool.shutdown(wait=False)
        self._way.close()

    def answered(self, answer: Grant | Completed | Taken | Refusal) -> None:
        """The relay's answer has come."""
        self._asking.answered(answer)

    def get_inputs(self, order: TaskOrder, folder: Path, stopping: Callable[[], bool]) -> int:
        """Fetch and check the order's inputs that are not there yet; the bytes they hold."""
        return self._fetch(order, [(item, folder / item.name) for item in order.inputs], stopping)

    def get_source(self, order: TaskOrder, target: Path, stopping: Callable[[], bool]) -> Path | None:
        """Fetch and check the Git pack that came with the order's source; None when none came."""
        if order.source is None or order.source.pack is None:
            return None
        self._fetch(order, [(order.source.pack, target)], stopping)
        return target

    def _fetch(self, order: TaskOrder, files: Sequence[tuple[InputFile, Path]], stopping: Callable[[], bool]) -> int:
        missing = [(item, target) for item, target in files if not target.exists()]
        for _, target in missing:
            target.parent.mkdir(parents=True, exist_ok=True)

        def fetch() -> None:
            wanted = [(item, target) for item, target in missing if not target.exists()]
            for start in range(0, len(wanted), FILES_A_REQUEST):
                batch = wanted[start : start + FILES_A_REQUEST]
                grant = self._granted(order, "get", [TransferFile(path=item.where, size=item.size) for item, _ in batch], stopping)
                urls = {file.path: file.urls[0].url for file in grant.files}
                for item, target in batch:
                    self._get(Place(order, item.where, item.size, urls[item.where]), target, item.sha256, stopping)

        if missing:
            self._persist(fetch, stopping, order.timeout)
        return sum(item.size for item, _ in files)

    def put_files(self, order: TaskOrder, uploads: Sequence[Upload], stopping: Callable[[], bool]) -> None:
        """Put the files into the store, in this order: each is whole before the next ends, and the last is last."""
        left = list(uploads)

        def put() -> None:
            while left:
                batch = self._batch(order.name, left)
                wanted = [self._wanted(order.name, upload) for upload in batch if not self._all_up(order.name, upload)]
                granted = {file.path: file for file in self._grant_puts(order, wanted, stopping)}
                for upload in batch:
                    self._put(order, upload, granted.get(upload.path), stopping)
                    left.remove(upload)

        try:
            self._persist(put, stopping, self._settings.keep_trying)
        except (FdnError, Stopped):
            self._abort(order, uploads)
            raise
        self._journal.parts_forgotten(order.name)

    def _abort(self, order: TaskOrder, uploads: Sequence[Upload]) -> None:
        """Have the store drop what is half up; should the word be lost, the store's own rule drops it later."""
        begun = [(upload.path, begun[0]) for upload in uploads if (begun := self._begun(order.name, upload)) is not None]
        self._journal.parts_forgotten(order.name)
        if not begun:
            return
        files = tuple(AbortedFile(path=path, upload_id=upload_id) for path, upload_id in begun)
        message = Abort(request=uuid4(), node=order.node, run=order.run, attempt=order.attempt, files=files)
        try:
            self._asking.send(message)
        except SystemFault as error:
            log.warning("%d half-done uploads are left to the store's own rule: %s", len(files), error, extra={"action": "abort-lost"})

    def _grant_puts(self, order: TaskOrder, wanted: list[TransferFile], stopping: Callable[[], bool]) -> Sequence[GrantedFile]:
        if not wanted:
            return ()
        try:
            return self._granted(order, "put", wanted, stopping).files
        except ObjectMissing as error:
            if error.code != ObjectMissing.code:
                raise
            # An upload that was begun is not known any more: all of them begin anew.
            for file in wanted:
                self._journal.parts_forgotten(order.name, file.path)
            raise StoreUnavailable(f"uploads begin again: {error.message}", code="upload-restarted") from error

    def _granted(self, order: TaskOrder, direction: base.Direction, files: list[TransferFile], stopping: Callable[[], bool]) -> Grant:
        request = TransferRequest(
            request=uuid4(), node=order.node, run=order.run, attempt=order.attempt, direction=direction, files=tuple(files), by=self._way.name
        )  # fmt: skip
        answer = self._asking.ask(request, stopping)
        if not isinstance(answer, Grant):
            raise StoreUnavailable(f"the centre answered {type(answer).__name__} to a request for URLs")
        return answer

    def _persist(self, work: Callable[[], None], stopping: Callable[[], bool], seconds: float) -> None:
        """Try `work` again, with full jitter, as long as what fails may pass."""
        end, pauses = time.monotonic() + seconds, delays()
        while True:
            try:
                work()
            except SystemFault as error:
                if not error.retryable or time.monotonic() > end:
                    raise
                pause = next(pauses)
                log.warning("transfer waits: %s; next try in %.1f s", error, pause, extra={"action": "transfer-waits"})
                resume = time.monotonic() + pause
                while time.monotonic() < resume:
                    if stopping():
                        raise Stopped from error
                    time.sleep(min(0.2, max(0.0, resume - time.monotonic())))
            else:
                return

    # Up

    def _part_size(self, upload: Upload) -> int:
        """Bytes of a part, or 0 for a file in one piece."""
        size = max(self._settings.part_size, math.ceil(upload.size / (MOST_PARTS - 1)))
        return size if upload.size > size else 0

    def _batch(self, name: str, left: Sequence[Upload]) -> list[Upload]:
        """The next files that fit into one request."""
        batch: list[Upload] = []
        urls = 0
        for upload in left[:FILES_A_REQUEST]:
            urls += len(self._missing(name, upload)) if self._part_size(upload) else 1
            if batch and urls > URLS_A_REQUEST:
                break
            batch.append(upload)
        return batch

    def _begun(self, name: str, upload: Upload) -> tuple[str, dict[int, str]] | None:
        """The upload id and finished parts of a file whose upload was begun, in parts of today's size."""
        uploads, size = self._journal.parts(name, upload.path), str(self._part_size(upload))
        return next(((upload_id, done) for upload_id, done in uploads.items() if done.get(0) == size), None)

    def _missing(self, name: str, upload: Upload) -> list[int]:
        """Numbers of the parts that are not up yet."""
        begun = self._begun(name, upload)
        done = begun[1] if begun else {}
        return [number for number, _, _ in _parts(upload.size, self._part_size(upload)) if number not in done]

    def _all_up(self, name: str, upload: Upload) -> bool:
        """Every part is up, but whether the store assembled them is not known."""
        return bool(self._part_size(upload)) and not self._missing(name, upload)

    def _wanted(self, name: str, upload: Upload) -> TransferFile:
        part_size = self._part_size(upload)
        if not part_size:
            return TransferFile(path=upload.path, size=upload.size)
        begun = self._begun(name, upload)
        if begun is None:
            return TransferFile(path=upload.path, size=upload.size, part_size=part_size)
        parts = tuple(self._missing(name, upload))
        return TransferFile(path=upload.path, size=upload.size, part_size=part_size, upload_id=begun[0], parts=parts)

    def _put(self, order: TaskOrder, upload: Upload, granted: GrantedFile | None, stopping: Callable[[], bool]) -> None:
        """Put one file; `granted` is None when all its parts are up."""
        if granted is not None and granted.upload_id is None:
            self._way.put(Place(order, upload.path, upload.size, granted.urls[0].url), upload.file, 0, upload.size, stopping)
            return
        try:
            if granted is not None:
                self._put_parts(order, upload, granted, stopping)
            self._complete(order, upload, stopping)
        except SystemFault as error:
            if error.code not in ("upload-incomplete", "object-missing"):
                raise
            # The store lost the upload, or took other bytes: begin this file anew.
            self._journal.parts_forgotten(order.name, upload.path)
            raise StoreUnavailable(f"upload of {upload.path} begins again: {error.message}", code="upload-restarted") from error

    def _put_parts(self, order: TaskOrder, upload: Upload, granted: GrantedFile, stopping: Callable[[], bool]) -> None:
        name, upload_id = order.name, granted.upload_id or ""
        begun = self._begun(name, upload)
        if begun is None or begun[0] != upload_id:
            self._journal.parts_forgotten(name, upload.path)
            self._journal.part_done(name, upload.path, upload_id, 0, str(self._part_size(upload)))
        urls = {url.number: url.url for url in granted.urls}
        failed = threading.Event()

        def one(number: int, offset: int, length: int) -> None:
            if failed.is_set():
                return
            if stopping():
                raise Stopped
            place = Place(order, upload.path, upload.size, urls[number], upload_id, number)
            try:
                etag = self._way.put(place, upload.file, offset, length, stopping)
            except BaseException:
                failed.set()
                raise
            self._journal.part_done(name, upload.path, upload_id, number, etag)

        futures = [self._pool.submit(one, *part) for part in _parts(upload.size, self._part_size(upload)) if part[0] in urls]
        try:
            for future in futures:
                future.result()
        finally:
            # None goes on in the background: it could journal a part of an upload that was begun anew meanwhile.
            wait_for([future for future in futures if not future.cancel()])

    def _complete(self, order: TaskOrder, upload: Upload, stopping: Callable[[], bool]) -> None:
        """Have the parts assembled."""
        begun = self._begun(order.name, upload)
        assert begun is not None
        parts = tuple(PartETag(number=number, etag=etag) for number, etag in sorted(begun[1].items()) if number)
        finished = FinishedFile(path=upload.path, upload_id=begun[0], size=upload.size, parts=parts)
        complete = Complete(request=uuid4(), node=order.node, run=order.run, attempt=order.attempt, files=(finished,))
        self._asking.ask(complete, stopping)

    # Down

    def _get(self, place: Place, target: Path, sha256: str, stopping: Callable[[], bool]) -> None:
        """Fetch to `target`, going on where an earlier try stopped; whole and checked, or not there."""
        size = place.size
        partial = target.with_name(f".{target.name}.partial")
        offset = partial.stat().st_size if partial.exists() else 0
        with partial.open("ab") as file:
            for chunk in self._way.read(place, offset if offset <= size else 0, stopping):
                if stopping():
                    raise Stopped
                file.write(chunk)
                if file.tell() > size:
                    break
        with partial.open("rb") as file:
            right = partial.stat().st_size == size and hashlib.file_digest(file, "sha256").hexdigest() == sha256
        if not right:
            partial.unlink()
            if offset:
                # What stood there may have been cut by a crash: once more from the start.
                raise StoreUnavailable(f"input {target.name} begins again", code="download-restarted")
            raise TaskFailed(
                f"input {target.name} is not what was submitted: size or SHA-256 differs", code="input-changed", remedy="submit it again"
            )
        partial.replace(target)


def _parts(size: int, part_size: int) -> Iterator[tuple[int, int, int]]:
    """(number from 1, offset, length) of each part."""
    for number, offset in enumerate(range(0, size, part_size), 1):
        yield number, offset, min(part_size, size - offset)
