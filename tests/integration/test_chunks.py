"""Files in chunks between a node and a relay, on RabbitMQ and on the embedded broker."""

from __future__ import annotations

import hashlib
import io
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from fdn_worker import asking, chunks, transfer
from fdn_worker.asking import Asking
from fdn_worker.brokers import Broker, Delivery, connect
from fdn_worker.chunks import Chunks
from fdn_worker.errors import BrokerUnavailable, PolicyRefused, StoreUnavailable, TaskFailed, Unroutable
from fdn_worker.journal import Journal
from fdn_worker.protocol import Chunk, InputFile, Keyring, Signer, TaskOrder, pack, unpack
from fdn_worker.protocol.chunk import CHUNK, frame
from fdn_worker.protocol.names import UP_KEY, control_queue, down_queue, event_exchange, up_queue
from fdn_worker.settings import TransferSection
from fdn_worker.transfer import Stopped, Transfers, Upload
from federation import chunks as relay_side
from federation import relay as relay_loop
from federation.centre import Centre, Submission
from federation.enrol import MOST_CHUNKS, enrol
from federation.relay import Relay
from federation.request import TaskRequest
from federation.settings import CentreSettings
from storage.keys import attempt_key
from storage.objects.folder import FolderStore
from storage.records import Records
from tests.support.services import virtual_host
from tests.support.waiting import SOON, eventually
from tests.unit.helpers import OPEN

#: Bytes of a part here: two chunks and a bit. A real S3 takes none so small.
PART = 2 * CHUNK + 1000
NODE = "site-a"


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@dataclass
class House:
    """A relay, and the node's transfers, in one process but on connections of their own."""

    folder: Path
    url: str
    store: FolderStore
    centre: Centre
    part_size: int = PART
    relay: Relay | None = None
    brokers: list[Broker] = field(default_factory=list)

    def __post_init__(self) -> None:
        enrol(self.centre.broker, self.centre.records, NODE)
        (self.folder / "in").write_bytes(content(chunks.STRETCH + CHUNK + 9))
        inputs = (str(self.folder / "in"),)
        self.submission: Submission = self.centre.stage_in(TaskRequest(node=NODE, argv=("true",), inputs=inputs), "k")
        self.order: TaskOrder = self.centre.order(self.submission.run, 1)
        self.journal = Journal(self.folder / "journal.db", Signer())
        control = self.broker()
        self.way = Chunks(NODE, self.broker(), Asking(NODE, control, Signer()), Signer(), OPEN)
        section = TransferSection.model_construct(part_size=self.part_size, parallel=3, keep_trying=60.0)
        self.transfers = Transfers(section, self.way._asking, self.way, self.journal)
        control.consume(control_queue(NODE), self.answered)

    def broker(self) -> Broker:
        self.brokers.append(connect(self.url))
        return self.brokers[-1]

    def answered(self, delivery: Delivery) -> None:
        self.transfers.answered(unpack(delivery.body, OPEN)[0])  # type: ignore[arg-type]
        delivery.ack()

    def start(self) -> None:
        centre = self.centre
        self.relay = Relay(centre.broker, centre.records, self.store, Signer(), unsigned_ok=True, files=connect(self.url))
        self.relay.start()

    def stop(self) -> None:
        assert self.relay is not None
        self.relay.stop()
        self.relay = None

    def upload(self, path: str, data: bytes) -> Upload:
        file = self.folder / path.replace("/", "-")
        file.write_bytes(data)
        return Upload(path, file, len(data))

    def put(self, *uploads: Upload, stopping: Callable[[], bool] = lambda: False) -> None:
        self.transfers.put_files(self.order, uploads, stopping)

    def stored(self, path: str) -> bytes:
        return b"".join(self.store.get(attempt_key(self.order.execution, "main", NODE, 1, path)))

    def get(self) -> bytes:
        self.transfers.get_inputs(self.order, self.folder / "inputs", lambda: False)
        return (self.folder / "inputs/in").read_bytes()

    def say(self, body: bytes, node: str = NODE) -> None:
        self.centre.broker.publish(body, exchange=event_exchange(node), key=UP_KEY, message_id="m", durable=False)

    def waiting(self, queue: str) -> int:
        depth = self.centre.broker.depth(queue)
        assert depth is not None
        return depth.messages

    def close(self) -> None:
        if self.relay is not None:
            self.stop()
        self.transfers.close()
        for broker in self.brokers:
            broker.close()
        self.journal.close()
        self.centre.close()


