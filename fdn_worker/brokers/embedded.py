"""The broker with nothing installed: one SQLite file, for processes on one machine.

A publish is on disk when it returns; those of several threads share a transaction. Deliveries and settlements are written in batches, at most one
`INTERVAL` (20 ms) later, and reach the disk with the next publish: a kill or a power cut can only make a message come
again. Each object that consumes has one thread, which looks for news of other processes every `INTERVAL` and is woken
at once by its own object's; idle, that costs 0.4 to 0.8 % of a core, with two subscriptions as with two thousand. A
consumer is gone when its process is, or when it has not reported for `LEASE` (5 s): then what it had in hand is
delivered again. `durable` and `replicated` make no difference here.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from fdn_worker.brokers import Binding, Depth, Exchange, Handler, Queue, Subscription
from fdn_worker.brokers._embedded_clients import expire, sweep, unused
from fdn_worker.brokers._embedded_file import File
from fdn_worker.brokers._embedded_messages import put
from fdn_worker.brokers._embedded_poller import Poller
from fdn_worker.errors import FdnError, SettingsError, Unroutable


class EmbeddedBroker:
    """Costs nothing until it is used; `close` waits for the handler that is running, at most 2 s."""

    def __init__(self, path: Path, name: str = "") -> None:
        lock = self._lock = threading.RLock()
        self._file = File(path, lock, "FULL")
        self._poller = Poller(path, lock, name)
        self._waiting: deque[_Message] = deque()

    @classmethod
    def at(cls, url: str, name: str = "") -> EmbeddedBroker:
        """The broker at `sqlite:///ABSOLUTE/PATH`. The file is made when it is missing, its folder must be there."""
        path = url.removeprefix("sqlite://")
        if not path.startswith("/") or path.endswith("/"):
            raise SettingsError(f"broker address {url!r} names no file", remedy="use sqlite:///ABSOLUTE/PATH")
        return cls(Path(path), name)

    def declare(self, *things: Exchange | Queue | Binding) -> None:
        with self._file.transaction() as connection:
            sweep(connection)
            for thing in things:
                match thing:
                    case Exchange():
                        _declare_exchange(connection, thing)
                    case Queue():
                        _declare_queue(connection, thing)
                    case Binding():
                        _bind(connection, thing)

    def delete(self, *things: Exchange | Queue) -> None:
        with self._file.transaction() as connection:
            for thing in things:
                table = "exchanges" if isinstance(thing, Exchange) else "queues"
                connection.execute(f"DELETE FROM {table} WHERE name = ?", (thing.name,))

    def publish(
        self,
        body: bytes,
        *,
        exchange: str = "",
        key: str = "",
        message_id: str,
        mandatory: bool = True,
        durable: bool = True,  # noqa: ARG002 - all are
    ) -> None:
        message = _Message((body, exchange, key, message_id, mandatory))
        self._waiting.append(message)
        with self._lock:
            # Whoever gets the lock writes what others wait with as well: one fsync for all.
            if not message.done:
                waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
                # It is not among them when another thread took it and failed unexpectedly.
                self._write(waiting if message in waiting else [*waiting, message])
        if message.error is not None:
            raise message.error

    def _write(self, messages: Sequence[_Message]) -> None:
        """Store them in one transaction; when one is refused, each in its own, so that it is refused alone."""
        queues: set[str] = set()
        try:
            with self._file.transaction() as connection:
                expire(connection)
                for message in messages:
                    queues.update(put(connection, *message.wanted))
        except FdnError as error:
            if len(messages) > 1:
                for message in messages:
                    self._write([message])
                return
            messages[0].error = error
            queues.clear()
        for message in messages:
            message.done = True
        self._poller.published(queues)

    def consume(self, queue: str, handler: Handler, *, prefetch: int = 32) -> Subscription:
        return self._poller.consume(queue, handler, prefetch)

    def depth(self, queue: str) -> Depth | None:
        with self._file.transaction() as connection:
            sweep(connection)
            if connection.execute("SELECT 1 FROM queues WHERE name = ?", (queue,)).fetchone() is None:
                return None
            (ready,) = connection.execute("SELECT count(*) FROM messages WHERE queue = ? AND holder IS NULL", (queue,)).fetchone()
            (consumers,) = connection.execute("SELECT count(*) FROM consumers WHERE queue = ?", (queue,)).fetchone()
            return Depth(ready, consumers)

    def close(self) -> None:
        self._poller.close()
        self._file.close()


@dataclass(eq=False)
class _Message:
    """A message on its way; `wanted` is what `put` takes."""

    wanted: tuple[bytes, str, str, str, bool]
    done: bool = False
    error: FdnError | None = None


def _declare_exchange(connection: sqlite3.Connection, exchange: Exchange) -> None:
    connection.execute("INSERT OR IGNORE INTO exchanges VALUES (?, ?)", (exchange.name, exchange.type))
    (found,) = connection.execute("SELECT type FROM exchanges WHERE name = ?", (exchange.name,)).fetchone()
    if found != exchange.type:
        raise _differs(f"exchange {exchange.name}", found, exchange.type)


def _declare_queue(connection: sqlite3.Connection, queue: Queue) -> None:
    # What is not the default, so that a field that a later release adds leaves old declarations alike.
    declared = json.dumps({one.name: getattr(queue, one.name) for one in fields(queue) if getattr(queue, one.name) != one.default})
    row = (queue.name, declared, queue.dead_letter, queue.expires, queue.max_length, queue.drop_oldest, queue.single_active)
    connection.execute("INSERT OR IGNORE INTO queues VALUES (?, ?, ?, ?, ?, ?, ?, NULL)", row)
    (found,) = connection.execute("SELECT declared FROM queues WHERE name = ?", (queue.name,)).fetchone()
    if found != declared:
        raise _differs(f"queue {queue.name}", found, declared)
    # A declaration counts as use, and a consumer (of an earlier queue of that name, even) keeps it alive.
    connection.execute("UPDATE queues SET dies = NULL WHERE name = ?", (queue.name,))
    unused(connection, queue.name)


def _bind(connection: sqlite3.Connection, binding: Binding) -> None:
    for table, name in (("exchanges", binding.exchange), ("queues", binding.queue)):
        if connection.execute(f"SELECT 1 FROM {table} WHERE name = ?", (name,)).fetchone() is None:
            message = f"cannot bind queue {binding.queue} to exchange {binding.exchange}: there is no {table[:-1]} {name!r}"
            raise Unroutable(message, remedy="declare it first")
    connection.execute("INSERT OR IGNORE INTO bindings VALUES (?, ?, ?)", (binding.exchange, binding.queue, binding.key))


def _differs(what: str, found: str, asked: str) -> SettingsError:
    message = f"{what} stands already as {found}, not as {asked}"
    return SettingsError(message, remedy="what stands differs from what is asked for: delete it, or ask for the same")
