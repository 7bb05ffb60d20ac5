"""The one thread of an embedded broker: it looks for news, hands deliveries over, writes settlements, renews the lease."""

from __future__ import annotations

import logging
import random
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from fdn_worker.brokers import Handler
from fdn_worker.brokers._embedded_clients import LEASE, join, leave, register, release, report, sweep
from fdn_worker.brokers._embedded_file import File
from fdn_worker.brokers._embedded_messages import Settlement, claim, settle
from fdn_worker.brokers.backoff import delays
from fdn_worker.brokers.delivery import Held, hand_over
from fdn_worker.errors import BrokerUnavailable, Unroutable

log = logging.getLogger(__name__)

#: Seconds between two looks for what other processes published. What this object publishes wakes it at once.
INTERVAL = 0.02
#: Seconds between two reports that this client lives.
REPORT = LEASE / 5
#: Most messages that one turn takes, so that settlements and the lease never wait for a long backlog.
TURN = 256
#: Seconds that closing waits for a handler.
CLOSE = 2.0


class EmbeddedSubscription:
    """A consumer. All but `cancel` is the poller's."""

    def __init__(self, poller: Poller, queue: str, handler: Handler, prefetch: int) -> None:
        self._poller = poller
        self.queue, self.handler, self.prefetch = queue, handler, prefetch
        self.consumer = 0
        self.ended = False
        self.unsettled: set[int] = set()

    @property
    def room(self) -> int:
        """How many more it may have in hand."""
        return 0 if self.ended else self.prefetch - len(self.unsettled)

    def cancel(self) -> None:
        """Stop deliveries. What the handler has may still be settled. Idempotent."""
        if not self.ended:
            self.ended = True
            self._poller.end(self)


