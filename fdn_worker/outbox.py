"""The outbox: events that stand in the journal are sent until the broker has confirmed them."""

from __future__ import annotations

import logging
import threading

from fdn_worker.brokers import Broker
from fdn_worker.brokers.backoff import delays
from fdn_worker.brokers.lanes import Lanes
from fdn_worker.errors import FdnError
from fdn_worker.journal import Journal
from fdn_worker.protocol.names import EVENT_KEY, event_exchange

log = logging.getLogger(__name__)


class Outbox:
    """One thread; `wake` it when there is something to send."""

    def __init__(self, node: str, journal: Journal, broker: Broker) -> None:
        self._exchange, self._journal, self._broker = event_exchange(node), journal, broker
        #: One for each attempt: its events keep their order, and wait for those of no other.
        self._lanes = Lanes("outbox-lane")
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        #: What hinders it, in plain words; "" while all is well.
        self.problem = ""

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def stop(self, timeout: float) -> None:
        """Stop after the message that is being sent."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        pauses = delays()
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            try:
                self._drain()
                pauses, self.problem = delays(), ""
            except FdnError as error:
                # Whatever it is: a thread that ended would leave the node mute, and alive.
                self.problem = str(error)
                pause = next(pauses)
                log.warning("events wait: %s; next try in %.1f s", error, pause, extra={"action": "outbox-waits"})
                self._stop.wait(pause)
                self._wake.set()

    def _drain(self) -> None:
        while not self._stop.is_set() and (batch := self._journal.pending()):
            confirmed: list[int] = []

            def send(row: tuple[int, str, bytes], confirmed: list[int] = confirmed) -> None:
                if not self._stop.is_set():
                    number, message_id, body = row
                    self._broker.publish(body, exchange=self._exchange, key=EVENT_KEY, message_id=message_id)
                    confirmed.append(number)

            try:
                self._lanes.run(batch, lambda row: row[1].rpartition(".")[0], send)
            finally:
                if confirmed:
                    self._journal.sent(confirmed)
