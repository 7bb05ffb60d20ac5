"""The keys by which nodes sign: each node has one or, while it changes them, two; a revoked one stays on record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from fdn_worker.protocol import Keyring
from fdn_worker.protocol.envelope import key_id_of
from storage.audit import AuditRecords
from storage.database import Database
from storage.key_rows import KeyRefused, admit, withdraw
from storage.schema import node_keys, nodes


@dataclass(frozen=True)
class KeyRow:
    """A node's key. `revoked` is since when it is refused, and `why`."""

    node: str
    key_id: str
    public_key: str
    added: datetime
    revoked: datetime | None
    why: str | None


class NodeKeys:
    """Safe from several threads and processes."""

    def __init__(self, database: Database, audit: AuditRecords) -> None:
        self._db, self._audit = database, audit

    def add(self, node: str, public_key: str) -> KeyRow:
        """Take a further key of an enrolled node; the ones that it has stay good. One that was revoked is refused."""
        with self._db.write() as db:
            row = db.execute(select(nodes.c.retired).where(nodes.c.name == node)).first()
            if row is None or row.retired is not None:
                raise KeyRefused(f"node {node!r} is not enrolled", remedy=f"enrol it with this key: `fem nodes enrol {node} --key KEY`")
            if admit(db, node, public_key):
                self._audit.append(db, "key-added", node=node, key_id=key_id_of(node, public_key), public_key=public_key)
        return next(row for row in self.of(node) if row.public_key == public_key)

    def revoke(self, node: str, key_id: str, why: str) -> KeyRow:
        """Refuse what is signed by this key from now on; a repeat changes nothing."""
        found = [row for row in self.of(node) if key_id in (row.key_id, row.public_key)]
        if not found:
            raise KeyRefused(f"node {node!r} has no key {key_id!r}", remedy=f"see `fem nodes keys {node}`")
        if found[0].revoked is None:
            with self._db.write() as db:
                withdraw(db, node, why, only=found[0].key_id)
                self._audit.append(db, "key-revoked", node=node, key_id=found[0].key_id, why=why)
        return next(row for row in self.of(node) if row.key_id == found[0].key_id)

    def of(self, node: str) -> list[KeyRow]:
        """All keys that it ever had, oldest first."""
        with self._db.read() as db:
            rows = db.execute(select(node_keys).where(node_keys.c.node == node).order_by(node_keys.c.added, node_keys.c.key_id)).all()
        return [KeyRow(**row._mapping) for row in rows]

    def ring(self, *, unsigned_ok: bool = False, of: str | None = None) -> Keyring:
        """The keys of all nodes that are enrolled, or with `of` every key that one ever had, for what was checked when it came."""
        joined = select(node_keys, nodes.c.public_key.label("first")).join(nodes, nodes.c.name == node_keys.c.node)
        with self._db.read() as db:
            rows = db.execute(joined.where(nodes.c.retired.is_(None) if of is None else nodes.c.name == of)).all()
        keys: dict[str, str] = {}
        revoked: dict[str, str] = {}
        for row in rows:
            # Under the node's id alone as well, if it is the key of its enrolment.
            names = [row.key_id, row.node] if row.public_key == row.first else [row.key_id]
            keys |= dict.fromkeys(names, row.public_key)
            if row.revoked is not None and of is None:
                revoked |= dict.fromkeys(names, f"{row.why}, {row.revoked:%Y-%m-%d}")
        return Keyring(keys, unsigned_ok=unsigned_ok, revoked=revoked)