class Poller:
    """Started by the first `consume`. `lock` guards all that is not a deque; no handler is called under it."""

    def __init__(self, path: Path, lock: threading.RLock, name: str) -> None:
        self._file = File(path, lock, "NORMAL")
        self._lock = lock
        self._thread = threading.Thread(target=self._live, name=f"broker-{name or path.name}", daemon=True)
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._client = 0
        self._subscriptions: dict[str, set[EmbeddedSubscription]] = {}
        #: Those whose queue may hold something for them.
        self._hungry: set[EmbeddedSubscription] = set()
        # Filled by any thread, emptied by the poller's.
        self._said: deque[tuple[EmbeddedSubscription, Settlement]] = deque()
        self._ended: deque[EmbeddedSubscription] = deque()
        # Emptied once it is committed.
        self._unwritten: list[Settlement] = []
        self._leaving: list[EmbeddedSubscription] = []
        # As of the last look and report.
        self._version, self._stirs, self._newest, self._reported = -1, -1, 0, 0.0

    def consume(self, queue: str, handler: Handler, prefetch: int) -> EmbeddedSubscription:
        """A new consumer; Unroutable when there is no such queue."""
        subscription = EmbeddedSubscription(self, queue, handler, prefetch)
        with self._lock:
            with self._file.transaction() as connection:
                if connection.execute("SELECT 1 FROM queues WHERE name = ?", (queue,)).fetchone() is None:
                    raise Unroutable(f"there is no queue {queue!r} to consume", remedy="declare it first")
                self._report(connection)
                subscription.consumer = join(connection, self._client, queue)
            self._subscriptions.setdefault(queue, set()).add(subscription)
            self._hungry.add(subscription)
            if not self._thread.is_alive():
                self._thread.start()
        self._wake.set()
        return subscription

    def end(self, subscription: EmbeddedSubscription) -> None:
        """It was cancelled."""
        self._ended.append(subscription)
        self._wake.set()

    def published(self, queues: Iterable[str]) -> None:
        """This object published to these queues."""
        if any(queue in self._subscriptions for queue in queues):
            self._wake.set()

    def close(self) -> None:
        """Settle what was said, give back the rest, end the thread."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(CLOSE)
        elif not self._thread.is_alive():
            self._file.close()

    def _live(self) -> None:
        pauses = delays(first=0.1, longest=LEASE)
        while not self._stopping.is_set():
            try:
                more = self._turn()
                pauses = delays(first=0.1, longest=LEASE)
            except BrokerUnavailable as error:
                pause = next(pauses)
                log.warning("%s; next try in %.1f s", error, pause, extra={"action": "broker"})
                more = self._stopping.wait(pause)
            if not more:
                self._wake.wait(INTERVAL)
            self._wake.clear()
        self._listen()
        with suppress(BrokerUnavailable), self._file.transaction() as connection:
            settle(connection, self._unwritten)
            release(connection, self._client)
        self._file.close()

    def _turn(self) -> bool:
        """Look once and hand over what is there; True when there may be more at once."""
        self._look()
        self._listen()
        due = time.monotonic() - self._reported > REPORT
        taken: list[tuple[EmbeddedSubscription, int, Held]] = []
        with self._lock:
            if not (due or self._unwritten or self._leaving or any(one.room > 0 for one in self._hungry)):
                return False
            try:
                with self._file.transaction() as connection:
                    if due:
                        self._report(connection)
                        sweep(connection)
                    settle(connection, self._unwritten)
                    leave(connection, [(one.consumer, one.queue) for one in self._leaving])
                    taken = self._take(connection)
            except BrokerUnavailable:
                self._hungry.update(*self._subscriptions.values())
                raise
            for one, message, _held in taken:
                one.unsettled.add(message)
            self._unwritten, self._leaving = [], []
            # SQLite does not tell a connection of its own changes.
            self._version = -1
        for one, message, held in taken:
            if one.ended or self._stopping.is_set():
                self._said.append((one, Settlement(message, self._client, None)))
            else:
                hand_over(one.handler, held, one.queue)
        return bool(taken)

    def _look(self) -> None:
        """Find out whose queue has news."""
        with self._file.reading() as connection:
            version = connection.execute("PRAGMA data_version").fetchone()[0]
            if version == self._version:
                return
            self._version = version
            stirs = connection.execute("SELECT number FROM stirs").fetchone()[0]
            news = connection.execute("SELECT id, queue FROM messages WHERE id > ? ORDER BY id", (self._newest,)).fetchall()
            queues = self._subscriptions if stirs != self._stirs else {queue for _, queue in news}
            for queue in queues:
                self._hungry |= self._subscriptions.get(queue, set())
            self._stirs = stirs
            self._newest = news[-1][0] if news else self._newest

    def _listen(self) -> None:
        """Take in what other threads said."""
        while self._said:
            one, settlement = self._said.popleft()
            if settlement.client == self._client and settlement.message in one.unsettled:
                one.unsettled.discard(settlement.message)
                self._unwritten.append(settlement)
        while self._ended:
            one = self._ended.popleft()
            with self._lock:
                self._subscriptions[one.queue].discard(one)
                if not self._subscriptions[one.queue]:
                    del self._subscriptions[one.queue]
                self._hungry.discard(one)
            self._leaving.append(one)

    def _report(self, connection: sqlite3.Connection) -> None:
        """Renew the lease. A client that was given up meanwhile, or is new, begins anew with its consumers."""
        self._reported = time.monotonic()
        if report(connection, self._client):
            return
        self._client = register(connection)
        for one in [one for group in self._subscriptions.values() for one in group]:
            one.consumer = join(connection, self._client, one.queue)
            one.unsettled.clear()
            self._hungry.add(one)

    def _take(self, connection: sqlite3.Connection) -> list[tuple[EmbeddedSubscription, int, Held]]:
        """Claim messages for those who have room, in no fixed order, so that none is always last."""
        taken: list[tuple[EmbeddedSubscription, int, Held]] = []
        hungry = [one for one in self._hungry if one.room > 0]
        random.shuffle(hungry)
        for one in hungry:
            most = min(one.room, TURN - len(taken))
            if most <= 0:
                break
            rows = claim(connection, self._client, one.consumer, one.queue, most)
            if len(rows) < most:
                self._hungry.discard(one)
            for message, message_id, exchange, redelivered, body in rows:
                settle_it = partial(self._say, one, message, self._client)
                taken.append((one, message, Held(body, message_id, exchange, bool(redelivered), settle_it)))
        return taken

    def _say(self, subscription: EmbeddedSubscription, message: int, client: int, accept: bool) -> None:
        """From any thread. Written with the next turn, which comes at once when the consumer waits for room."""
        self._said.append((subscription, Settlement(message, client, accept)))
        if subscription.room <= 0 or not accept:
            self._wake.set()
