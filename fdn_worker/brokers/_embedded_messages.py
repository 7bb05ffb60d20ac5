"""Messages of the embedded broker: routed in, claimed by a client, settled. Each function is part of a transaction."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from typing import Any, NamedTuple

from fdn_worker.brokers._embedded_clients import stir
from fdn_worker.errors import BrokerUnavailable, Unroutable

log = logging.getLogger(__name__)

_TO_QUEUE = "SELECT name, max_length, drop_oldest FROM queues WHERE name = ?"
_THROUGH_EXCHANGE = """
SELECT DISTINCT name, max_length, drop_oldest FROM bindings JOIN queues ON name = queue
WHERE exchange = ? AND (key = ? OR (SELECT type FROM exchanges WHERE name = exchange) = 'fanout')"""
_PUT = "INSERT INTO messages (queue, message_id, exchange, body) VALUES (?, ?, ?, ?)"
_READY = "SELECT count(*) FROM (SELECT 1 FROM messages WHERE queue = ? AND holder IS NULL LIMIT ?)"
_DROP = "DELETE FROM messages WHERE id = (SELECT min(id) FROM messages WHERE queue = ? AND holder IS NULL)"
_CLAIM = """
UPDATE messages SET holder = ? WHERE id IN (SELECT id FROM messages WHERE queue = ? AND holder IS NULL ORDER BY id LIMIT ?)
RETURNING id, message_id, exchange, redelivered, body"""
_ACTIVE = "SELECT NOT single_active OR ? = (SELECT min(id) FROM consumers WHERE queue = name) FROM queues WHERE name = ?"
_ACK = "DELETE FROM messages WHERE id = ? AND holder = ?"
_GIVE_BACK = "UPDATE messages SET holder = NULL WHERE id = ? AND holder = ?"
_TO_DEAD_LETTERS = """
UPDATE messages SET holder = NULL, redelivered = 0, exchange = '', queue = (SELECT dead_letter FROM queues WHERE name = queue)
WHERE id = ? AND holder = ? AND EXISTS
    (SELECT 1 FROM queues AS own JOIN queues AS dead ON dead.name = own.dead_letter WHERE own.name = messages.queue)"""


class Settlement(NamedTuple):
    """What a client says of a message that it holds: True acknowledges, False rejects, None gives it back unseen."""

    message: int
    client: int
    word: bool | None


def put(connection: sqlite3.Connection, body: bytes, exchange: str, key: str, message_id: str, mandatory: bool) -> list[str]:
    """Store the message in each queue that takes it; their names."""
    if exchange:
        if connection.execute("SELECT 1 FROM exchanges WHERE name = ?", (exchange,)).fetchone() is None:
            raise Unroutable(f"there is no exchange {exchange!r} for message {message_id}", remedy="declare it first")
        targets = connection.execute(_THROUGH_EXCHANGE, (exchange, key)).fetchall()
    else:
        targets = connection.execute(_TO_QUEUE, (key,)).fetchall()
    if mandatory and not targets:
        message = f"no queue takes message {message_id}: exchange {exchange!r}, key {key!r}"
        raise Unroutable(message, remedy="declare the queue or its binding first; a node is declared when it is enrolled")
    for queue, max_length, drop_oldest in targets:
        if max_length is not None and connection.execute(_READY, (queue, max_length)).fetchone()[0] >= max_length:
            if not drop_oldest:
                raise BrokerUnavailable(
                    f"queue {queue} refuses message {message_id}: it holds {max_length}",
                    code="queue-full",
                    remedy="wait until its consumer catches up",
                )
            connection.execute(_DROP, (queue,))
        connection.execute(_PUT, (queue, message_id, exchange, body))
    return [queue for queue, *_ in targets]


def claim(connection: sqlite3.Connection, client: int, consumer: int, queue: str, most: int) -> list[Any]:
    """The next messages for a consumer: rows of id, message id, exchange, redelivered and body, oldest first."""
    active = connection.execute(_ACTIVE, (consumer, queue)).fetchone()
    if active is None or not active[0]:
        return []
    return sorted(connection.execute(_CLAIM, (client, queue, most)).fetchall())


def settle(connection: sqlite3.Connection, settlements: Sequence[Settlement]) -> None:
    """Do as the clients say; what a client no longer holds stays as it is."""
    connection.executemany(_ACK, [one[:2] for one in settlements if one.word is True])
    others = [one for one in settlements if one.word is not True]
    for one in others:
        if one.word is None:
            connection.execute(_GIVE_BACK, one[:2])
        elif not connection.execute(_TO_DEAD_LETTERS, one[:2]).rowcount and connection.execute(_ACK, one[:2]).rowcount:
            log.warning("a rejected message is dropped: its queue has no dead letters", extra={"action": "reject"})
    if others:
        stir(connection)
