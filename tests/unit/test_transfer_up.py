"""Files on their way up: whole, in parts, after faults, and after a restart in the middle."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fdn_worker import asking, transfer
from fdn_worker.errors import BrokerUnavailable, Fault, FdnError, ObjectMissing, PolicyRefused, StoreUnavailable, TaskFailed
from fdn_worker.protocol import Abort, Complete, TransferRequest
from fdn_worker.transfer import Stopped, Upload
from fdn_worker.way import Place
from tests.unit.http_store import HttpStore
from tests.unit.transfer_site import PART, Site

BIG = bytes(range(256)) * 2  # 6 parts, the last one short
BIG_PARTS = [BIG[offset : offset + PART] for offset in range(0, len(BIG), PART)]


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture
def store() -> Iterator[HttpStore]:
    with HttpStore() as store:
        yield store


@pytest.fixture
def site(store: HttpStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(transfer, "delays", lambda: iter(lambda: 0.0, None))
    monkeypatch.setattr(asking, "FIRST_ANSWER", 0.05)
    site = Site(tmp_path, store.url)
    yield site
    site.close()


def parts(store: HttpStore, path: str = "outputs/big") -> dict[int, bytes]:
    """The parts in the store, by number."""
    return {int(key.rpartition(".")[2]): data for key, data in store.objects.items() if key.startswith(f"{path}?")}


def test_a_small_file_is_one_put(site: Site, store: HttpStore) -> None:
    site.put(site.upload("outputs/a", b"x" * PART))
    assert store.objects == {"outputs/a": b"x" * PART}
    (asked,) = store.asked
    assert asked.headers["Content-MD5"] == base64.b64encode(hashlib.md5(b"x" * PART).digest()).decode()
    assert asked.headers["Content-Length"] == str(PART)
    assert not site.requests(Complete)
    assert site.journal.parts(site.order.name, "outputs/a") == {}


def test_an_empty_file_and_several_in_their_order(site: Site, store: HttpStore) -> None:
    site.put(site.upload("logs/run.log", b""), site.upload("outputs/big", BIG), site.upload("manifest.json", b"{}"))
    (request,) = site.requests(TransferRequest)
    assert [(file.path, file.size, file.part_size) for file in request.files] == [
        ("logs/run.log", 0, 0), ("outputs/big", len(BIG), PART), ("manifest.json", 2, 0)]  # fmt: skip
    assert store.asked[0].path == "logs/run.log"
    assert store.asked[-1].path == "manifest.json"
    assert len(store.asked) == 8


def test_a_big_file_goes_in_parts_and_is_completed(site: Site, store: HttpStore) -> None:
    site.put(site.upload("outputs/big", BIG))
    assert parts(store) == dict(enumerate(BIG_PARTS, 1))
    (complete,) = site.requests(Complete)
    (file,) = complete.files
    assert (file.path, file.upload_id, file.size) == ("outputs/big", "u1", len(BIG))
    assert [(part.number, part.etag) for part in file.parts] == [(n, hashlib.md5(data).hexdigest()) for n, data in enumerate(BIG_PARTS, 1)]
    assert site.journal.parts(site.order.name, "outputs/big") == {}


@pytest.mark.parametrize("status", [403, 401, 500, 503, 307, 400, "corrupt"])
def test_after_a_fault_of_the_store_a_new_grant_is_asked_for(site: Site, store: HttpStore, status: int | str) -> None:
    store.faults = [status]
    site.put(site.upload("outputs/a", b"abc"))
    assert store.objects["outputs/a"] == b"abc"
    assert [asked.path for asked in store.asked] == ["outputs/a"] * 2
    first, second = site.requests(TransferRequest)
    assert first.request != second.request


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (403, "url-expired", "answered 403 to an upload"),
        (500, "store-unavailable", "answered 500"),
        ("corrupt", "upload-corrupted", "other bytes"),
    ],
)
def test_past_its_time_it_is_given_up(site: Site, store: HttpStore, fault: int | str, code: str, words: str) -> None:
    site.keep_trying = -1.0
    site.start()
    store.faults = [fault] * 3
    with pytest.raises(StoreUnavailable) as caught:
        site.put(site.upload("outputs/a", b"abc"))
    assert (caught.value.code, store.count("PUT")) == (code, 1)
    assert words in caught.value.message
    assert f"store 127.0.0.1:{store.server.server_port} " in caught.value.message


def test_a_store_that_is_not_there(site: Site) -> None:
    site.keep_trying = -1.0
    site.start()
    site.url = lambda path: f"http://127.0.0.1:1/{path}"
    with pytest.raises(StoreUnavailable, match=r"store 127.0.0.1:1: NewConnectionError \(check its address and the site's firewall\)"):
        site.put(site.upload("outputs/a", b"abc"))


def test_only_the_part_that_failed_goes_again(site: Site, store: HttpStore) -> None:
    upload = site.upload("outputs/big", BIG)
    seen: list[str] = []

    def before(asked: object) -> None:
        path = asked.path  # type: ignore[attr-defined]
        if path.endswith(".4") and path not in seen:
            with store.lock:
                store.faults = [500]
        seen.append(path)

    store.before = before
    site.put(upload)
    assert parts(store) == dict(enumerate(BIG_PARTS, 1))
    assert store.count("PUT") < 2 * len(BIG_PARTS)
    first, second = site.requests(TransferRequest)
    assert (first.files[0].upload_id, second.files[0].upload_id) == (None, "u1")
    assert 1 <= len(second.files[0].parts) < len(BIG_PARTS)


def crash_at(site: Site, monkeypatch: pytest.MonkeyPatch, number: int, upload: Upload) -> None:
    """Put until the part of that number, and be killed there."""
    real = site.transfers._way.put

    def dying(place: Place, *stretch: Any) -> str:
        if place.number >= number:
            raise Killed
        return real(place, *stretch)

    monkeypatch.setattr(site.transfers._way, "put", dying)
    with pytest.raises(Killed):
        site.put(upload)


def test_after_a_crash_it_goes_on_where_it_was(site: Site, store: HttpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = site.upload("outputs/big", BIG)
    crash_at(site, monkeypatch, 4, upload)
    assert sorted(parts(store)) == [1, 2, 3]
    site.start()
    store.asked.clear()
    site.put(upload)
    assert sorted(asked.path for asked in store.asked) == [f"outputs/big?u1.{number}" for number in (4, 5, 6)]
    file = site.requests(TransferRequest)[-1].files[0]
    assert (file.upload_id, file.parts) == ("u1", (4, 5, 6))
    assert [part.number for part in site.requests(Complete)[0].files[0].parts] == [1, 2, 3, 4, 5, 6]


def test_with_other_parts_since_the_crash_it_begins_anew(site: Site, store: HttpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the parts at one size and half at another would leave holes."""
    upload = site.upload("outputs/big", BIG)
    crash_at(site, monkeypatch, 4, upload)
    site.part_size = 200
    site.start()
    store.objects.clear()
    site.put(upload)
    assert b"".join(data for _, data in sorted(parts(store).items())) == BIG
    assert site.requests(TransferRequest)[-1].files[0].upload_id is None


