"""The site's audit log: files of chained lines (`protocol/chain.py`), into which one thread takes what waits in the journal.

    audit/000000000001.jsonl     named by its first entry; another one is begun each month, and when one grows large

An entry is durable with what it tells of, since both are one write of the journal; its line follows some tenths of a
second later, many in one write and with one signature. The journal gives the numbers, so an entry whose line was cut
off by a crash is written again, and one whose line stands is not.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from fdn_worker import __version__
from fdn_worker.entries import note
from fdn_worker.errors import JournalUnavailable, MessageError, SettingsError, SystemFault
from fdn_worker.journal import Journal
from fdn_worker.protocol import Signer
from fdn_worker.protocol.chain import BEGIN, KEYS, Head, head_of, read, write
from fdn_worker.settings import KeysSection, WorkerSettings

log = logging.getLogger(__name__)

#: Bytes after which a new file is begun.
FILE_BYTES = 16 * 1024**2
#: Seconds in which entries gather, between looks for those of other processes, and between tries while it cannot be written.
GATHER, LOOK, RETRY = 0.2, 10.0, 2.0
#: Entries that are written at once, at most.
BATCH = 1000
#: Flag of the journal: the head as it last knew it. Another: the keys as they were at the last start.
HEAD, LAST_KEYS = "audit", "keys"


class AuditUnavailable(SystemFault):
    """The audit log cannot be written: intake stops."""

    code = "audit-unavailable"


class Audit:
    """Writes the log. `wake` it when there is something to take; it finds out by itself, too, but later."""

    def __init__(self, folder: Path, journal: Journal, signer: Signer) -> None:
        self._folder, self._journal, self._signer = folder, journal, signer
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        #: The last line's file, month and head; None until it was looked for, and after a failure.
        self._last: tuple[Path | None, str, Head] | None = None
        #: What hinders it, in plain words; "" while all is well.
        self.problem = ""

    @property
    def head(self) -> Head | None:
        """Where the log ends; None before it is known."""
        return self._last[2] if self._last else None

    def start(self, keys: KeysSection) -> None:
        """Note the start, and the keys if they are others than before; then write."""
        known: dict[str, Any] = {"signs": {self._signer.key_id: self._signer.public_key()} if self._signer.key else {}}
        known |= {"trusts": keys.trusted, "revoked": keys.revoked}
        told = json.dumps(known, sort_keys=True)
        if self._journal.flag(LAST_KEYS) != told:
            self._journal.audit(KEYS, **known)
            self._journal.set_flag(LAST_KEYS, told)
        self._journal.audit("up", version=__version__, unsigned=self._signer.key is None)
        self._thread.start()

    def wake(self) -> None:
        self._wake.set()

    def stop(self, timeout: float) -> None:
        """Write what waits, and end."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout)

    def _run(self) -> None:
        ends = False
        while not ends:
            self._wake.wait(LOOK)
            self._stop.wait(GATHER)
            self._wake.clear()
            ends = self._stop.is_set()
            try:
                self.take()
                self.problem = ""
            except (AuditUnavailable, JournalUnavailable) as error:
                self.problem = str(error)
                log.error("entries of the audit log wait: %s", error, extra={"action": "audit-waits"})
                self._stop.wait(RETRY)
                self._wake.set()

    def take(self) -> None:
        """Write all that waits in the journal."""
        try:
            if self._last is None:
                self._last = self._found()
                if self._last[2].number > last_number(self._journal):
                    _go_on(self._journal, self._last[2].number)
            more = True
            while more and (rows := waiting(self._journal, BATCH)):
                self._append([row for row in rows if row[0] > self._last[2].number])
                _taken(self._journal, rows[-1][0], self._last[2])
                more = len(rows) == BATCH
        except OSError as error:
            self._last = None
            raise AuditUnavailable(
                f"audit log {self._folder}: {error.strerror}", remedy="look at its disk's free space and its owner"
            ) from error

    def _append(self, rows: Sequence[tuple[int, str, str, str]]) -> None:
        assert self._last is not None
        for of, group in groupby(rows, key=_month):
            some = list(group)
            path, month, head = self._last
            if path is None or month != of or path.stat().st_size > FILE_BYTES:
                path = self._folder / f"{some[0][0]:012}.jsonl"
            lines: list[str] = []
            for number, at, kind, what in some:
                signer = self._signer if number == some[-1][0] else None
                line, head = write(head, number, at, kind, json.loads(what), signer)
                lines.append(line + "\n")
            _write(path, "".join(lines).encode())
            self._last = path, of, head

    def _found(self) -> tuple[Path | None, str, Head]:
        """Where the log ends. What was cut off in the middle of a line is taken away: its entry still waits."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for path in reversed(files(self._folder)):
            torn = _mend(path)
            if torn:
                log.warning("%s ended with %d bytes of a line, which are taken away", path, torn, extra={"action": "audit-mended"})
                with self._journal.transaction() as db:
                    note(db, "mended", file=path.name, bytes=torn)
            if last := _last_line(path):
                try:
                    line = read(last)
                    return path, line.at.isoformat()[:7], head_of(line.number, last)
                except MessageError as error:
                    # Written on, so that whoever checks it finds the place; nothing of it is mended here.
                    log.error("the last line of %s: %s", path, error, extra={"action": "audit-damaged"})
                    number = last_number(self._journal) - len(waiting(self._journal, -1))
                    return path, "", head_of(number, last)
        return None, "", BEGIN


# What waits in the journal


def waiting(journal: Journal, limit: int) -> list[tuple[int, str, str, str]]:
    """Entries whose lines are not known to stand, oldest first: (number, at, kind, JSON of the rest). All are on the disk."""
    rows = journal.read("SELECT number, at, kind, what FROM audit ORDER BY number LIMIT ?", limit)
    journal.sync()
    return [(row["number"], row["at"], row["kind"], row["what"]) for row in rows]


def last_number(journal: Journal) -> int:
    """The highest number that was given."""
    rows = journal.read("SELECT seq FROM sqlite_sequence WHERE name='audit'")
    return int(rows[0]["seq"]) if rows else 0


def _month(row: tuple[int, str, str, str]) -> str:
    return row[1][:7]


def _taken(journal: Journal, number: int, head: Head) -> None:
    # A power cut may undo it: then the lines stand already, and are not written again.
    with journal.transaction(durable=False) as db:
        db.execute("DELETE FROM audit WHERE number <= ?", (number,))
        db.execute("INSERT OR REPLACE INTO flags VALUES (?, ?)", (HEAD, str(head)))


def _go_on(journal: Journal, number: int) -> None:
    """This journal is younger than the log: what it has to tell comes after the log's `number` entries, and so it says."""
    with journal.transaction() as db:
        rows = [tuple(row) for row in db.execute("SELECT at, kind, what FROM audit ORDER BY number")]
        db.execute("DELETE FROM audit")
        db.execute("DELETE FROM sqlite_sequence WHERE name='audit'")
        db.execute("INSERT INTO sqlite_sequence VALUES ('audit', ?)", (number,))
        note(db, "journal-new", entries=number)
        db.executemany("INSERT INTO audit (at, kind, what) VALUES (?, ?, ?)", rows)


