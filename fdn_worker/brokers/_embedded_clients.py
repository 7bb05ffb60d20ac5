"""Clients of the embedded broker: who lives, and what goes back to its queue when one is gone."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence
from pathlib import Path

#: Seconds after which a client that does not report is given up, though its process may live.
LEASE = 5.0


def register(connection: sqlite3.Connection) -> int:
    """A new client of this process; its id."""
    row = (os.getpid(), _born(os.getpid()), time.monotonic())
    made = connection.execute("INSERT INTO clients (pid, born, seen) VALUES (?, ?, ?) RETURNING id", row).fetchone()
    return int(made[0])


def report(connection: sqlite3.Connection, client: int) -> bool:
    """Renew the lease; False when the client was given up meanwhile."""
    return connection.execute("UPDATE clients SET seen = ? WHERE id = ?", (time.monotonic(), client)).rowcount == 1


def sweep(connection: sqlite3.Connection) -> None:
    """Take away dead clients and expired queues."""
    now = time.monotonic()
    for client, pid, born, seen in connection.execute("SELECT id, pid, born, seen FROM clients").fetchall():
        # A time to come was written before the machine was started anew.
        if not now - LEASE <= seen <= now + LEASE or _gone(pid, born):
            release(connection, client)
    expire(connection)


def expire(connection: sqlite3.Connection) -> None:
    """Take away the queues that nobody has used for as long as they allow."""
    connection.execute("DELETE FROM queues WHERE dies < ?", (time.time(),))


def release(connection: sqlite3.Connection, client: int) -> None:
    """Remove a client; what it held is ready again."""
    queues = connection.execute("SELECT DISTINCT queue FROM consumers WHERE client = ?", (client,)).fetchall()
    connection.execute("DELETE FROM clients WHERE id = ?", (client,))
    connection.execute("UPDATE messages SET holder = NULL, redelivered = 1 WHERE holder = ?", (client,))
    for (queue,) in queues:
        unused(connection, queue)
    stir(connection)


def join(connection: sqlite3.Connection, client: int, queue: str) -> int:
    """A new consumer of the queue; its id."""
    connection.execute("UPDATE queues SET dies = NULL WHERE name = ?", (queue,))
    made = connection.execute("INSERT INTO consumers (client, queue) VALUES (?, ?) RETURNING id", (client, queue)).fetchone()
    return int(made[0])


def leave(connection: sqlite3.Connection, consumers: Sequence[tuple[int, str]]) -> None:
    """Remove consumers, given with their queues; what they hold stays theirs to settle."""
    for consumer, queue in consumers:
        connection.execute("DELETE FROM consumers WHERE id = ?", (consumer,))
        unused(connection, queue)
    if consumers:
        stir(connection)


def unused(connection: sqlite3.Connection, queue: str) -> None:
    """Start the clock of an expiring queue, if it has no consumer."""
    connection.execute(
        "UPDATE queues SET dies = ? + expires WHERE name = ? AND NOT EXISTS (SELECT 1 FROM consumers WHERE queue = name)",
        (time.time(), queue),
    )


def stir(connection: sqlite3.Connection) -> None:
    """Have every consumer look at the whole of its queue again."""
    connection.execute("UPDATE stirs SET number = number + 1")


def _born(pid: int) -> str:
    """What tells this process from a later one of the same number: pid namespace and start time. "" where unknown."""
    try:
        namespace = Path("/proc/self/ns/pid").readlink()
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    # A zombie's files and threads are gone: it counts as dead. Field 22 of stat is the start time.
    return "" if state in "ZX" else f"{namespace} {fields[18]}"


def _gone(pid: int, born: str) -> bool:
    mine = _born(os.getpid())
    # From another container, or without /proc, the number means nothing: then the lease alone tells.
    return bool(born) and born.split()[0] == mine.partition(" ")[0] and _born(pid) != born
