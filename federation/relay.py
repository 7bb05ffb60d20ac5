"""The relay: the one reader of the inbox. It records what nodes say, passes it on to followers, and answers their requests.

Inside a flow's process for an ad-hoc run, or a service (`fem relay`); a second one stands by, since the inbox has a
single active consumer. A delivery is acknowledged once it is recorded and passed on, so another relay goes on where
one was killed; what it then does twice, the records and the followers drop by event number.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence

from fdn_worker import protocol
from fdn_worker.brokers import Broker, Delivery, Subscription
from fdn_worker.brokers.lanes import Lanes
from fdn_worker.errors import FdnError, MessageError, SystemFault, Unroutable
from fdn_worker.protocol import (
    Abort,
    Complete,
    Fetch,
    Grant,
    Heartbeat,
    Keyring,
    Message,
    Signer,
    TaskEvent,
    TaskOrder,
    TransferRequest,
    decode,
    now,
    pack,
)
from fdn_worker.protocol.envelope import node_of_key, payload_of
from fdn_worker.protocol.names import BEATS, EXECUTIONS, INBOX, control_queue, node_of_exchange
from fdn_worker.protocol.upload import OfAttempt
from federation.chunks import Chunks
from federation.enrol import declare_centre
from federation.grants import Request, answer
from federation.heads import Heads
from storage.objects import ObjectStore
from storage.records import Records

log = logging.getLogger(__name__)

#: Deliveries that are handled in one transaction at most; also what the broker hands over ahead.
BATCH = 200
#: Seconds between tries while records or broker are away, and between looks at the nodes' keys.
PAUSE, KEYS_SECONDS = 2.0, 30.0


class Relay:
    """`start` returns at once; `stop` waits for the batch in hand.

    `files` is a connection of its own for what goes in chunks over the broker, so that no event waits behind it; the
    relay closes it. `on_news` is told of executions once it is recorded that a run of theirs has ended, or a server
    listens; it must return at once, since everything else waits for it.
    """

    def __init__(
        self, broker: Broker, records: Records, store: ObjectStore, signer: Signer, *, unsigned_ok: bool, files: Broker | None = None,
        on_news: Callable[[set[str]], None] | None = None,
    ) -> None:  # fmt: skip
        self._on_news = on_news
        self._broker, self._records, self._store, self._signer, self._unsigned_ok = broker, records, store, signer, unsigned_ok
        self._deliveries: queue.Queue[Delivery | None] = queue.Queue()
        self._lanes = Lanes("relay-lane")
        self._files = files or broker
        self._chunks = Chunks(self._files, store, signer, self._open, self._order, self._send)
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)
        self._subscriptions: list[Subscription] = []
        self._stop = threading.Event()
        self._heads = Heads(records)
        self._ring, self._keys_read = Keyring(), 0.0

    def start(self) -> None:
        """Declare what it needs, and consume."""
        declare_centre(self._broker)
        self._thread.start()
        for name in (INBOX, BEATS):
            self._subscriptions.append(self._broker.consume(name, self._deliveries.put, prefetch=BATCH))

    def stop(self) -> None:
        """Stop consuming; what was not handled goes back to the inbox."""
        for subscription in self._subscriptions:
            subscription.cancel()
        self._stop.set()
        self._deliveries.put(None)
        self._thread.join(10.0)
        self._chunks.stop()
        if self._files is not self._broker:
            self._files.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            batch, again = self._next_batch(), False
            while batch and not self._stop.is_set():
                try:
                    self._handle(batch, again)
                    break
                except FdnError as error:
                    # Whatever it is: a thread that ended would leave the centre deaf, and alive.
                    again = True
                    log.warning("%d messages wait: %s", len(batch), error, extra={"action": "relay-waits"})
                    self._stop.wait(PAUSE)

    def _next_batch(self) -> list[Delivery]:
        """What has come, at least one; fewer than BATCH unless more is there already."""
        batch = [self._deliveries.get()]
        while len(batch) < BATCH:
            try:
                batch.append(self._deliveries.get_nowait())
            except queue.Empty:
                break
        return [delivery for delivery in batch if delivery is not None]

    def _handle(self, batch: list[Delivery], again: bool) -> None:
        opened: list[tuple[Delivery, Message, bytes]] = []
        for delivery in list(batch):
            try:
                opened.append((delivery, *self._open(delivery.exchange, delivery.body)))
            except FdnError as error:
                if isinstance(error, SystemFault):
                    raise
                log.error("message %s dropped: %s", delivery.message_id, error, extra={"action": "dead-letter"})
                delivery.reject()
                batch.remove(delivery)
        beats = [message for _, message, _ in opened if isinstance(message, Heartbeat)]
        if beats:
            self._heads.heard(beats)
            self._records.heard(beats, now())
        events = [message for _, message, _ in opened if isinstance(message, TaskEvent)]
        if events:
            new, unknown = self._records.record_events(events)
            news = {str(event.execution) for event in new if event.listening or (event.state is not None and event.state.terminal)}
            if news and self._on_news is not None:
                self._on_news(news)
            for event in unknown:
                log.warning("event %s is of no attempt known here", event.message_id, extra={"action": "event-unknown"})
            # One site may send what bears the id of another's event: what is not recorded is passed on to nobody.
            strange = {id(event) for event in unknown}
            fresh = {event.message_id for event in new}
            due: list[tuple[TaskEvent, bytes]] = []
            for delivery, message, payload in opened:
                # What was recorded by a try that then failed, here or in a relay that died, may not have been passed on.
                if not isinstance(message, TaskEvent) or id(message) in strange:
                    continue
                if message.message_id in fresh or again or delivery.redelivered:
                    due.append((message, payload))
                    fresh.discard(message.message_id)
            self._lanes.run(due, lambda one: str(one[0].run), self._pass_on)
        for _, message, payload in opened:
            if isinstance(message, protocol.Answer):
                # Whoever asked has a queue bound by the request; an answer that came too late goes to nobody.
                self._publish(payload, str(message.request), message.message_id)
        self._answer([message for _, message, _ in opened if isinstance(message, TransferRequest | Complete | Abort)])
        for message in (message for _, message, _ in opened if isinstance(message, Fetch)):
            self._chunks.give(message)
        for delivery in batch:
            delivery.ack()

    def _open(self, exchange: str, body: bytes) -> tuple[Message, bytes]:
        """The message and its payload, if its sender is who it says."""
        node = node_of_exchange(exchange)
        self._read_keys(KEYS_SECONDS)
        try:
            opened = self._ring.open(body)
        except MessageError:
            # By a key that was added, or of a node that was enrolled, since.
            if not self._read_keys(1.0):
                raise
            opened = self._ring.open(body)
        message = decode(opened.payload)
        said = getattr(message, "node", None)
        if said != node or (node_of_key(opened.key_id) != node if opened.key_id else node in self._ring.keys):
            raise MessageError(f"a {message.kind} of {said!r}, signed by {opened.key_id!r}, came from {node}", code="forged")
        return message, opened.payload

    def _read_keys(self, age: float) -> bool:
        """Look up the nodes' keys if that is so many seconds ago; whether it was done."""
        moment = time.monotonic()
        if self._keys_read and moment - self._keys_read <= age:
            return False
        self._ring, self._keys_read = self._records.keys.ring(unsigned_ok=self._unsigned_ok), moment
        return True

    def _pass_on(self, told: tuple[TaskEvent, bytes]) -> None:
        event, payload = told
        # Nobody may be following: the records have it then.
        self._publish(payload, str(event.execution), event.message_id)

    def _publish(self, payload: bytes, key: str, message_id: str) -> None:
        self._broker.publish(payload, exchange=EXECUTIONS, key=key, message_id=message_id, mandatory=False, durable=False)

    def _answer(self, requests: Sequence[Request]) -> None:
        """Those of one attempt in their order, others side by side."""
        asked = [(request, self._order(request)) for request in requests]
        self._lanes.run(asked, lambda one: str(one[0].run), self._reply)

    def _reply(self, asked: tuple[Request, TaskOrder | None]) -> None:
        request, order = asked
        reply = answer(request, order, self._store)
        if isinstance(reply, Grant) and isinstance(request, TransferRequest) and request.by == "broker":
            self._chunks.serve(request.node)
        if reply is not None:
            self._send(reply)

    def _send(self, reply: OfAttempt) -> None:
        try:
            self._broker.publish(pack(reply, self._signer), key=control_queue(reply.node), message_id=reply.message_id)
        except Unroutable as error:
            # The node was retired meanwhile; waiting for it would hold up all the others.
            log.warning("%s not delivered: %s", reply.message_id, error, extra={"action": "answer-unroutable"})

    def _order(self, request: OfAttempt) -> TaskOrder | None:
        """The order of the request's attempt, if that is the current one of its run."""
        attempt = self._records.attempt(str(request.run), request.attempt)
        if attempt is None or not self._records.is_current(str(request.run), request.attempt):
            return None
        order = decode(payload_of(attempt.order_body))
        assert isinstance(order, TaskOrder)
        return order
