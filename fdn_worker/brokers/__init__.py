"""Broker: how messages travel. Two of them pass one set of contract tests: `amqp` (RabbitMQ) and `embedded` (SQLite).

Delivery is at least once: what `publish` returned from is kept until a consumer settles it; a delivery that was not
settled when its consumer went away is delivered again, marked `redelivered`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from fdn_worker.errors import SettingsError


@dataclass(frozen=True)
class Exchange:
    """Passes messages on to the queues bound to it: `fanout` to all, `direct` to those bound with the message's key."""

    name: str
    type: Literal["fanout", "direct"] = "fanout"


@dataclass(frozen=True)
class Queue:
    """A durable queue. Declaring one that stands already, alike, changes nothing."""

    name: str
    #: Queue that takes what a consumer rejects; None drops it.
    dead_letter: str | None = None
    #: Seconds without a consumer after which the queue goes away by itself; None keeps it.
    expires: float | None = None
    #: Messages it holds before `publish` is refused with BrokerUnavailable.
    max_length: int | None = None
    #: A full queue drops its oldest message instead (never together with `replicated`).
    drop_oldest: bool = False
    #: One consumer at a time gets deliveries; the next stands by.
    single_active: bool = False
    #: Copied to a majority of the brokers before a publish is confirmed. False where the truth stands elsewhere too.
    replicated: bool = True


@dataclass(frozen=True)
class Binding:
    """`exchange` passes messages with `key` on to `queue` (a fanout exchange ignores the key)."""

    exchange: str
    queue: str
    key: str = ""


@dataclass(frozen=True)
class Depth:
    """A queue as it stands: messages ready to be delivered, and consumers (a hint: heartbeats are the truth)."""

    messages: int
    consumers: int


class Delivery(Protocol):
    """A message in a consumer's hands. `ack` and `reject` may be called once, from any thread, later."""

    @property
    def body(self) -> bytes: ...
    @property
    def message_id(self) -> str: ...
    @property
    def exchange(self) -> str:
        """The exchange it was published to, as the broker vouches ("" for straight to a queue)."""

    @property
    def redelivered(self) -> bool: ...
    def ack(self) -> None: ...
    def reject(self) -> None:
        """To the dead letters."""


Handler = Callable[[Delivery], None]


class Subscription(Protocol):
    """A running consumer."""

    def cancel(self) -> None:
        """Stop deliveries. What was delivered may still be settled. Idempotent."""


class Broker(Protocol):
    """At most six methods; safe to call from any thread."""

    def declare(self, *things: Exchange | Queue | Binding) -> None:
        """Make these stand, in this order. Idempotent."""

    def delete(self, *things: Exchange | Queue) -> None:
        """Take these away with what they hold. Idempotent."""

    def publish(
        self, body: bytes, *, exchange: str = "", key: str = "", message_id: str, mandatory: bool = True, durable: bool = True
    ) -> None:
        """Return once the broker has confirmed that it keeps the message.

        With exchange "" the key is the queue's name. Raises Unroutable when `mandatory` and no queue takes it, and
        BrokerUnavailable when it was not confirmed in time: then it may or may not have been kept, so send it again.
        """

    def consume(self, queue: str, handler: Handler, *, prefetch: int = 32) -> Subscription:
        """Call `handler` with each delivery, one at a time, on the broker's consuming thread; it must not block.

        At most `prefetch` deliveries are unsettled at a time. Survives loss of the connection. A handler that raises
        has its delivery rejected. Raises Unroutable when there is no such queue.
        """

    def depth(self, queue: str) -> Depth | None:
        """How the queue stands; None when there is no such queue."""

    def close(self) -> None:
        """Stop consumers and connections. Idempotent."""


def connect(url: str, *, name: str = "") -> Broker:
    """The broker at `url`: `amqp://`, `amqps://` (RabbitMQ) or `sqlite:///PATH` (embedded). `name` shows up in its lists."""
    scheme = url.partition(":")[0]
    if scheme in ("amqp", "amqps"):
        from fdn_worker.brokers.amqp import AmqpBroker

        return AmqpBroker(url, name=name)
    if scheme == "sqlite":
        from fdn_worker.brokers.embedded import EmbeddedBroker

        return EmbeddedBroker.at(url, name=name)
    raise SettingsError(
        f"broker address {url.partition('@')[2] or url!r} has an unknown scheme", remedy="use amqp://, amqps:// or sqlite:///PATH"
    )
