"""Entries of the audit log as they wait in the journal: written in the transaction of what they tell of, taken by `audit.py`."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from typing import Any

from fdn_worker.protocol import State, TaskEvent, TaskOrder, now

#: A number is given once, also after its row is gone.
SCHEMA = """
CREATE TABLE IF NOT EXISTS audit (number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, kind TEXT NOT NULL, what TEXT NOT NULL);
"""
#: State -> kind of its entry; every end but a refusal is `ended`.
_STATES = {State.ACCEPTED: "accepted", State.REJECTED: "refused", State.RUNNING: "started", State.AWAITING_RELEASE: "held"}


def note(db: sqlite3.Connection, kind: str, **what: Any) -> None:
    """Write an entry; what is empty is left out."""
    said = {name: value for name, value in what.items() if value not in (None, "", (), [], {}, False)}
    db.execute("INSERT INTO audit (at, kind, what) VALUES (?, ?, ?)", (now().isoformat(), kind, json.dumps(said, default=str)))


def note_order(db: sqlite3.Connection, order: TaskOrder, payload: bytes, key_id: str) -> None:
    """An order was received; it stands whole in the journal, by its hash in the log."""
    source = order.source
    note(
        db, "received", run=str(order.run), attempt=order.attempt, execution=str(order.execution), task=order.task,
        labels=order.labels.model_dump(exclude_defaults=True), image=order.image, image_digest=order.image_digest, argv=order.argv,
        source=source and {"repository": source.repository, "commit": source.commit}, datasets=order.datasets,
        mounts=[f"{mount.kind}:{mount.source}" for mount in order.mounts], launcher=order.launcher, network=order.network,
        issued=order.issued.isoformat(), deadline=order.deadline.isoformat(), sha256=hashlib.sha256(payload).hexdigest(), key_id=key_id,
    )  # fmt: skip


def note_state(db: sqlite3.Connection, event: TaskEvent, columns: Mapping[str, Any]) -> None:
    """An attempt came to a state; `columns` are what the journal writes with it."""
    assert event.state is not None
    kind = _STATES.get(event.state, "ended" if event.state.terminal else None)
    if kind is None:
        return
    what: dict[str, Any] = {"run": str(event.run), "attempt": event.attempt} | {
        name: columns.get(name) for name in ("rule", "policy", "image")
    }
    if event.state.terminal:
        what["state"] = event.state
    if event.reason is not None:
        what |= {"code": event.reason.code, "why": event.reason.message}
    if event.report is not None:
        what |= {"exit_code": event.report.exit_code, "bytes_out": event.report.bytes_out, "manifest": event.report.manifest_sha256}
    note(db, kind, **what)
