"""The centre's audit log: chained lines (`fdn_worker/protocol/chain.py`) in a table, each written with what it tells of.

Several processes write, so the row of the head is locked from the reading of the last line to the commit. An entry is the
last statement of its transaction: whoever waits for that lock holds no other that its owner may want.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, select, update

from fdn_worker.errors import MessageError
from fdn_worker.protocol import Signer, now
from fdn_worker.protocol.chain import Head, Line, login, read, write
from storage.database import Database
from storage.schema import audit, audit_head

log = logging.getLogger(__name__)

#: Lines that are read at a time.
PAGE = 1000


class AuditRecords:
    """Safe from several threads and processes. Lines are signed where the signer has a key."""

    def __init__(self, database: Database, signer: Signer) -> None:
        self._db, self._signer = database, signer

    def append(self, db: Connection, kind: str, **what: Any) -> None:
        """Write an entry at the end of a transaction; what is empty is left out."""
        said = {name: value for name, value in what.items() if value not in (None, "", (), [], {})}
        last = db.execute(select(audit_head.c.number, audit_head.c.hash).with_for_update()).one()
        line, head = write(
            Head(number=last.number, hash=last.hash), last.number + 1, now().isoformat(), kind, said | {"by": login()}, self._signer
        )
        db.execute(audit.insert().values(number=head.number, kind=kind, line=line))
        db.execute(update(audit_head).values(number=head.number, hash=head.hash))

    def write(self, kind: str, **what: Any) -> None:
        """Write an entry that goes with no other write."""
        with self._db.write() as db:
            self.append(db, kind, **what)

    def head(self) -> Head:
        """Where the log ends."""
        with self._db.read() as db:
            row = db.execute(select(audit_head.c.number, audit_head.c.hash)).one()
        return Head(number=row.number, hash=row.hash)

    def lines(self, after: int = 0) -> Iterator[tuple[str, str]]:
        """(place, line) of the entries with a number above `after`, in order."""
        while True:
            with self._db.read() as db:
                page = db.execute(
                    select(audit.c.number, audit.c.line).where(audit.c.number > after).order_by(audit.c.number).limit(PAGE)
                ).all()  # fmt: skip
            yield from ((f"row {row.number}", row.line) for row in page)
            if len(page) < PAGE:
                return
            after = page[-1].number

    def of_kind(self, kind: str, limit: int | None = None) -> Iterator[Line]:
        """Entries of one kind, the newest first; what is not as it was written is left to `fem audit verify`, and left out."""
        newest = select(audit.c.number, audit.c.line).where(audit.c.kind == kind).order_by(audit.c.number.desc()).limit(limit)
        with self._db.read() as db:
            found = db.execute(newest).all()
        for row in found:
            try:
                yield read(row.line)
            except MessageError as error:
                log.error("row %d of the audit log: %s", row.number, error.message, extra={"action": "audit-damaged"})
