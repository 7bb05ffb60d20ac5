"""The node's journal: the truth about its attempts, in SQLite (WAL).

A phase, and the event that tells of it, are written in one transaction: what the centre hears has happened, and what
has happened the centre will hear. Phases: received -> accepted -> started -> exited (-> held) -> uploaded -> done.

A write returns once it is on the disk, as by SQLite's own synchronous FULL; but the fsync is ours and comes after the
lock, so that threads which write at the same time share one.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import UUID

from fdn_worker import entries
from fdn_worker.entries import note, note_order, note_state
from fdn_worker.errors import JournalUnavailable
from fdn_worker.protocol import ControlRequest, Endpoint, Reason, Report, Signer, State, TaskEvent, TaskOrder, advance, decode, now, pack
from fdn_worker.protocol.envelope import payload_of

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    name TEXT PRIMARY KEY, execution TEXT NOT NULL, task TEXT NOT NULL, node TEXT NOT NULL, run TEXT NOT NULL, attempt INTEGER NOT NULL,
    order_json TEXT, phase TEXT NOT NULL, state TEXT NOT NULL, number INTEGER NOT NULL DEFAULT 0, last_event BLOB,
    received TEXT NOT NULL, deadline TEXT NOT NULL, started TEXT, finished TEXT, launcher TEXT, image TEXT, stop TEXT,
    cursor TEXT NOT NULL DEFAULT '', log_bytes INTEGER NOT NULL DEFAULT 0, lines_sent INTEGER NOT NULL DEFAULT 0,
    lines_dropped INTEGER NOT NULL DEFAULT 0, bytes_in INTEGER NOT NULL DEFAULT 0, exit_json TEXT, outcome_json TEXT);
CREATE INDEX IF NOT EXISTS unfinished ON runs (phase) WHERE phase != 'done';
CREATE TABLE IF NOT EXISTS outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, message_id TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS parts (
    name TEXT NOT NULL, path TEXT NOT NULL, upload_id TEXT NOT NULL, number INTEGER NOT NULL, etag TEXT NOT NULL,
    PRIMARY KEY (name, path, upload_id, number));
CREATE TABLE IF NOT EXISTS flags (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS holds (
    name TEXT PRIMARY KEY, ports TEXT NOT NULL, sandbox TEXT, listening INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS releases (name TEXT PRIMARY KEY, since TEXT NOT NULL, until TEXT, verdicts TEXT NOT NULL, word TEXT);
CREATE TABLE IF NOT EXISTS decisions (name TEXT PRIMARY KEY, rule TEXT, policy TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS let_in (rule TEXT PRIMARY KEY, runs INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS requests (id TEXT PRIMARY KEY, deadline TEXT NOT NULL);
"""
#: A table that comes to be leaves it as it is: an older worker does without the table.
_VERSION = 1
#: Attempts that are forgotten at once where room is needed.
_AT_ONCE = 100
#: Flag: the latest deadline of an order that was forgotten.
FORGOTTEN = "forgotten"


class Phase(StrEnum):
    RECEIVED = "received"
    ACCEPTED = "accepted"
    STARTED = "started"
    EXITED = "exited"
    #: A person is to say what of it leaves.
    HELD = "held"
    UPLOADED = "uploaded"
    DONE = "done"


@dataclass(frozen=True)
class Entry:
    """One attempt as the journal has it."""

    name: str
    execution: UUID
    task: str
    node: str
    run: UUID
    attempt: int
    order_json: str | None
    phase: Phase
    state: State
    number: int
    received: str
    deadline: str
    started: str | None
    finished: str | None
    launcher: str | None
    image: str | None
    #: Why it is to stop ("cancelled", "timeout", "deadline"); None while it may go on.
    stop: str | None
    cursor: str
    log_bytes: int
    lines_sent: int
    lines_dropped: int
    bytes_in: int
    exit_json: str | None
    outcome_json: str | None

    @cached_property
    def order(self) -> TaskOrder | None:
        """None for a tombstone: cancelled before its order came. Read when it is asked for, since most steps do not."""
        if self.order_json is None:
            return None
        order = decode(self.order_json.encode())
        assert isinstance(order, TaskOrder)
        return order


