"""Files in chunks over the broker, for a site that reaches nothing else: the node's side (`protocol/chunk.py` has the rules).

What is on its way twice does no harm, and what was lost is sent or asked for again, so no chunk need outlive a restart
of the broker. Memory is a chunk for each part on its way up, and a stretch (2 MiB) for each input on its way down.
"""

from __future__ import annotations

import hashlib
import io
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import UUID, uuid4, uuid5

from fdn_worker.asking import Answer, Asking, Stretch
from fdn_worker.brokers import Broker, Delivery, Subscription
from fdn_worker.brokers.backoff import delays
from fdn_worker.errors import BrokerUnavailable, MessageError, StoreUnavailable
from fdn_worker.protocol import Chunk, Fetch, Keyring, Signer, Taken, base, decode, pack
from fdn_worker.protocol.chunk import CHUNK, MOST_FETCHED, Assembly, frame, stretches, unframe
from fdn_worker.protocol.names import UP_KEY, down_queue, event_exchange
from fdn_worker.way import Place, Stopped, changed, opened

log = logging.getLogger(__name__)

#: Bytes of an input that are asked for at once.
STRETCH = 2 * 1024**2
#: Seconds without a word of the relay, or a chunk, after which a part is begun again.
PATIENCE = 20.0
#: Seconds for which one chunk is offered to a broker that does not take it, and the bounds of the pauses in between.
OFFERED, FIRST_PAUSE, LONGEST_PAUSE = 60.0, 0.02, 2.0
#: Chunks that come ahead of being looked at.
PREFETCH = 16


@dataclass(eq=False)
class _Arrival:
    """A stretch on its way down; `heard` is the monotonic moment of its last chunk."""

    heard: float
    assembly: Assembly | None = None


class Chunks:
    """A `Way`. `broker` is one of its own, so that no event waits behind a file."""

    name: base.Way = "broker"

    def __init__(self, node: str, broker: Broker, asking: Asking, signer: Signer, keyring: Keyring) -> None:
        self._node, self._broker, self._asking, self._signer, self._keyring = node, broker, asking, signer, keyring
        self._arrivals: dict[UUID, _Arrival] = {}
        self._subscription: Subscription | None = None
        self._lock = threading.Lock()

    def close(self) -> None:
        """End its connections."""
        self._broker.close()

    # Up

    def put(self, place: Place, file: Path, offset: int, length: int, stopping: Callable[[], bool]) -> str:
        """Send the part, and wait until the relay has put it into the store; its ETag."""
        with opened(file) as source:
            part = self._part(place, source, offset, length)
            with self._asking.expecting(part.request) as answer:
                for start, size in stretches(length):
                    source.seek(offset + start)
                    data = source.read(size)
                    if len(data) != size:
                        raise changed(file)
                    self._offer(part.model_copy(update={"offset": start}), data, answer, stopping)
                    if answer.done():
                        break
                taken = self._asking.wait(answer, PATIENCE, stopping)
        if not isinstance(taken, Taken):
            what = f"part {place.number} of {place.path}"
            raise StoreUnavailable(f"the centre has not said in {PATIENCE:.0f} s that it took {what}", code="relay-silent")
        return taken.etag

    def _part(self, place: Place, source: BinaryIO, offset: int, length: int) -> Chunk:
        """The first chunk of the part. Its request is the same whenever these bytes are sent to that place: half of them may be there."""
        digest, left = hashlib.sha256(), length
        source.seek(offset)
        while left and (data := source.read(min(left, CHUNK))):
            digest.update(data)
            left -= len(data)
        order, sha256 = place.order, digest.hexdigest()
        request = uuid5(order.run, f"{order.attempt}.{place.path}.{place.upload_id}.{place.number}.{sha256}")
        return Chunk(
            request=request, node=self._node, run=order.run, attempt=order.attempt, path=place.path, upload_id=place.upload_id,
            number=place.number, at=offset, size=length, sha256=sha256, offset=0,
        )  # fmt: skip

    def _offer(self, chunk: Chunk, data: bytes, answer: Future[Answer], stopping: Callable[[], bool]) -> None:
        """Have the broker take the chunk. A full queue holds us back until the relay has caught up."""
        body = frame(pack(chunk, self._signer), data)
        end, pauses = time.monotonic() + OFFERED, delays(FIRST_PAUSE, LONGEST_PAUSE)
        while not answer.done():
            if stopping():
                raise Stopped
            try:
                self._broker.publish(
                    body, exchange=event_exchange(self._node), key=UP_KEY, message_id=chunk.message_id, durable=False
                )  # fmt: skip
            except BrokerUnavailable:
                if time.monotonic() > end:
                    raise
                time.sleep(next(pauses))
            else:
                return

    # Down

    def read(self, place: Place, offset: int, stopping: Callable[[], bool]) -> Iterator[bytes]:
        """The input's bytes from `offset` on, a stretch at a time."""
        self._listen()
        while offset < place.size:
            length = min(STRETCH, place.size - offset)
            data = self._stretch(place, offset, length, stopping)
            yield data
            if len(data) < length:
                return
            offset += length

    def _listen(self) -> None:
        with self._lock:
            if self._subscription is None:
                self._subscription = self._broker.consume(down_queue(self._node), self._on_chunk, prefetch=PREFETCH)

    def _stretch(self, place: Place, offset: int, length: int, stopping: Callable[[], bool]) -> bytes:
        order = place.order
        fetch = Fetch(request=uuid4(), node=self._node, run=order.run, attempt=order.attempt, path=place.path, offset=offset, length=length)
        arrival = self._arrivals[fetch.request] = _Arrival(time.monotonic())
        try:
            with self._asking.expecting(fetch.request) as answer:
                self._asking.send(fetch)
                while (came := self._asking.wait(answer, 1.0, stopping)) is None:
                    if time.monotonic() > arrival.heard + PATIENCE:
                        raise StoreUnavailable(f"nothing more of {place.path} has come in {PATIENCE:.0f} s", code="relay-silent")
        finally:
            del self._arrivals[fetch.request]
        if not isinstance(came, Stretch):
            raise StoreUnavailable(f"the centre answered {type(came).__name__} to a request for an input")
        return came.data

    def _on_chunk(self, delivery: Delivery) -> None:
        """On the broker's thread. What nobody waits for any more is passed over."""
        envelope, data = unframe(delivery.body)
        chunk = decode(self._keyring.open(envelope).payload)
        if not isinstance(chunk, Chunk) or chunk.node != self._node or chunk.size > MOST_FETCHED:
            raise MessageError(f"a {chunk.kind} that is not this node's came as an input's chunk")
        arrival = self._arrivals.get(chunk.request)
        if arrival is not None:
            arrival.heard = time.monotonic()
            arrival.assembly = arrival.assembly or Assembly(chunk, io.BytesIO())
            if arrival.assembly.add(chunk, data):
                self._arrived(arrival.assembly)
        delivery.ack()

    def _arrived(self, whole: Assembly) -> None:
        if whole.right():
            self._asking.answered(Stretch(whole.part.request, whole.file.read()))
        else:
            log.warning("a stretch of %s came damaged; it is asked for again", whole.part.path, extra={"action": "part-damaged"})
