"""What both brokers do with a delivery: hold it, and hand it to its handler."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from fdn_worker.brokers import Handler

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Held:
    """A delivery. `settle` is called with True to acknowledge, with False to reject; its second call is nothing."""

    body: bytes = field(repr=False)
    message_id: str
    exchange: str
    redelivered: bool
    settle: Callable[[bool], None] = field(repr=False)

    def ack(self) -> None:
        self.settle(True)

    def reject(self) -> None:
        self.settle(False)


def hand_over(handler: Handler, delivery: Held, queue: str) -> None:
    """Call the handler; when it raises, reject the delivery and say so."""
    try:
        handler(delivery)
    except Exception:
        # The one place that catches everything: no handler's fault may end the thread that serves all the others.
        log.exception("the handler of queue %s failed on message %s: rejected", queue, delivery.message_id, extra={"action": "reject"})
        delivery.reject()
