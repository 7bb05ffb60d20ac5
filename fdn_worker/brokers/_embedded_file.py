"""The embedded broker's SQLite file: its tables, and transactions on it."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from fdn_worker.errors import BrokerUnavailable

#: Seconds that a transaction waits for those of other processes.
BUSY_SECONDS = 10.0
_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS exchanges (name TEXT PRIMARY KEY, type TEXT NOT NULL) WITHOUT ROWID;
-- `declared` is the whole declaration, to compare with the next; `dies` the wall-clock second at which an unused queue expires.
CREATE TABLE IF NOT EXISTS queues (
    name TEXT PRIMARY KEY, declared TEXT NOT NULL, dead_letter TEXT, expires REAL, max_length INTEGER,
    drop_oldest INTEGER NOT NULL, single_active INTEGER NOT NULL, dies REAL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS dying ON queues (dies) WHERE dies IS NOT NULL;
CREATE TABLE IF NOT EXISTS bindings (
    exchange TEXT NOT NULL REFERENCES exchanges ON DELETE CASCADE, queue TEXT NOT NULL REFERENCES queues ON DELETE CASCADE,
    key TEXT NOT NULL, PRIMARY KEY (exchange, key, queue)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS bound ON bindings (queue);
-- A broker object that consumes; `seen` is of the machine's monotonic clock.
CREATE TABLE IF NOT EXISTS clients (
    id INTEGER PRIMARY KEY AUTOINCREMENT, pid INTEGER NOT NULL, born TEXT NOT NULL, seen REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS consumers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, client INTEGER NOT NULL REFERENCES clients ON DELETE CASCADE, queue TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS consuming ON consumers (queue, id);
CREATE INDEX IF NOT EXISTS belonging ON consumers (client);
-- `holder` is the client that has it in hand; NULL while it is ready. Ids only grow, so news are those above the last one seen.
CREATE TABLE IF NOT EXISTS messages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, queue TEXT NOT NULL REFERENCES queues ON DELETE CASCADE, holder INTEGER,
    redelivered INTEGER NOT NULL DEFAULT 0, message_id TEXT NOT NULL, exchange TEXT NOT NULL, body BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS ready ON messages (queue, id) WHERE holder IS NULL;
CREATE INDEX IF NOT EXISTS held ON messages (holder) WHERE holder IS NOT NULL;
CREATE INDEX IF NOT EXISTS queued ON messages (queue);
-- Counts what makes old messages deliverable, so that consumers look at all of their queue again.
CREATE TABLE IF NOT EXISTS stirs (number INTEGER NOT NULL);
INSERT INTO stirs SELECT 0 WHERE NOT EXISTS (SELECT 1 FROM stirs);
"""


class File:
    """One connection to the file, opened at first use. Connections of one object share `lock`, so they never find it busy.

    FULL has each commit on disk when it returns. NORMAL leaves that to the next FULL one: in WAL mode a power cut then
    loses the newest commits and nothing else, which for claims and settlements only means another delivery.
    """

    def __init__(self, path: Path, lock: threading.RLock, synchronous: Literal["FULL", "NORMAL"]) -> None:
        self._path, self._lock, self._synchronous = path, lock, synchronous
        self._connection: sqlite3.Connection | None = None
        self._closed = False

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing. BrokerUnavailable for what SQLite cannot do."""
        with self._lock, self._explained():
            connection = self._open()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The connection, for single SELECTs."""
        with self._lock, self._explained():
            yield self._open()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise BrokerUnavailable(
                f"embedded broker {self._path}: {error}", remedy="check that its folder exists, is writable and has space"
            ) from error

    def _open(self) -> sqlite3.Connection:
        if self._closed:
            raise BrokerUnavailable(f"the embedded broker {self._path} was closed on this side")
        if self._connection is None:
            connection = sqlite3.connect(self._path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                self._prepare(connection)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError as error:
                # Two that make the file at once: SQLite does not wait here by itself.
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found == _VERSION:
            return
        if found:
            raise BrokerUnavailable(f"embedded broker {self._path} has version {found}", remedy=f"this release reads version {_VERSION}")
        connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {_VERSION}; COMMIT;")
