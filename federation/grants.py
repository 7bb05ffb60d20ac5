"""The relay's answers to transfer requests: what a node may put and get, and the URLs for it, or the bytes themselves.

A node may put only below the prefix of its own current attempt, and get only the inputs of that attempt's order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from fdn_worker.errors import Fault, FdnError, StoreUnavailable, SystemFault
from fdn_worker.protocol import Abort, Complete, Completed, Fetch, Grant, Refusal, Taken, TaskOrder, TransferRequest, now
from fdn_worker.protocol.chunk import Assembly
from fdn_worker.protocol.manifest import LOGS, MANIFEST_PATH, OUTPUTS
from fdn_worker.protocol.upload import GrantedFile, GrantedUrl, OfAttempt, TransferFile
from storage.keys import attempt_key
from storage.objects import ObjectStore

#: Seconds for which a URL is good: long enough for a part on a slow line, minted anew when it is not.
URL_SECONDS = 6 * 3600.0
#: URLs in one answer at most.
MOST_URLS = 20_000

Request = TransferRequest | Complete | Abort
Answer = Grant | Completed | Refusal
T = TypeVar("T")


class GrantRefused(FdnError):
    """The node asked for what is not its own."""

    code = "grant-refused"
    fault = Fault.POLICY


def answer(request: Request, order: TaskOrder | None, store: ObjectStore) -> Answer | None:
    """The answer to `request` by the node of `order`, its current attempt (None: it has none). Abort wants no answer."""

    def of(order: TaskOrder) -> Answer | None:
        if isinstance(request, Complete):
            return _complete(request, order, store)
        if isinstance(request, Abort):
            for file in request.files:
                store.abort_upload(_key(order, file.path), file.upload_id)
            return None
        return _grant(request, order, store)

    return _answered(request, order, of)


def take(whole: Assembly, order: TaskOrder | None, store: ObjectStore) -> Taken | Refusal:
    """Put a part that came over the broker into the store, if it is what its node sent."""
    part = whole.part

    def of(order: TaskOrder) -> Taken:
        key = _key(order, part.path)
        if not whole.right():
            raise StoreUnavailable(f"part {part.number} of {part.path} came damaged", code="part-damaged")
        etag = ""
        if part.upload_id is None:
            store.put(key, whole.file, part.size)
        else:
            etag = store.put_part(key, part.upload_id, part.number, part.at, whole.file.read())
        return Taken(request=part.request, node=order.node, run=order.run, attempt=order.attempt, etag=etag)

    return _answered(part, order, of)


def give(fetch: Fetch, order: TaskOrder | None, store: ObjectStore) -> bytes | Refusal:
    """The stretch of an input that a node asks for; shorter where the input ends."""

    def of(order: TaskOrder) -> bytes:
        _check_input(fetch.path, order)
        return b"".join(store.get(fetch.path, offset=fetch.offset, length=fetch.length))

    return _answered(fetch, order, of)


def _answered(request: OfAttempt, order: TaskOrder | None, answer: Callable[[TaskOrder], T]) -> T | Refusal:
    """What `answer` makes of the order, if it is the current one of the request's attempt; or why it cannot be."""
    try:
        if order is None or (order.node, order.run, order.attempt) != (request.node, request.run, request.attempt):
            raise GrantRefused(f"attempt {request.attempt} of run {request.run} is not current at {request.node}", code="fenced")
        return answer(order)
    except FdnError as error:
        return refusal(request, error)


def refusal(request: OfAttempt, error: FdnError) -> Refusal:
    """The answer that tells of `error`."""
    retryable = isinstance(error, SystemFault) and error.retryable
    return Refusal(
        request=request.request, node=request.node, run=request.run, attempt=request.attempt,
        code=error.code, fault=error.fault, message=error.message, retryable=retryable,
    )  # fmt: skip


def _grant(request: TransferRequest, order: TaskOrder, store: ObjectStore) -> Grant:
    if (urls := sum(len(_numbers(file)) for file in request.files)) > MOST_URLS:
        raise GrantRefused(f"{urls:,} URLs are too many for one request, which gets at most {MOST_URLS:,}")
    expires = now() + timedelta(seconds=URL_SECONDS)
    one = _get if request.direction == "get" else _put
    files = tuple(one(file, order, store) for file in request.files)
    if request.by == "broker":
        files = tuple(file.model_copy(update={"urls": tuple(GrantedUrl(number=url.number) for url in file.urls)}) for file in files)
    return Grant(request=request.request, node=order.node, run=order.run, attempt=order.attempt, expires=expires, files=files)


def _get(file: TransferFile, order: TaskOrder, store: ObjectStore) -> GrantedFile:
    _check_input(file.path, order)
    return GrantedFile(path=file.path, urls=(GrantedUrl(number=1, url=store.get_url(file.path, URL_SECONDS)),))


def _check_input(path: str, order: TaskOrder) -> None:
    packs = [order.source.pack] if order.source and order.source.pack else []
    if path not in {item.where for item in (*order.inputs, *packs)}:
        raise GrantRefused(f"{path!r} is no input of the order")


def _put(file: TransferFile, order: TaskOrder, store: ObjectStore) -> GrantedFile:
    key = _key(order, file.path)
    if not file.part_size:
        return GrantedFile(path=file.path, urls=(GrantedUrl(number=1, url=store.put_url(key, URL_SECONDS)),))
    upload_id = file.upload_id or store.begin_upload(key)
    urls = tuple(
        GrantedUrl(number=number, url=store.part_url(key, upload_id, number, (number - 1) * file.part_size, URL_SECONDS))
        for number in _numbers(file)
    )
    return GrantedFile(path=file.path, upload_id=upload_id, urls=urls)


def _numbers(file: TransferFile) -> Sequence[int]:
    """The parts that want a URL."""
    if not file.part_size:
        return (1,)
    return file.parts or range(1, -(-file.size // file.part_size) + 1)


def _complete(request: Complete, order: TaskOrder, store: ObjectStore) -> Completed:
    for file in request.files:
        store.complete_upload(_key(order, file.path), file.upload_id, file.size, file.parts)
    paths = tuple(file.path for file in request.files)
    return Completed(request=request.request, node=order.node, run=order.run, attempt=order.attempt, paths=paths)


def _key(order: TaskOrder, path: str) -> str:
    if path != MANIFEST_PATH and not path.startswith((OUTPUTS, LOGS)):
        raise GrantRefused(f"{path!r} is neither an output, a log nor the manifest")
    try:
        return attempt_key(order.execution, order.task, order.node, order.attempt, path)
    except ValueError as error:
        raise GrantRefused(str(error)) from error
