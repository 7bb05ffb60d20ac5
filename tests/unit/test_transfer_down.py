"""Inputs on their way down: whole and checked, or not there; and both ways on a shared machine."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdn_worker import signed_urls, transfer
from fdn_worker.errors import FdnError, ObjectMissing, PolicyRefused, StoreUnavailable, TaskFailed
from fdn_worker.protocol import InputFile, TransferRequest
from fdn_worker.transfer import Stopped
from federation import grants
from storage.keys import attempt_key, input_key
from storage.objects.folder import FolderStore
from tests.unit.helpers import EXECUTION, Sent, an_order
from tests.unit.http_store import HttpStore
from tests.unit.transfer_site import Site

DATA = bytes(range(256)) * 8


def an_input(name: str, data: bytes = DATA) -> InputFile:
    return InputFile(name=name, size=len(data), sha256=hashlib.sha256(data).hexdigest(), where=input_key(EXECUTION, "main", name))


@pytest.fixture
def store() -> Iterator[HttpStore]:
    with HttpStore() as store:
        store.objects = {input_key(EXECUTION, "main", name): DATA for name in ("a", "sub/b")}
        yield store


@pytest.fixture
def site(store: HttpStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(transfer, "delays", lambda: iter(lambda: 0.0, None))
    (tmp_path / "inputs").mkdir()
    site = Site(tmp_path, store.url, an_order(inputs=(an_input("a"), an_input("sub/b")), timeout=60.0))
    yield site
    site.close()


def get(site: Site) -> int:
    return site.transfers.get_inputs(site.order, site.folder / "inputs", lambda: False)


def there(site: Site) -> dict[str, bytes]:
    folder = site.folder / "inputs"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def failed(site: Site) -> FdnError:
    with pytest.raises(FdnError) as caught:
        get(site)
    assert there(site) == {}
    return caught.value


def half(site: Site, data: bytes) -> None:
    """What an earlier try left of input `a`."""
    (site.folder / "inputs/.a.partial").write_bytes(data)


def test_inputs_are_fetched_whole(site: Site) -> None:
    assert get(site) == 2 * len(DATA)
    assert there(site) == {"a": DATA, "sub/b": DATA}
    (request,) = site.requests(TransferRequest)
    assert request.direction == "get"


def test_what_is_there_is_not_fetched_again(site: Site, store: HttpStore) -> None:
    get(site)
    assert get(site) == 2 * len(DATA)
    assert (len(site.asked), store.count("GET")) == (1, 2)
    (site.folder / "inputs/a").unlink()
    get(site)
    assert store.asked[-1].path.endswith("/a")
    assert store.count("GET") == 3


def test_an_order_without_inputs_asks_for_nothing(site: Site) -> None:
    site.order = an_order()
    assert get(site) == 0
    assert site.asked == []


def test_it_goes_on_where_an_earlier_try_stopped(site: Site, store: HttpStore) -> None:
    half(site, DATA[:1500])
    get(site)
    assert there(site) == {"a": DATA, "sub/b": DATA}
    assert [asked.headers.get("Range") for asked in store.asked] == ["bytes=1500-", None]


def test_a_try_that_had_it_all_but_its_name(site: Site, store: HttpStore) -> None:
    half(site, DATA)
    get(site)
    assert there(site)["a"] == DATA


def test_an_answer_that_is_cut_is_gone_on_with(site: Site, store: HttpStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signed_urls, "_CHUNK", 100)
    store.faults = ["cut"]
    get(site)
    assert there(site) == {"a": DATA, "sub/b": DATA}
    assert store.asked[1].headers["Range"] == "bytes=1000-"


@pytest.mark.parametrize("rest", [b"z" * 100, DATA + b"z", b"z" * len(DATA)])
def test_an_earlier_try_that_went_wrong_is_begun_anew(site: Site, store: HttpStore, rest: bytes) -> None:
    half(site, rest)
    get(site)
    assert there(site) == {"a": DATA, "sub/b": DATA}


@pytest.mark.parametrize("data", [b"", DATA[:-1], DATA + b"x", b"x" * len(DATA)])
def test_an_input_that_is_not_what_was_submitted(site: Site, store: HttpStore, data: bytes) -> None:
    store.objects = dict.fromkeys(store.objects, data)
    error = failed(site)
    assert isinstance(error, TaskFailed)
    assert error.code == "input-changed"
    assert str(error) == "input a is not what was submitted: size or SHA-256 differs (submit it again)"


def test_an_input_that_is_not_there(site: Site, store: HttpStore) -> None:
    store.objects.clear()
    with pytest.raises(ObjectMissing) as caught:
        get(site)
    error = caught.value
    assert set(there(site)) <= {".a.partial"}
    assert isinstance(error, ObjectMissing)
    assert (error.code, str(error)) == ("input-missing", "an input is not in the store (submit it again)")


@pytest.mark.parametrize("status", [403, 500, 302])
def test_after_a_fault_of_the_store_a_new_grant_is_asked_for(site: Site, store: HttpStore, status: int) -> None:
    store.faults = [status]
    get(site)
    assert there(site) == {"a": DATA, "sub/b": DATA}
    assert len(site.requests(TransferRequest)) == 2


def test_it_stops_between_two_chunks(site: Site) -> None:
    with pytest.raises(Stopped):
        site.transfers.get_inputs(site.order, site.folder / "inputs", lambda: bool(site.asked))
    assert "a" not in there(site)


class Shared(Site):
    """A site on the centre's machine: a folder is the store, and the centre's own grants are its relay."""

    def answer(self, sent: Sent) -> None:
        self.asked.append(sent.message)
        reply = grants.answer(sent.message, self.order, self.store)  # type: ignore[arg-type]
        if reply is not None:
            self.transfers.answered(reply)

    @property
    def store(self) -> FolderStore:
        return FolderStore(self.folder / "store")


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shared]:
    monkeypatch.setattr(transfer, "delays", lambda: iter(lambda: 0.0, None))
    (tmp_path / "inputs").mkdir()
    site = Shared(tmp_path, str, an_order(inputs=(an_input("a b"),), timeout=60.0))
    site.store.put(input_key(EXECUTION, "main", "a b"), io.BytesIO(DATA), len(DATA))
    yield site
    site.close()


def test_both_ways_on_a_shared_machine(shared: Shared) -> None:
    half(shared, DATA[:10])
    assert get(shared) == len(DATA)
    assert (shared.folder / "inputs/a b").read_bytes() == DATA
    shared.put(shared.upload("outputs/é.csv", DATA[:10]), shared.upload("outputs/big", DATA), shared.upload("outputs/none", b""))
    for path, data in {"é.csv": DATA[:10], "big": DATA, "none": b""}.items():
        assert b"".join(shared.store.get(attempt_key(EXECUTION, "main", "site-a", 1, f"outputs/{path}"))) == data
    assert not list((shared.folder / "store/.uploads").iterdir())


def test_file_addresses_need_the_sites_leave(shared: Shared) -> None:
    shared.allow_file = False
    shared.start()
    for call in (lambda: get(shared), lambda: shared.put(shared.upload("outputs/a", b"x"))):
        with pytest.raises(PolicyRefused) as caught:
            call()
        assert caught.value.code == "transfer-refused"
        assert str(caught.value) == "the centre gave a file:// address (set transfer.allow_file on a shared machine)"


def test_an_input_that_is_not_in_the_folder(shared: Shared) -> None:
    shared.store.delete([input_key(EXECUTION, "main", "a b")])
    with pytest.raises(ObjectMissing, match="an input is not in the store"):
        get(shared)


def test_a_folder_that_cannot_be_written_is_told(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    shared.keep_trying = -1.0
    shared.start()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(signed_urls, "_write_all", full)
    with pytest.raises(StoreUnavailable, match=r"No space left on device \(check its disk and owner\)"):
        shared.put(shared.upload("outputs/a", b"x"))
