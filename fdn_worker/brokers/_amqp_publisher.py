"""Publishing with confirms. Many may be under way at once, so callers in several threads share the broker's fsyncs."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pika
from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker, ConnectionBlockedTimeout

from fdn_worker.brokers._amqp_link import Link
from fdn_worker.errors import BrokerUnavailable, FdnError, Unroutable

#: How often a message is sent, when its connection closes under it, before its publisher is told.
SENDS = 2


@dataclass(eq=False)
class Request:
    """A message on its way. `done` is settled on the link's thread."""

    body: bytes
    exchange: str
    key: str
    message_id: str
    mandatory: bool
    durable: bool
    done: Future[None] = field(default_factory=Future)
    sends: int = 0

    @property
    def what(self) -> str:
        return f"message {self.message_id} to exchange {self.exchange!r} with key {self.key!r}"

    def settle(self, error: FdnError | None = None) -> None:
        with contextlib.suppress(InvalidStateError):  # its publisher has given up
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)


class Publisher:
    """One channel in confirm mode. Everything with an underscore runs on the link's thread."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._channel: Channel | None = None
        self._opening = False
        self._sent = 0
        #: By delivery tag, in order.
        self._unconfirmed: dict[int, Request] = {}
        self._waiting: deque[Request] = deque()

    def publish(self, request: Request) -> None:
        """Return once it is confirmed."""
        self._link.run(partial(self._send, request))
        try:
            self._link.wait(request.done, f"confirm {request.what}")
        finally:
            request.done.cancel()

    def _send(self, request: Request) -> None:
        if request.done.done():
            return
        if self._channel is None:
            self._waiting.append(request)
            if not self._opening:
                self._opening = True
                self._link.use(self._open, self._failed)
            return
        self._sent += 1
        request.sends += 1
        self._unconfirmed[self._sent] = request
        properties = pika.BasicProperties(  # type: ignore[no-untyped-call]
            message_id=request.message_id, delivery_mode=2 if request.durable else 1, user_id=self._link.address.user
        )
        self._channel.basic_publish(request.exchange, request.key, request.body, properties, request.mandatory)

    def _open(self, connection: pika.SelectConnection) -> None:
        connection.channel(on_open_callback=self._opened).add_on_close_callback(self._lost)

    def _opened(self, channel: Channel) -> None:
        channel.add_on_return_callback(self._returned)
        channel.confirm_delivery(self._answered, callback=lambda _frame: self._ready(channel))

    def _ready(self, channel: Channel) -> None:
        self._channel, self._opening, self._sent = channel, False, 0
        self._send_waiting()

    def _send_waiting(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            self._send(request)

    def _answered(self, frame: Any) -> None:
        """A confirm, or the refusal of a queue that is full."""
        method = frame.method
        tags = [tag for tag in self._unconfirmed if tag <= method.delivery_tag] if method.multiple else [method.delivery_tag]
        for tag in tags:
            request = self._unconfirmed.pop(tag, None)
            if request is None:
                continue
            if isinstance(method, pika.spec.Basic.Ack):
                request.settle()
                continue
            message = f"RabbitMQ at {self._link.address.place} refuses {request.what}"
            request.settle(BrokerUnavailable(message, code="queue-full", remedy="a queue is full: wait until its consumer catches up"))

    def _returned(self, _channel: Channel, method: Any, properties: Any, _body: bytes) -> None:
        """No queue takes it. The same message on the same way meets the same fate, so all such are told."""
        for request in self._unconfirmed.values():
            if (request.message_id, request.exchange, request.key) == (properties.message_id, method.exchange, method.routing_key):
                place = self._link.address.place
                message = f"no queue at {place} takes message {request.message_id}: exchange {request.exchange!r}, key {request.key!r}"
                request.settle(Unroutable(message, remedy="declare the queue or its binding first; a node is declared when it is enrolled"))

    def _lost(self, _channel: Channel, reason: Exception) -> None:
        """The channel or its connection closed: send again what was not confirmed, but for what caused it."""
        pending = [*self._unconfirmed.values(), *self._waiting]
        self._channel, self._opening = None, False
        self._unconfirmed, self._waiting = {}, deque()
        guilty = _guilty(pending, reason)
        for request in pending:
            if request in guilty:
                request.settle(self._link.address.explain_channel(reason, f"take {request.what}"))
            elif request.sends < SENDS or guilty:
                self._waiting.append(request)
            else:
                message = f"RabbitMQ at {self._link.address.place} closed twice before it confirmed {request.what}"
                request.settle(BrokerUnavailable(message, remedy="look at its log"))
        if self._waiting:
            # Not from inside pika's callback: the connection may be half closed.
            try:
                self._link.run(self._send_waiting)
            except BrokerUnavailable as error:
                self._failed(error)

    def _failed(self, error: FdnError) -> None:
        self._opening = False
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            request.settle(error)


def _guilty(pending: Sequence[Request], reason: BaseException) -> Sequence[Request]:
    """Those that caused the channel to close, or that will not fare better on another one."""
    if isinstance(reason, ConnectionBlockedTimeout):
        return pending
    if not isinstance(reason, ChannelClosedByBroker):
        return ()
    # One bad exchange name closes the channel for all: the broker's text tells whose it was.
    named = [one for one in pending if f"exchange '{one.exchange or 'amq.default'}'" in reason.reply_text]
    return named or (pending if len(pending) == 1 else ())
