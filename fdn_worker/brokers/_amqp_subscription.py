"""A consumer with a channel of its own, opened again whenever the channel, its connection or its queue goes away."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from concurrent.futures import Future
from functools import partial
from typing import Any

import pika
from pika.channel import Channel

from fdn_worker.brokers import Handler
from fdn_worker.brokers._amqp_link import Link
from fdn_worker.brokers.backoff import delays
from fdn_worker.brokers.delivery import Held, hand_over
from fdn_worker.errors import BrokerUnavailable, FdnError

log = logging.getLogger(__name__)


class AmqpSubscription:
    """Everything with an underscore but `_settle` runs on the link's thread."""

    def __init__(self, link: Link, queue: str, handler: Handler, prefetch: int) -> None:
        self._link, self._queue, self._handler, self._prefetch = link, queue, handler, prefetch
        self._what = f"consume queue {queue}"
        self._ended = False
        self._started: Future[None] = Future()
        self._channel: Channel | None = None
        #: The consumer's, empty while there is none.
        self._tag = ""
        self._delays = delays()
        #: Delivery tags of this channel. A tag counts anew with each channel, so one of an earlier channel is never settled.
        self._unsettled: set[int] = set()
        self._settled: deque[tuple[Channel, int, bool]] = deque()
        self._settling = False

    def start(self) -> None:
        """Return once the broker has taken the consumer; raise what keeps it from that."""
        self._link.run(self._open)
        try:
            self._link.wait(self._started, self._what)
        except FdnError:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Stop deliveries. What the handler has may still be settled. Idempotent."""
        self._ended = True
        with contextlib.suppress(BrokerUnavailable):  # closed: nothing is delivered any more
            self._link.run(self._stop)

    def _settle(self, channel: Channel, tag: int, accept: bool) -> None:
        """From any thread. Many settlements go out in one turn of the link's thread."""
        self._settled.append((channel, tag, accept))
        if not self._settling:
            self._settling = True
            with contextlib.suppress(BrokerUnavailable):  # closed: the broker delivers it again
                self._link.run(self._flush)

    def _flush(self) -> None:
        self._settling = False
        while self._settled:
            channel, tag, accept = self._settled.popleft()
            if channel is not self._channel or not channel.is_open or tag not in self._unsettled:
                continue  # settled before, or of an earlier channel: the broker delivers it again
            self._unsettled.discard(tag)
            if accept:
                channel.basic_ack(tag)
            else:
                channel.basic_reject(tag, requeue=False)
        self._close_when_done()

    def _open(self) -> None:
        if not self._ended:
            self._link.use(self._use, self._failed)

    def _use(self, connection: pika.SelectConnection) -> None:
        connection.channel(on_open_callback=self._opened).add_on_close_callback(self._lost)

    def _opened(self, channel: Channel) -> None:
        self._channel = channel
        if self._ended:
            channel.close()
            return
        channel.add_on_cancel_callback(self._cancelled)
        channel.basic_qos(prefetch_count=self._prefetch)
        self._tag = channel.basic_consume(self._queue, self._deliver, callback=self._consuming)

    def _consuming(self, _frame: Any) -> None:
        self._delays = delays()
        if self._ended:
            self._stop()
        if self._started.done():
            log.info("queue %s is consumed again", self._queue, extra={"action": "broker"})
        else:
            self._started.set_result(None)

    def _deliver(self, channel: Channel, method: Any, properties: Any, body: bytes) -> None:
        tag: int = method.delivery_tag
        if self._ended:
            channel.basic_nack(tag, requeue=True)
            return
        self._unsettled.add(tag)
        settle = partial(self._settle, channel, tag)
        hand_over(self._handler, Held(body, properties.message_id or "", method.exchange, method.redelivered, settle), self._queue)

    def _stop(self) -> None:
        if self._channel is not None and self._channel.is_open and self._tag in self._channel.consumer_tags:
            self._channel.basic_cancel(self._tag, callback=self._stopped)

    def _stopped(self, _frame: Any) -> None:
        self._tag = ""
        self._close_when_done()

    def _close_when_done(self) -> None:
        channel = self._channel
        if not self._tag and not self._unsettled and channel is not None and channel.is_open:
            channel.close()

    def _cancelled(self, _frame: Any) -> None:
        """By the broker: the queue was deleted, or has lost its leader."""
        log.error("RabbitMQ ended the consumer of queue %s: is the queue gone?", self._queue, extra={"action": "broker"})
        if self._channel is not None and self._channel.is_open:
            self._channel.close()

    def _lost(self, _channel: Channel, reason: BaseException) -> None:
        self._channel, self._tag = None, ""
        self._unsettled.clear()
        self._failed(self._link.address.explain_channel(reason, self._what))

    def _failed(self, error: FdnError) -> None:
        if not self._started.done():
            self._started.set_exception(error)
            return
        if self._ended or self._link.closed:
            return
        pause = next(self._delays)
        log.warning("queue %s is not consumed: %s; next try in %.1f s", self._queue, error, pause, extra={"action": "broker"})
        with contextlib.suppress(BrokerUnavailable):
            self._link.run(self._open, after=pause)