def test_an_answer_that_was_lost_is_asked_for_again(site: Site, store: HttpStore) -> None:
    site.ignore = 1
    site.put(site.upload("outputs/a", b"abc"))
    first, second = site.requests(TransferRequest)
    assert first == second


def test_a_lost_completed_costs_no_new_puts(site: Site, store: HttpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is lost, and then the worker."""
    upload = site.upload("outputs/big", BIG)
    answer = site.answer

    def lose(sent: object) -> None:
        site.asked.append(sent.message)  # type: ignore[attr-defined]
        if isinstance(site.asked[-1], Complete):
            raise Killed
        site.asked.pop()
        answer(sent)  # type: ignore[arg-type]

    site.broker.then = lose  # type: ignore[assignment]
    with pytest.raises(Killed):
        site.put(upload)
    assert store.count("PUT") == len(BIG_PARTS)
    site.start()
    site.put(upload)
    assert store.count("PUT") == len(BIG_PARTS)
    first, second = site.requests(Complete)
    assert first.files == second.files
    assert len(site.requests(TransferRequest)) == 1


@pytest.mark.parametrize("code", ["upload-incomplete", "object-missing"])
def test_an_upload_that_the_store_cannot_assemble_begins_anew(site: Site, store: HttpStore, code: str) -> None:
    upload = site.upload("outputs/big", BIG)
    refusal = {"code": code, "fault": Fault.INFRASTRUCTURE, "message": "no", "retryable": code == "upload-incomplete"}
    answer = site.answer

    def refuse_first(sent: object) -> None:
        if isinstance(sent.message, Complete) and not site.requests(Complete):  # type: ignore[attr-defined]
            site.refuse = [refusal]
        answer(sent)  # type: ignore[arg-type]

    site.broker.then = refuse_first  # type: ignore[assignment]
    site.put(upload)
    assert [file.upload_id for request in site.requests(TransferRequest) for file in request.files] == [None, None]
    assert store.count("PUT") == 2 * len(BIG_PARTS)


def test_an_upload_that_the_store_forgot_begins_anew(site: Site, store: HttpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = site.upload("outputs/big", BIG)
    crash_at(site, monkeypatch, 4, upload)
    site.start()
    site.refuse = [{"code": "object-missing", "fault": Fault.INFRASTRUCTURE, "message": "no such upload"}]
    site.put(upload)
    assert [request.files[0].upload_id for request in site.requests(TransferRequest)] == [None, "u1", None]


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        ({"code": "fenced", "fault": Fault.POLICY, "message": "attempt 1 is not current"}, PolicyRefused),
        ({"code": "bad-name", "fault": Fault.USER, "message": "too long"}, TaskFailed),
        ({"code": "broken", "fault": Fault.INFRASTRUCTURE, "message": "broken"}, ObjectMissing),
    ],
)
def test_what_the_relay_refuses_for_good_is_not_asked_again(site: Site, refusal: dict[str, str], kind: type[FdnError]) -> None:
    site.refuse = [refusal]
    with pytest.raises(kind) as caught:
        site.put(site.upload("outputs/a", b"abc"))
    assert (caught.value.code, caught.value.message) == (refusal["code"], refusal["message"])
    assert len(site.asked) == 1


def test_what_it_refuses_for_now_is_asked_again(site: Site, store: HttpStore) -> None:
    site.refuse = [{"code": "store-unavailable", "fault": Fault.INFRASTRUCTURE, "message": "away", "retryable": True}] * 2
    site.put(site.upload("outputs/a", b"abc"))
    assert len(site.requests(TransferRequest)) == 3
    assert store.count("PUT") == 1


def test_a_broker_that_is_away_is_tried_again(site: Site, store: HttpStore) -> None:
    site.broker.fails = [BrokerUnavailable("away")] * 3
    site.put(site.upload("outputs/a", b"abc"))
    assert store.objects["outputs/a"] == b"abc"


@pytest.mark.parametrize("size", [3, 512])
@pytest.mark.parametrize("change", ["shorter", "gone", "link"])
def test_a_file_that_changed_is_told(site: Site, change: str, size: int) -> None:
    upload = site.upload("outputs/a", b"x" * size)
    if change == "shorter":
        upload.file.write_bytes(b"x" * (size - 1))
    else:
        upload.file.rename(upload.file.with_name("other"))
        if change == "link":
            upload.file.symlink_to("other")
    with pytest.raises(TaskFailed) as caught:
        site.put(upload)
    assert caught.value.code == "output-changed"
    assert "output outputs-a" in caught.value.message


def test_it_stops_while_it_waits_for_an_answer(site: Site) -> None:
    site.ignore = 99
    with pytest.raises(Stopped):
        site.put(site.upload("outputs/a", b"abc"), stopping=lambda: len(site.asked) >= 2)


def test_it_stops_while_it_pauses(site: Site, store: HttpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "delays", lambda: iter(lambda: 3600.0, None))
    store.faults = [500]
    with pytest.raises(Stopped):
        site.put(site.upload("outputs/a", b"abc"), stopping=lambda: bool(store.asked))


def test_what_is_given_up_half_done_is_dropped_at_the_store(site: Site, store: HttpStore) -> None:
    with pytest.raises(Stopped):
        site.put(site.upload("outputs/big", BIG), stopping=lambda: bool(store.asked))
    (abort,) = site.requests(Abort)
    assert [(file.path, file.upload_id) for file in abort.files] == [("outputs/big", "u1")]
    assert site.journal.parts(site.order.name, "outputs/big") == {}


def test_many_files_are_asked_for_in_several_requests(site: Site, store: HttpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "FILES_A_REQUEST", 3)
    monkeypatch.setattr(transfer, "URLS_A_REQUEST", 7)
    uploads = [site.upload(f"outputs/{number}", b"x") for number in range(4)]
    uploads += [site.upload("outputs/big1", BIG), site.upload("outputs/big2", BIG), site.upload("manifest.json", b"{}")]
    site.put(*uploads)
    asked = [[file.path.removeprefix("outputs/") for file in request.files] for request in site.requests(TransferRequest)]
    assert asked == [["0", "1", "2"], ["3", "big1"], ["big2", "manifest.json"]]
    assert store.asked[-1].path == "manifest.json"
