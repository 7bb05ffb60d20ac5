"""Many messages published at once, so that they share the broker's round trips and its fsyncs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from fdn_worker.brokers import Broker
from fdn_worker.errors import BrokerUnavailable, Unroutable

#: Messages under way at once.
WIDTH = 16


@dataclass(frozen=True)
class Outgoing:
    """A message to publish; the fields are `Broker.publish`'s."""

    body: bytes = field(repr=False)
    message_id: str
    exchange: str = ""
    key: str = ""
    mandatory: bool = True
    durable: bool = True


class Pipeline:
    """Publishes through `broker`. The order of what is published together is not kept: whoever reads it goes by numbers."""

    def __init__(self, broker: Broker, name: str) -> None:
        self._broker = broker
        self._pool = ThreadPoolExecutor(WIDTH, thread_name_prefix=name)

    def publish(self, messages: Sequence[Outgoing]) -> list[BrokerUnavailable | Unroutable | None]:
        """What became of each: None once it is confirmed. After the first failure those that did not begin are not tried."""
        failures: list[BrokerUnavailable | Unroutable] = []

        def one(message: Outgoing) -> BrokerUnavailable | Unroutable | None:
            if failures:
                return failures[0]
            try:
                self._broker.publish(
                    message.body, exchange=message.exchange, key=message.key, message_id=message.message_id,
                    mandatory=message.mandatory, durable=message.durable,
                )  # fmt: skip
            except (BrokerUnavailable, Unroutable) as error:
                failures.append(error)
                return error
            return None

        return list(self._pool.map(one, messages)) if len(messages) > 1 else [one(message) for message in messages]