@pytest.fixture(params=["embedded", "amqp"])
def house(request: pytest.FixtureRequest, tmp_path: Path, unique: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[House]:
    monkeypatch.setattr(transfer, "delays", lambda: iter(lambda: 0.05, None))
    monkeypatch.setattr(relay_loop, "PAUSE", 0.05)
    if request.param == "embedded":
        made = _house(tmp_path, f"sqlite://{tmp_path}/broker.db")
        yield made
        made.close()
        return
    with virtual_host(request.getfixturevalue("services"), unique) as url:
        made = _house(tmp_path, url)
        yield made
        made.close()


def _house(folder: Path, url: str) -> House:
    store, records = FolderStore(folder / "store"), Records.open(f"sqlite:///{folder}/records.db")
    settings = CentreSettings(home=folder, relay="service")
    return House(folder, url, store, Centre(settings, connect(url), store, records, Signer()))


def a_chunk(house: House, data: bytes, **changes: Any) -> Chunk:
    described = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "offset": 0, "path": "outputs/a"}
    whose = {"request": house.order.run, "node": NODE, "run": house.order.run, "attempt": 1}
    return Chunk(**whose | described | changes)


SIZES = {
    "logs/run.log": 0,
    "outputs/one": 1,
    "outputs/chunk": CHUNK,
    "outputs/part": PART,
    "outputs/big": 4 * PART + 1,
    "manifest.json": 10,
}


def test_files_of_all_sizes_go_up(house: House) -> None:
    house.start()
    house.put(*(house.upload(path, content(size)) for path, size in SIZES.items()))
    assert {path: house.stored(path) for path in SIZES} == {path: content(size) for path, size in SIZES.items()}
    assert house.journal.parts(house.order.name, "outputs/big") == {}
    assert list(house.store._uploads.iterdir()) == []
    assert not house.relay._chunks._lanes[0].parts  # type: ignore[union-attr]
    eventually("nothing is left on the way", lambda: house.waiting(up_queue(NODE)) == 0)


def test_an_input_comes_down_and_goes_on_where_it_was(house: House) -> None:
    house.start()
    whole = content(chunks.STRETCH + CHUNK + 9)
    assert house.get() == whole
    (house.folder / "inputs/in").unlink()
    (house.folder / "inputs/.in.partial").write_bytes(whole[: chunks.STRETCH])
    asked: list[int] = []
    stretch = house.way._stretch
    house.way._stretch = lambda place, offset, *rest: asked.append(offset) or stretch(place, offset, *rest)  # type: ignore[method-assign, func-returns-value]
    assert house.get() == whole
    assert asked == [chunks.STRETCH]


def test_only_inputs_of_the_order_come_down(house: House) -> None:
    house.start()
    other = house.order.inputs[0].model_copy(update={"where": attempt_key(house.order.execution, "main", NODE, 1, "outputs/a")})
    house.order = house.order.model_copy(update={"inputs": (other,)})
    with pytest.raises(PolicyRefused, match="is no input of the order"):
        house.get()
    with pytest.raises(PolicyRefused, match="is no input of the order"):
        next(house.way.read(transfer.Place(house.order, other.where, 5), 0, lambda: False))


def test_an_input_that_ends_early_is_told(house: House) -> None:
    house.start()
    house.store.put(house.order.inputs[0].where, io.BytesIO(b"short"), 5)
    with pytest.raises(TaskFailed, match="is not what was submitted"):
        house.get()


def test_while_nobody_reads_the_sender_waits_and_nothing_is_lost(house: House) -> None:
    """The queue takes so many chunks and refuses the next."""
    data = content((MOST_CHUNKS + 8) * CHUNK)
    whole = threading.Thread(target=house.put, args=(house.upload("outputs/big", data),))
    house.start()
    grant, house.relay._chunks.serve = house.relay._chunks.serve, lambda node: None  # type: ignore[union-attr, method-assign, assignment]
    house.part_size = len(data) + 1
    house.transfers._settings = TransferSection.model_construct(part_size=len(data) + 1, parallel=1, keep_trying=60.0)
    whole.start()
    eventually("the queue is full", lambda: house.waiting(up_queue(NODE)) >= MOST_CHUNKS)
    with pytest.raises(BrokerUnavailable) as caught:
        house.say(b"one more")
    assert caught.value.code == "queue-full"
    grant(NODE)
    whole.join(SOON)
    assert not whole.is_alive()
    assert house.stored("outputs/big") == data


