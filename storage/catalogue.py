"""The catalogue in the records: the tools of the federation, and what it says of the nodes. Documents are JSON texts, kept as given."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import or_, select, update

from fdn_worker.protocol import now
from storage.audit import AuditRecords
from storage.database import Database
from storage.schema import nodes, tools


@dataclass(frozen=True)
class ToolRow:
    """A tool. `changed` is when its document came to be what it is; `withdrawn` since when nobody may run it, or None."""

    name: str
    document: str
    changed: datetime
    withdrawn: datetime | None


class CatalogueRecords:
    """Safe from several threads and processes. Every write may be repeated."""

    def __init__(self, database: Database, audit: AuditRecords) -> None:
        self._db, self._audit = database, audit

    def put_tool(self, name: str, document: str) -> bool:
        """Write a tool, or take one back that was withdrawn. Whether that changed anything."""
        values = {"document": document, "changed": now(), "withdrawn": None}
        with self._db.write() as db:
            insert = self._db.insert(tools).values(name=name, **values)
            changed = insert.on_conflict_do_update(
                index_elements=[tools.c.name], set_=values, where=or_(tools.c.document != document, tools.c.withdrawn.is_not(None))
            )
            if db.execute(changed.returning(tools.c.name)).first() is None:
                return False
            self._audit.append(db, "tool", tool=name, sha256=hashlib.sha256(document.encode()).hexdigest())
            return True

    def withdraw_tool(self, name: str) -> bool:
        """Nobody may run it from now on; its document stays, for what ran. Whether it was there to be withdrawn."""
        with self._db.write() as db:
            of = (tools.c.name == name, tools.c.withdrawn.is_(None))
            if not db.execute(update(tools).where(*of).values(withdrawn=now())).rowcount:
                return False
            self._audit.append(db, "tool-withdrawn", tool=name)
            return True

    def tool(self, name: str) -> ToolRow | None:
        """The tool, a withdrawn one too, or None."""
        with self._db.read() as db:
            row = db.execute(select(tools).where(tools.c.name == name)).first()
        return ToolRow(**row._mapping) if row else None

    def tools(self, *, withdrawn: bool = False) -> list[ToolRow]:
        """All tools by name, with those that were withdrawn or without."""
        wanted = select(tools).order_by(tools.c.name)
        with self._db.read() as db:
            rows = db.execute(wanted if withdrawn else wanted.where(tools.c.withdrawn.is_(None))).all()
        return [ToolRow(**row._mapping) for row in rows]

    def put_node(self, name: str, document: str | None) -> bool:
        """Write the catalogue's entry of an enrolled node; None takes it away. Whether that changed anything."""
        with self._db.write() as db:
            of = (nodes.c.name == name, nodes.c.document.is_distinct_from(document))
            if not db.execute(update(nodes).where(*of).values(document=document)).rowcount:
                return False
            self._audit.append(db, "node-entry", node=name, sha256=hashlib.sha256((document or "").encode()).hexdigest())
            return True