@dataclass(frozen=True)
class Decided:
    """Which rule decided about an attempt, None for none that did, and the hash of the policy that was in force."""

    rule: str | None
    policy: str


class Journal:
    """Safe from any thread. `on_event` is called after each commit that put something into the outbox or the audit log.

    `on_state` is told each state that an attempt came to, with its reason, after the commit.
    """

    def __init__(self, path: Path, signer: Signer, on_event: Callable[[], None] = lambda: None) -> None:
        self._path, self._signer, self.on_event = path, signer, on_event
        self.on_state: Callable[[str, State, Reason | None], None] = lambda *_: None
        self._lock, self._reading, self._syncing = threading.RLock(), threading.Lock(), threading.Lock()
        self._commits = self._synced = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
            # Its own connection, so that who reads does not wait for another's fsync.
            self._reader = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
            self._reader.row_factory = sqlite3.Row
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version > _VERSION:
                raise JournalUnavailable(
                    f"journal {path} is of version {version}, newer than this worker's {_VERSION}", remedy="upgrade it"
                )
            self._db.executescript(_SCHEMA + entries.SCHEMA)
            self._db.execute(f"PRAGMA user_version={_VERSION}")
            # It stands as long as a connection does, so this is the file that commits go to.
            self._log = open(f"{path}-wal", "rb")  # noqa: SIM115 (closed by `close`)
        except (sqlite3.Error, OSError) as error:
            raise JournalUnavailable(f"journal {path}: {error}", remedy="check the folder's owner and the disk") from error

    @contextmanager
    def transaction(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """All of it or nothing. What is not `durable` reaches the disk with the next that is: a power cut may undo it, no kill does."""
        with self._lock, self._told():
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
                self._commits += 1
            finally:
                # A full disk may have ended the transaction already.
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
        if durable:
            self.sync()

    def sync(self) -> None:
        """Return once all that was committed by now is on the disk."""
        wanted = self._commits
        with self._syncing, self._told():
            if self._synced < wanted:
                reached = self._commits
                os.fdatasync(self._log.fileno())
                self._synced = reached

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Errors of SQLite and of the disk as our own."""
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise JournalUnavailable(f"journal {self._path}: {error}", remedy="look at its disk's free space and its owner") from error

    def read(self, query: str, *values: Any) -> list[sqlite3.Row]:
        """What is committed, without waiting for who writes."""
        with self._reading, self._told():
            return self._reader.execute(query, values).fetchall()

    def _select(self, where: str, *values: Any) -> list[Entry]:
        return [_entry(row) for row in self.read(f"SELECT * FROM runs {where}", *values)]  # no value stands in `where`

    # Orders and control

    def receive(self, order: TaskOrder, payload: bytes, key_id: str = "") -> bool:
        """Write the order down, and who signed it. False when its run and attempt are known: then its last state goes out again."""
        with self.transaction() as db:
            if self._send_again(db, order.name):
                fresh = False
            else:
                note_order(db, order, payload, key_id)
                self._insert(db, order.name, order, Phase.RECEIVED, State.QUEUED, order_json=payload.decode())
                fresh = True
        if not fresh:
            self.on_event()
        return fresh

    def bury(self, request: ControlRequest, name: str) -> None:
        """A tombstone for an attempt whose order has not come: it is CANCELLED, and stays so when the order comes."""
        with self.transaction() as db:
            self._insert(db, name, request, Phase.DONE, State.QUEUED)
            self._write(db, name, State.CANCELLED, reason=None, finished=now().isoformat())
        self.on_event()

    def send_again(self, name: str) -> bool:
        """Put the attempt's last state event into the outbox once more; False when there is none."""
        with self.transaction() as db:
            known = self._send_again(db, name)
        if known:
            self.on_event()
        return known

    def _send_again(self, db: sqlite3.Connection, name: str) -> bool:
        row = db.execute("SELECT last_event FROM runs WHERE name=?", (name,)).fetchone()
        if row is None:
            return False
        if (body := row["last_event"]) is not None:
            # Sealed anew: the key of that time may have been revoked.
            said = payload_of(body)
            db.execute("INSERT INTO outbox (message_id, body) VALUES (?, ?)", (decode(said).message_id, self._signer.seal(said)))
        return True

    @staticmethod
    def _insert(
        db: sqlite3.Connection, name: str, of: TaskOrder | ControlRequest, phase: Phase, state: State, order_json: str | None = None
    ) -> None:
        db.execute(
            "INSERT INTO runs (name, execution, task, node, run, attempt, order_json, phase, state, received, deadline) VALUES (?,?,?,?,?,?,?,?,?,?,?)",
            (
                name,
                str(of.execution),
                of.task,
                of.node,
                str(of.run),
                of.attempt,
                order_json,
                phase,
                state,
                now().isoformat(),
                of.deadline.isoformat(),
            ),
        )

    # The run's way

    def record(
        self,
        name: str,
        *,
        phase: Phase | None = None,
        state: State | None = None,
        lines: Sequence[str] = (),
        reason: Reason | None = None,
        report: Report | None = None,
        listening: Sequence[Endpoint] = (),
        decided: Decided | None = None,
        durable: bool = True,
        **columns: Any,
    ) -> None:
        """Write a step of the attempt, with the event that tells of it when there is something to tell."""
        if phase is not None:
            columns["phase"] = phase
        with self.transaction(durable) as db:
            self._write(db, name, state, lines, reason, report, listening, decided, **columns)
            if decided is not None:
                db.execute("INSERT OR REPLACE INTO decisions VALUES (?, ?, ?)", (name, decided.rule, decided.policy))
                if state is State.ACCEPTED:
                    db.execute("INSERT INTO let_in VALUES (?, 1) ON CONFLICT DO UPDATE SET runs = runs + 1", (decided.rule,))
            if listening:
                db.execute("UPDATE holds SET listening=1 WHERE name=?", (name,))
        if state is not None or lines or listening:
            self.on_event()
        if state is not None:
            self.on_state(name, state, reason)

    def _write(
        self,
        db: sqlite3.Connection,
        name: str,
        state: State | None,
        lines: Sequence[str] = (),
        reason: Reason | None = None,
        report: Report | None = None,
        listening: Sequence[Endpoint] = (),
        decided: Decided | None = None,
        **columns: Any,
    ) -> None:
        if state is not None or lines or listening:
            row = db.execute("SELECT execution, task, node, run, attempt, number, state FROM runs WHERE name=?", (name,)).fetchone()
            if state is not None:
                columns["state"] = advance(State(row["state"]), state)
            number = columns["number"] = row["number"] + 1
            event = TaskEvent(
                execution=row["execution"], task=row["task"], node=row["node"], run=row["run"], attempt=row["attempt"],
                number=number, at=now(), state=state, lines=tuple(lines), reason=reason, report=report,
                listening=tuple(listening),
            )  # fmt: skip
            body = pack(event, self._signer)
            db.execute("INSERT INTO outbox (message_id, body) VALUES (?, ?)", (event.message_id, body))
            if state is not None:
                columns["last_event"] = body
                rule = {} if decided is None else {"rule": decided.rule, "policy": decided.policy}
                note_state(db, event, columns | rule)
        if columns:
            assignments = ", ".join(f"{column}=?" for column in columns)
            db.execute(f"UPDATE runs SET {assignments} WHERE name=?", (*columns.values(), name))  # column names are ours

    def entry(self, name: str) -> Entry | None:
        """The attempt, or None."""
        return next(iter(self._select("WHERE name=?", name)), None)

    def decision(self, name: str) -> Decided | None:
        """What the site's policy decided about the attempt; None where there was none."""
        rows = self.read("SELECT rule, policy FROM decisions WHERE name=?", name)
        return Decided(rows[0]["rule"], rows[0]["policy"]) if rows else None

    def deciding_rules(self) -> dict[str, str | None]:
        """The rule that decided about each attempt about which a policy did."""
        return {row["name"]: row["rule"] for row in self.read("SELECT name, rule FROM decisions")}

    def let_in(self, rule: str) -> tuple[int, int]:
        """How many orders the rule has let in: ever, also those forgotten since, and of them unfinished ones."""
        ever = self.read("SELECT runs FROM let_in WHERE rule=?", rule)
        here = self.read("SELECT count(*) AS runs FROM runs JOIN decisions USING (name) WHERE phase != 'done' AND rule=?", rule)
        return (ever[0]["runs"] if ever else 0), here[0]["runs"]

    def unfinished(self) -> list[Entry]:
        """Attempts that are not done, oldest first."""
        return self._select("WHERE phase != 'done' ORDER BY received, name")

    def recent(self, limit: int) -> list[Entry]:
        """The latest attempts, newest first."""
        return self._select("ORDER BY received DESC LIMIT ?", limit)

    def compact(self, most: int) -> int:
        """Have the file take at most so many bytes: ended attempts are forgotten, the oldest first, as far as may be. What it takes then."""
        if self._size() <= most:
            return self._size()
        oldest = (
            "SELECT max(finished) AS last FROM (SELECT finished FROM runs WHERE phase='done' AND deadline < ? ORDER BY finished LIMIT ?)"
        )
        # Some room, so that it is not written anew with every look.
        while self._pages("page_count") - self._pages("freelist_count") > most * 3 // 4 // self._pages("page_size"):
            last = self.read(oldest, now().isoformat(), _AT_ONCE)[0]["last"]
            if last is None:
                break
            self.forget(f"{last}~")  # later than that, and earlier than anything after it
        with self._lock, self._told():
            if self._pages("freelist_count") > self._pages("page_count") // 8:
                self._db.execute("VACUUM")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self._size()

    def _pages(self, what: str) -> int:
        return int(self.read(f"PRAGMA {what}")[0][0])  # the names are ours

    def _size(self) -> int:
        return sum(Path(f"{self._path}{suffix}").stat().st_size for suffix in ("", "-wal"))

    def forget(self, before: str) -> None:
        """Drop attempts that ended before that moment and whose orders have expired: a replay of those is refused by its expiry.

        By `forgotten` it is refused also where the clock was set back since.
        """
        gone = "phase='done' AND finished < ? AND deadline < ?"
        with self.transaction() as db:
            of = (before, now().isoformat())
            latest = db.execute(f"SELECT max(deadline) FROM runs WHERE {gone}", of).fetchone()[0]  # no value stands in `gone`
            if latest is not None and latest > (self.flag(FORGOTTEN) or ""):
                db.execute("INSERT OR REPLACE INTO flags VALUES (?, ?)", (FORGOTTEN, latest))
            db.execute(f"DELETE FROM runs WHERE {gone}", of)
            for table in ("parts", "holds", "decisions", "releases"):
                db.execute(f"DELETE FROM {table} WHERE name NOT IN (SELECT name FROM runs)")  # table names are ours
            db.execute("DELETE FROM requests WHERE deadline < ?", (now().isoformat(),))

    def first_time(self, request: str, deadline: str) -> bool:
        """Whether this request was not here before. It is known from now on, until a `forget` after its deadline."""
        with self.transaction() as db:
            return db.execute("INSERT OR IGNORE INTO requests VALUES (?, ?)", (request, deadline)).rowcount > 0

    def audit(self, kind: str, **what: Any) -> None:
        """Have an entry in the audit log that goes with no other write."""
        with self.transaction() as db:
            note(db, kind, **what)
        self.on_event()

    # Uploads under way

    def part_done(self, name: str, path: str, upload_id: str, number: int, etag: str) -> None:
        """Remember that the store took a part."""
        with self.transaction() as db:
            db.execute("INSERT OR REPLACE INTO parts VALUES (?, ?, ?, ?, ?)", (name, path, upload_id, number, etag))

    def parts(self, name: str, path: str) -> dict[str, dict[int, str]]:
        """The finished parts of a file: upload id -> part number -> etag. Number 0 marks an upload that was begun."""
        uploads: dict[str, dict[int, str]] = {}
        for row in self.read("SELECT upload_id, number, etag FROM parts WHERE name=? AND path=?", name, path):
            uploads.setdefault(row["upload_id"], {})[row["number"]] = row["etag"]
        return uploads

    def parts_forgotten(self, name: str, path: str | None = None) -> None:
        """Forget the uploads of a file, or of the attempt."""
        with self.transaction() as db:
            db.execute("DELETE FROM parts WHERE name=? AND (? IS NULL OR path=?)", (name, path, path))

    # The outbox

    def pending(self, limit: int = 200) -> list[tuple[int, str, bytes]]:
        """Messages that wait to be sent, oldest first: (number, message id, body)."""
        rows = self.read("SELECT * FROM outbox ORDER BY id LIMIT ?", limit)
        # Another thread's may have been committed and not be on the disk yet.
        self.sync()
        return [(row["id"], row["message_id"], row["body"]) for row in rows]

    def unsent(self) -> int:
        """How many messages wait to be sent."""
        return int(self.read("SELECT count(*) AS messages FROM outbox")[0]["messages"])

    def sent(self, numbers: Sequence[int]) -> None:
        """The broker has confirmed these. Forgotten by a power cut, they are sent again, which does no harm."""
        with self.transaction(durable=False) as db:
            db.executemany("DELETE FROM outbox WHERE id=?", [(number,) for number in numbers])

    # What another process tells this one

    def flag(self, name: str) -> str | None:
        """The value of a flag, such as `drain`; None when it is not set."""
        rows = self.read("SELECT value FROM flags WHERE name=?", name)
        return rows[0]["value"] if rows else None

    def set_flag(self, name: str, value: str | None) -> None:
        """Set a flag, or clear it."""
        with self.transaction() as db:
            if value is None:
                db.execute("DELETE FROM flags WHERE name=?", (name,))
            else:
                db.execute("INSERT OR REPLACE INTO flags VALUES (?, ?)", (name, value))

    def close(self) -> None:
        """Close the file; nothing else may be called after."""
        with self._lock, self._reading, self._syncing:
            self._log.close()
            self._reader.close()
            self._db.close()


def _entry(row: sqlite3.Row) -> Entry:
    fields = {key: row[key] for key in row.keys() if key != "last_event"}  # noqa: SIM118 (a Row is no mapping)
    fields |= {"execution": UUID(row["execution"]), "run": UUID(row["run"]), "phase": Phase(row["phase"]), "state": State(row["state"])}
    return Entry(**fields)


def outcome_json(state: State, reason: Reason | None, report: Report) -> str:
    """How an attempt will end once its files are up, as the journal keeps it meanwhile."""
    return json.dumps({"state": state, "reason": reason and reason.model_dump(mode="json"), "report": report.model_dump(mode="json")})


def read_outcome(text: str) -> tuple[State, Reason | None, Report]:
    """The inverse of `outcome_json`."""
    fields = json.loads(text)
    reason = Reason.model_validate(fields["reason"]) if fields["reason"] else None
    return State(fields["state"]), reason, Report.model_validate(fields["report"])
