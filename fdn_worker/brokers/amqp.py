"""The broker RabbitMQ, through pika.

Two connections, each with a thread of its own, so that an alarm that holds publishing back leaves consuming alone.
Either is opened when it is first needed. A lost publishing connection comes back with the next call, which fails at
once when the broker is not there; a lost consuming connection is tried again by itself, with full-jitter backoff.
"""

from __future__ import annotations

from typing import Any

from fdn_worker.brokers import Binding, Depth, Exchange, Handler, Queue, Subscription
from fdn_worker.brokers._amqp_address import Address
from fdn_worker.brokers._amqp_link import Link, Step
from fdn_worker.brokers._amqp_publisher import Publisher, Request
from fdn_worker.brokers._amqp_subscription import AmqpSubscription
from fdn_worker.errors import Unroutable


class AmqpBroker:
    """RabbitMQ at an `amqp://` or `amqps://` address (see `Address`). `name` shows up in its list of connections."""

    def __init__(self, url: str, name: str = "") -> None:
        address = Address.parse(url, name)
        self._publishing = Link(address, "publish")
        self._consuming = Link(address, "consume")
        self._publisher = Publisher(self._publishing)

    def declare(self, *things: Exchange | Queue | Binding) -> None:
        self._publishing.call(*map(_declare, things))

    def delete(self, *things: Exchange | Queue) -> None:
        self._publishing.call(*map(_delete, things))

    def publish(
        self, body: bytes, *, exchange: str = "", key: str = "", message_id: str, mandatory: bool = True, durable: bool = True
    ) -> None:
        self._publisher.publish(Request(body, exchange, key, message_id, mandatory, durable))

    def consume(self, queue: str, handler: Handler, *, prefetch: int = 32) -> Subscription:
        """As in `Broker`; BrokerUnavailable when the broker is not there at the start. Not from within a handler."""
        subscription = AmqpSubscription(self._consuming, queue, handler, prefetch)
        subscription.start()
        return subscription

    def depth(self, queue: str) -> Depth | None:
        try:
            (answer,) = self._publishing.call(
                (f"look at queue {queue}", lambda channel, done: channel.queue_declare(queue, passive=True, callback=done))
            )
        except Unroutable:
            return None
        return Depth(answer.message_count, answer.consumer_count)

    def close(self) -> None:
        self._consuming.close()
        self._publishing.close()


def _declare(thing: Exchange | Queue | Binding) -> Step:
    match thing:
        case Exchange(name, kind):
            return f"declare exchange {name}", lambda channel, done: channel.exchange_declare(name, kind, durable=True, callback=done)
        case Queue(name):
            arguments = _arguments(thing)
            return (
                f"declare queue {name}",
                lambda channel, done: channel.queue_declare(name, durable=True, arguments=arguments, callback=done),
            )
        case Binding(exchange, queue, key):
            what = f"bind queue {queue} to exchange {exchange}"
            return what, lambda channel, done: channel.queue_bind(queue, exchange, key, callback=done)


def _delete(thing: Exchange | Queue) -> Step:
    name = thing.name
    if isinstance(thing, Exchange):
        return f"delete exchange {name}", lambda channel, done: channel.exchange_delete(name, callback=done)
    return f"delete queue {name}", lambda channel, done: channel.queue_delete(name, callback=done)


def _arguments(queue: Queue) -> dict[str, Any]:
    """RabbitMQ's own words for a queue's properties."""
    arguments: dict[str, Any] = {}
    if queue.replicated:
        arguments["x-queue-type"] = "quorum"
    if queue.dead_letter is not None:
        arguments |= {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue.dead_letter}
        if queue.replicated:
            # Dead letters are moved at least once; RabbitMQ wants this overflow with it.
            arguments |= {"x-dead-letter-strategy": "at-least-once", "x-overflow": "reject-publish"}
    if queue.max_length is not None:
        arguments |= {"x-max-length": queue.max_length, "x-overflow": "drop-head" if queue.drop_oldest else "reject-publish"}
    if queue.expires is not None:
        arguments["x-expires"] = max(1, round(queue.expires * 1000))
    if queue.single_active:
        arguments["x-single-active-consumer"] = True
    return arguments