# Files


def files(folder: Path) -> list[Path]:
    """The log's files, in order."""
    return sorted(folder.glob("[0-9]*.jsonl"))


def own_files(settings: WorkerSettings) -> list[Path]:
    """Those of this node. SettingsError where no worker ever ran."""
    folder = settings.state_dir / "audit"
    if not folder.is_dir():
        raise SettingsError(f"there is no audit log in {folder}", remedy="start the worker first: `fdn-worker start`")
    return files(folder)


def own_signer(settings: WorkerSettings) -> Signer | None:
    """Who signs this node's log; None in an embedded federation, which has no keys."""
    return Signer.of_node(settings.node, settings.keys.private) if settings.keys.private else None


def known_head(journal: Journal) -> list[tuple[str, Head]]:
    """The head that this node's log must have had, as `check` takes it. Read before the lines: the worker may be writing."""
    known = journal.flag(HEAD)
    return [("the journal", Head.parse(known))] if known else []


def _write(path: Path, data: bytes) -> None:
    new = not path.exists()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while data:
            data = data[os.write(handle, data) :]
        os.fdatasync(handle)
    finally:
        os.close(handle)
    if new:
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _mend(path: Path) -> int:
    """Take away what follows the last whole line; how many bytes that was."""
    size = path.stat().st_size
    whole = _before(path, size)
    if whole < size:
        os.truncate(path, whole)
    return size - whole


def _last_line(path: Path) -> str:
    size = path.stat().st_size
    if not size:
        return ""
    begin = _before(path, size - 1)
    with path.open("rb") as file:
        file.seek(begin)
        return file.read(size - 1 - begin).decode(errors="replace")


def _before(path: Path, end: int) -> int:
    """Where the line that holds the byte before `end` begins: just after the last line's end before `end`."""
    step = 64 * 1024
    with path.open("rb") as file:
        while end > 0:
            begin = max(0, end - step)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                return begin + found + 1
            end = begin
    return 0
