"""How the rows of nodes' keys change, inside one transaction."""

from __future__ import annotations

from sqlalchemy import Connection, select, update

from fdn_worker.errors import Fault, FdnError
from fdn_worker.protocol import now
from fdn_worker.protocol.envelope import key_id_of
from storage.schema import node_keys, nodes


class KeyRefused(FdnError):
    """A node's key cannot be added, or taken away."""

    code = "node-key"
    fault = Fault.USER


def admit(db: Connection, node: str, public_key: str) -> bool:
    """Write a key of the node; False if it stands. One that was revoked is refused."""
    of = (node_keys.c.node == node, node_keys.c.public_key == public_key)
    row = db.execute(select(node_keys.c.key_id, node_keys.c.revoked).where(*of)).first()
    if row is not None and row.revoked is not None:
        raise KeyRefused(f"key {row.key_id} of node {node!r} was revoked", remedy="have the site make another one: `fdn-worker keys --new`")
    if row is None:
        db.execute(node_keys.insert().values(node=node, key_id=key_id_of(node, public_key), public_key=public_key, added=now()))
    return row is None


def withdraw(db: Connection, node: str, why: str, *, only: str | None = None, but: str | None = None) -> None:
    """Revoke the keys of a node that are good: one by its id, or all but one public key."""
    of = [node_keys.c.node == node, node_keys.c.revoked.is_(None)]
    of += [node_keys.c.key_id == only] if only is not None else []
    of += [node_keys.c.public_key != but] if but is not None else []
    db.execute(update(node_keys).where(*of).values(revoked=now(), why=why))


def fill(db: Connection) -> None:
    """For records that knew one key a node."""
    for row in db.execute(select(nodes.c.name, nodes.c.public_key).where(nodes.c.public_key != "")).all():
        admit(db, row.name, row.public_key)
