"""Files that go by the broker, at the relay: parts gathered from `up.<node>` into the store, stretches given to `down.<node>`.

Beside the relay's own loop, which no file may hold up: a few lanes, each node always in the same one, so that a node's
parts reach the store in the order in which it sent them. A part is gathered in a file without a name, so that memory
does not grow with the nodes, and is gone with the relay: whoever waits for it sends it, or asks for it, once more.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from uuid import UUID

from fdn_worker.brokers import Broker, Delivery, Subscription
from fdn_worker.errors import BrokerUnavailable, FdnError, MessageError, StoreUnavailable, SystemFault
from fdn_worker.protocol import Chunk, Fetch, Message, Refusal, Signer, Taken, TaskOrder, pack
from fdn_worker.protocol.chunk import Assembly, frame, stretches, unframe
from fdn_worker.protocol.names import down_queue, up_queue
from fdn_worker.protocol.upload import OfAttempt
from federation.enrol import chunk_queues
from federation.grants import give, refusal, take
from storage.objects import ObjectStore

log = logging.getLogger(__name__)

#: Lanes side by side, and parts that one of them gathers at once: so much disk at most.
LANES, MOST_PARTS = 4, 64
#: Seconds after which a part of which nothing more comes makes room for another.
STALE = 60.0
#: Chunks of a node that the broker hands over ahead.
PREFETCH = 4
#: Seconds for which a full queue of a node is tried, and between tries.
OFFERED, PAUSE = 5.0, 0.05


@dataclass(eq=False)
class _Gathered:
    assembly: Assembly
    #: Monotonic moment of its last chunk.
    touched: float


@dataclass(eq=False)
class _Lane:
    """One thread, and what it gathers: (node, request) -> part, the one that waits longest first."""

    thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="relay-files"))
    parts: dict[tuple[str, UUID], _Gathered] = field(default_factory=dict)

    def clear(self) -> None:
        for gathered in self.parts.values():
            gathered.assembly.file.close()


class Chunks:
    """`open_` checks who sent an envelope to an exchange, `order` has the current order of a request's attempt, `reply` sends an answer."""

    def __init__(
        self,
        broker: Broker,
        store: ObjectStore,
        signer: Signer,
        open_: Callable[[str, bytes], tuple[Message, bytes]],
        order: Callable[[OfAttempt], TaskOrder | None],
        reply: Callable[[Taken | Refusal], None],
    ) -> None:
        self._broker, self._store, self._signer, self._open, self._order, self._reply = broker, store, signer, open_, order, reply
        self._lanes = [_Lane() for _ in range(LANES)]
        self._served: dict[str, Subscription] = {}
        self._lock, self._stopped = threading.Lock(), threading.Event()

    def serve(self, node: str) -> None:
        """Read the node's chunks from now on. Its queues are made if it was enrolled by an earlier release."""
        with self._lock:
            if node not in self._served:
                self._broker.declare(*chunk_queues(node))
                lane = self._lane(node)
                self._served[node] = self._broker.consume(
                    up_queue(node), lambda delivery: self._submit(lane, lambda: self._on_chunk(lane, delivery)), prefetch=PREFETCH
                )

    def stop(self) -> None:
        """Stop reading; what is half gathered is dropped. Idempotent."""
        if self._stopped.is_set():
            return
        self._stopped.set()
        with self._lock:
            for subscription in self._served.values():
                subscription.cancel()
        for lane in self._lanes:
            with suppress(RuntimeError):  # the interpreter ends, and what was gathered with it
                lane.thread.submit(lane.clear)
            lane.thread.shutdown(wait=False)

    def _lane(self, node: str) -> _Lane:
        return self._lanes[zlib.crc32(node.encode()) % LANES]

    def _submit(self, lane: _Lane, work: Callable[[], None]) -> None:
        def unless_stopped() -> None:
            if not self._stopped.is_set():
                work()

        with suppress(RuntimeError):  # stopped: what comes now goes back to its queue
            lane.thread.submit(unless_stopped).add_done_callback(_told)

    # Up

    def _on_chunk(self, lane: _Lane, delivery: Delivery) -> None:
        try:
            envelope, data = unframe(delivery.body)
            chunk, _ = self._open(delivery.exchange, envelope)
            if not isinstance(chunk, Chunk):
                raise MessageError(f"{chunk.kind} has no place among the chunks")
            self._gather(lane, chunk, data)
        except MessageError as error:
            log.error("chunk %s dropped: %s", delivery.message_id, error, extra={"action": "dead-letter"})
            delivery.reject()
            return
        except FdnError as error:
            # Of the records or the broker: the node sends the part once more.
            log.warning("chunk %s is lost: %s", delivery.message_id, error, extra={"action": "chunk-lost"})
        delivery.ack()

    def _gather(self, lane: _Lane, chunk: Chunk, data: memoryview) -> None:
        name = (chunk.node, chunk.request)
        try:
            gathered = lane.parts.pop(name, None)
            if gathered is not None and not gathered.assembly.part.same_part(chunk):
                raise MessageError(f"chunk {chunk.message_id} is of another part than those before it")
            if gathered is None:
                _make_room(lane)
                file = tempfile.TemporaryFile(prefix="fem-part-")  # noqa: SIM115 (it lives until the part is whole)
                gathered = _Gathered(Assembly(chunk, file), 0.0)
            # Put back behind all others.
            lane.parts[name] = gathered
            gathered.touched = time.monotonic()
            if not gathered.assembly.add(chunk, data):
                return
            del lane.parts[name]
            with gathered.assembly.file:
                self._reply(take(gathered.assembly, self._order(chunk), self._store))
        except OSError as error:
            full = StoreUnavailable(f"the relay cannot gather parts: {error.strerror}", code="relay-disk", remedy="free space in its /tmp")
            self._reply(refusal(chunk, full))
        except SystemFault as error:
            self._reply(refusal(chunk, error))

    # Down

    def give(self, fetch: Fetch) -> None:
        """Have a stretch of an input sent, soon."""
        self._submit(self._lane(fetch.node), lambda: self._give(fetch))

    def _give(self, fetch: Fetch) -> None:
        try:
            data = give(fetch, self._order(fetch), self._store)
            if isinstance(data, Refusal):
                self._reply(data)
            else:
                self._send(fetch, data)
        except SystemFault as error:
            self._reply(refusal(fetch, error))

    def _send(self, fetch: Fetch, data: bytes) -> None:
        part = Chunk(
            request=fetch.request, node=fetch.node, run=fetch.run, attempt=fetch.attempt, path=fetch.path, at=fetch.offset,
            size=len(data), sha256=hashlib.sha256(data).hexdigest(), offset=0,
        )  # fmt: skip
        until = time.monotonic() + OFFERED
        for offset, length in stretches(len(data)):
            chunk = part.model_copy(update={"offset": offset})
            self._offer(chunk, frame(pack(chunk, self._signer), data[offset : offset + length]), until)

    def _offer(self, chunk: Chunk, body: bytes, until: float) -> None:
        while True:
            try:
                return self._broker.publish(body, key=down_queue(chunk.node), message_id=chunk.message_id, durable=False)
            except BrokerUnavailable:
                if time.monotonic() > until or self._stopped.wait(PAUSE):
                    raise


def _make_room(lane: _Lane) -> None:
    """For one more part; StoreUnavailable when all are live."""
    if len(lane.parts) < MOST_PARTS:
        return
    oldest, gathered = next(iter(lane.parts.items()))
    if time.monotonic() - gathered.touched < STALE:
        raise StoreUnavailable("the relay gathers as many parts as it may", code="relay-busy", remedy="it takes more soon")
    gathered.assembly.file.close()
    del lane.parts[oldest]


def _told(done: Future[None]) -> None:
    """A fault of our own ends no lane; its traceback stays here."""
    if not done.cancelled() and (error := done.exception()) is not None:
        log.error("a file's chunk failed inside the relay", exc_info=error, extra={"action": "internal-error"})
