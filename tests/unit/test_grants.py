"""What the relay grants: to the current attempt of the node that asks, below its own prefix, and nothing else."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.errors import Fault, StoreUnavailable
from fdn_worker.protocol import Abort, Complete, Completed, Grant, Refusal, TransferRequest
from fdn_worker.protocol.upload import MOST_PARTS, AbortedFile, FinishedFile, PartETag, TransferFile
from federation import grants
from storage.keys import attempt_key, input_key
from storage.objects.folder import FolderStore
from tests.unit.helpers import EXECUTION, SHA, an_id, an_order

KEY = input_key(EXECUTION, "main", "x")
ORDER = an_order(inputs=({"name": "x", "size": 3, "sha256": SHA, "where": KEY},))
PREFIX = f"executions/{EXECUTION}/main/site-a/1/"


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "store")


def ask(store: FolderStore, kind: type[Any] = TransferRequest, order: Any = ORDER, **fields: Any) -> Any:
    common = {"request": an_id(1), "node": "site-a", "run": ORDER.run, "attempt": 1}
    if kind is TransferRequest:
        common["direction"] = "put"
    reply = grants.answer(kind(**common | fields), order, store)
    assert reply is None or (reply.request, reply.node, reply.run, reply.attempt) == (
        an_id(1), fields.get("node", "site-a"), fields.get("run", ORDER.run), fields.get("attempt", 1))  # fmt: skip
    return reply


def refused(reply: Any, code: str, words: str = "") -> None:
    assert isinstance(reply, Refusal)
    assert (reply.code, reply.retryable) == (code, False)
    assert words in reply.message


def test_a_small_file(store: FolderStore) -> None:
    reply = ask(store, files=(TransferFile(path="outputs/a", size=3), TransferFile(path="manifest.json", size=1)))
    assert isinstance(reply, Grant)
    assert [(file.path, file.upload_id, [url.number for url in file.urls]) for file in reply.files] == [
        ("outputs/a", None, [1]), ("manifest.json", None, [1])]  # fmt: skip
    assert f"{PREFIX}outputs/a" in reply.files[0].urls[0].url
    assert f"{PREFIX}manifest.json" in reply.files[1].urls[0].url


def test_a_big_file_from_begin_to_end(store: FolderStore) -> None:
    (file,) = ask(store, files=(TransferFile(path="outputs/a", size=25, part_size=10),)).files
    assert [url.number for url in file.urls] == [1, 2, 3]
    assert [url.url.rpartition("=")[2] for url in file.urls] == ["0", "10", "20"]
    (again,) = ask(store, files=(TransferFile(path="outputs/a", size=25, part_size=10, upload_id=file.upload_id, parts=(2,)),)).files
    assert (again.upload_id, again.urls) == (file.upload_id, file.urls[1:2])
    (store._uploads / file.upload_id).write_bytes(b"x" * 25)
    finished = FinishedFile(
        path="outputs/a", upload_id=file.upload_id, size=25, parts=tuple(PartETag(number=n, etag="e") for n in (1, 2, 3))
    )
    for _ in range(2):
        reply = ask(store, Complete, files=(finished,))
        assert isinstance(reply, Completed)
        assert reply.paths == ("outputs/a",)
    assert store.stat(f"{PREFIX}outputs/a")


def test_an_upload_is_dropped(store: FolderStore) -> None:
    (file,) = ask(store, files=(TransferFile(path="outputs/a", size=25, part_size=10),)).files
    dropped = AbortedFile(path="outputs/a", upload_id=file.upload_id)
    assert ask(store, Abort, files=(dropped,)) is None
    assert ask(store, Abort, files=(dropped,)) is None
    assert list(store._uploads.iterdir()) == []
    refused(ask(store, files=(TransferFile(path="outputs/a", size=25, part_size=10, upload_id=file.upload_id),)), "object-missing")


def test_an_upload_that_is_not_whole(store: FolderStore) -> None:
    (file,) = ask(store, files=(TransferFile(path="outputs/a", size=25, part_size=10),)).files
    finished = FinishedFile(path="outputs/a", upload_id=file.upload_id, size=25, parts=(PartETag(number=1, etag="e"),))
    reply = ask(store, Complete, files=(finished,))
    assert isinstance(reply, Refusal)
    assert (reply.code, reply.retryable) == ("upload-incomplete", True)


def test_an_input_of_the_order(store: FolderStore) -> None:
    store.put(KEY, io.BytesIO(b"abc"), 3)
    reply = ask(store, direction="get", files=(TransferFile(path=KEY, size=3),))
    assert isinstance(reply, Grant)
    assert reply.files[0].urls[0].url == store.get_url(KEY, 1.0)


@pytest.mark.parametrize(
    "key",
    [
        input_key(EXECUTION, "main", "y"),
        input_key(EXECUTION, "other", "x"),
        attempt_key(EXECUTION, "main", "site-b", 1, "outputs/a"),
        "x",
        "",
        "../x",
    ],
)
def test_nothing_else_is_got(store: FolderStore, key: str) -> None:
    refused(
        ask(store, direction="get", files=(TransferFile(path=KEY, size=3), TransferFile(path=key, size=3))),
        "grant-refused",
        "is no input of the order",
    )


@pytest.mark.parametrize(
    "path",
    [
        "x",
        "",
        "manifest.json2",
        "output/a",
        "outputs",
        "outputs/",
        "outputs/../../../site-b/1/outputs/a",
        "/outputs/a",
        "outputs//a",
        "logs/./a",
        "outputs/a\n",
    ],
)
@pytest.mark.parametrize("part_size", [0, 5])
def test_nothing_is_put_beside_the_attempts_own_prefix(store: FolderStore, path: str, part_size: int) -> None:
    refused(ask(store, files=(TransferFile(path=path, size=9, part_size=part_size),)), "grant-refused")
    assert not store._uploads.exists()


@pytest.mark.parametrize("kind", [TransferRequest, Complete, Abort])
@pytest.mark.parametrize("fields", [{"node": "site-b"}, {"attempt": 2}, {"run": an_id(9)}, {"order": None}])
def test_only_the_current_attempt_is_answered(store: FolderStore, kind: type[Any], fields: dict[str, Any]) -> None:
    files: dict[type[Any], Any] = {
        TransferRequest: TransferFile(path="outputs/a", size=1), Abort: AbortedFile(path="outputs/a", upload_id="u"),
        Complete: FinishedFile(path="outputs/a", upload_id="u", size=1, parts=(PartETag(number=1, etag="e"),)),
    }  # fmt: skip
    reply = ask(store, kind, files=(files[kind],), **fields)
    refused(reply, "fenced", "is not current")
    assert reply.fault is Fault.POLICY


def test_a_name_that_no_store_takes_is_the_tasks_fault(store: FolderStore) -> None:
    reply = ask(store, files=(TransferFile(path="outputs/" + "a/" * 600 + "b", size=1),))
    refused(reply, "bad-name", "too long")
    assert reply.fault is Fault.USER


def test_no_request_gets_urls_without_end(store: FolderStore) -> None:
    files = tuple(TransferFile(path=f"outputs/{n}", size=MOST_PARTS, part_size=1) for n in range(3))
    refused(ask(store, files=files), "grant-refused", "30,000 URLs are too many for one request, which gets at most 20,000")
    assert not store._uploads.exists()


def test_a_store_that_is_away_is_asked_again_later(store: FolderStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object) -> str:
        raise StoreUnavailable("store is away")

    monkeypatch.setattr(store, "put_url", away)
    reply = ask(store, files=(TransferFile(path="outputs/a", size=1),))
    assert isinstance(reply, Refusal)
    assert (reply.code, reply.fault, reply.retryable, reply.message) == ("store-unavailable", Fault.INFRASTRUCTURE, True, "store is away")