def test_a_node_that_asks_for_more_than_its_queue_takes_is_told(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_side, "OFFERED", 0.1)
    house.start()
    for number in range(MOST_CHUNKS):
        house.centre.broker.publish(b"", key=down_queue(NODE), message_id=str(number))
    house.way._listen = lambda: None  # type: ignore[method-assign]
    with pytest.raises(StoreUnavailable) as caught:
        next(house.way.read(transfer.Place(house.order, house.order.inputs[0].where, 9), 0, lambda: False))
    assert caught.value.code == "queue-full"


def test_a_relay_that_dies_with_half_a_part(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it had gathered is gone with it; the next one gets the part again, and parts that were taken are not sent twice."""
    monkeypatch.setattr(chunks, "PATIENCE", 0.5)
    monkeypatch.setattr(asking, "FIRST_ANSWER", 0.5)
    house.start()
    data, taken = content(5 * PART), threading.Event()
    done = house.journal.part_done

    def noted(name: str, path: str, upload_id: str, number: int, etag: str) -> None:
        done(name, path, upload_id, number, etag)
        if number >= 2:
            taken.set()

    monkeypatch.setattr(house.journal, "part_done", noted)
    sent: list[int] = []
    put = house.way.put
    monkeypatch.setattr(house.way, "put", lambda place, *rest: sent.append(place.number) or put(place, *rest))  # type: ignore[func-returns-value]
    upload = house.upload("outputs/big", data)
    thread = threading.Thread(target=house.put, args=(upload,))
    thread.start()
    assert taken.wait(SOON)
    house.stop()
    standing = set(house.journal.parts(house.order.name, "outputs/big").popitem()[1])
    house.start()
    thread.join(SOON)
    assert house.stored("outputs/big") == data
    assert all(sent.count(number) == 1 for number in standing if number)


def test_the_store_is_away_for_a_while(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.start()
    fails, real = [StoreUnavailable("the store is away")] * 3, house.store.put_part

    def away(*values: Any) -> str:
        if fails:
            raise fails.pop()
        return real(*values)

    monkeypatch.setattr(house.store, "put_part", away)
    house.put(house.upload("outputs/big", content(3 * PART)))
    assert house.stored("outputs/big") == content(3 * PART)
    assert fails == []


def test_a_damaged_part_is_refused_and_nothing_of_it_is_stored(house: House) -> None:
    house.start()
    house.transfers._granted(house.order, "put", [transfer.TransferFile(path="outputs/a", size=3)], lambda: False)
    chunk = a_chunk(house, b"abc")
    with house.way._asking.expecting(chunk.request) as answer:
        house.say(frame(pack(chunk, Signer()), b"abd"))
        with pytest.raises(StoreUnavailable, match="came damaged") as caught:
            house.way._asking.wait(answer, 30.0, lambda: False)
    assert caught.value.code == "part-damaged"
    assert list(house.store.list(house.order.inputs[0].where.partition("main/")[0] + "main/site-a")) == []


def test_a_chunk_that_is_damaged_on_the_way_is_sent_again(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """In both directions."""
    house.start()
    for broker in (house.way._broker, house.relay._chunks._broker):  # type: ignore[union-attr]
        publish, left = broker.publish, [1]

        def damaged(body: bytes, publish: Any = publish, left: list[int] = left, **rest: Any) -> None:
            if left and len(body) > CHUNK:
                left.clear()
                body = body[:-1] + bytes([body[-1] ^ 1])
            publish(body, **rest)

        monkeypatch.setattr(broker, "publish", damaged)
    monkeypatch.setattr(chunks, "PATIENCE", 1.0)
    house.put(house.upload("outputs/big", content(3 * PART)))
    assert house.stored("outputs/big") == content(3 * PART)
    assert house.get() == content(chunks.STRETCH + CHUNK + 9)


def test_what_is_no_chunk_of_this_node_stops_nothing(house: House, caplog: pytest.LogCaptureFixture) -> None:
    enrol(house.centre.broker, house.centre.records, "site-b")
    house.start()
    house.put(house.upload("outputs/a", b"abc"))
    forged = a_chunk(house, b"xyz", node="site-b")
    for body in (
        b"noise",
        frame(b"{}", b""),
        frame(pack(forged, Signer()), b"xyz"),
        frame(pack(a_chunk(house, b"xyz"), Signer()), b"xyzz"),
    ):
        house.say(body)
    house.put(house.upload("outputs/b", b"alive"))
    assert (house.stored("outputs/a"), house.stored("outputs/b")) == (b"abc", b"alive")
    said = " ".join(record.getMessage() for record in caplog.records)
    for words in ("no frame", "not an envelope", "came from site-a", "not its share of a part"):
        assert words in said


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"attempt": 2}, "fenced"), ({"path": "outputs/../../../other"}, "grant-refused"), ({"path": "elsewhere"}, "grant-refused")],
    ids=["another attempt", "climbs", "elsewhere"],
)
def test_a_part_goes_nowhere_but_below_the_current_attempt(house: House, changes: dict[str, Any], code: str) -> None:
    house.start()
    house.relay._chunks.serve(NODE)  # type: ignore[union-attr]
    chunk = a_chunk(house, b"abc", **changes)
    with house.way._asking.expecting(chunk.request) as answer:
        house.say(frame(pack(chunk, Signer()), b"abc"))
        with pytest.raises(PolicyRefused) as caught:
            house.way._asking.wait(answer, 30.0, lambda: False)
    assert caught.value.code == code


def test_an_output_that_changed_is_told(house: House) -> None:
    house.start()
    upload = house.upload("outputs/a", b"abc")
    upload.file.write_bytes(b"ab")
    with pytest.raises(TaskFailed) as caught:
        house.put(upload)
    assert caught.value.code == "output-changed"


def test_a_stop_ends_an_upload_at_once(house: House) -> None:
    house.start()
    stop = threading.Event()
    put = house.store.put_part
    house.store.put_part = lambda *values: (stop.set(), put(*values))[1]  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        house.put(house.upload("outputs/big", content(40 * PART)), stopping=stop.is_set)
    eventually("the store has dropped it", lambda: list(house.store._uploads.iterdir()) == [])


def test_signatures_are_checked_at_the_node(house: House) -> None:
    """Whoever may publish to a node's queue still needs the centre's key."""
    house.start()
    house.way._keyring = Keyring({"centre": "A6EHv/POEL4dcN0Y50vAmWfk1jCbpQ1fHdyGZBJVMbg="})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "PATIENCE", 1.0)
        with pytest.raises(StoreUnavailable, match="nothing more of"):
            next(house.way.read(transfer.Place(house.order, house.order.inputs[0].where, 9), 0, lambda: False))


def test_a_node_of_an_earlier_release_gets_its_queues_with_its_first_request(house: House) -> None:
    from fdn_worker.brokers import Queue

    house.centre.broker.delete(Queue(up_queue(NODE)), Queue(down_queue(NODE)))
    with pytest.raises(Unroutable):
        house.say(b"")
    house.start()
    house.put(house.upload("outputs/a", b"abc"))
    assert house.stored("outputs/a") == b"abc"
    assert house.get() == content(chunks.STRETCH + CHUNK + 9)


def test_a_pack_of_the_source_is_an_input_too(house: House) -> None:
    data = content(CHUNK + 3, seed=7)
    house.store.put("packs/x", io.BytesIO(data), len(data))
    pack_ = InputFile(name="source.pack", size=len(data), sha256=hashlib.sha256(data).hexdigest(), where="packs/x")
    source = {"repository": "https://x.org/y", "commit": "0f" * 20, "pack": pack_.model_dump()}
    order = TaskOrder.model_validate(house.order.model_dump() | {"source": source, "attempt": 2})
    house.centre._write(order)
    house.order = order
    house.start()
    target = house.folder / "source.pack"
    assert house.transfers.get_source(order, target, lambda: False) == target
    assert target.read_bytes() == data
