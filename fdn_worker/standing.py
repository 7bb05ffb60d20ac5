"""How a node stands, from its journal: what `fdn-worker status` and `runs`, its page and its metrics tell alike."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import Any

from fdn_worker.errors import SettingsError
from fdn_worker.journal import Journal
from fdn_worker.policy import disk_free
from fdn_worker.protocol import Signer
from fdn_worker.settings import WorkerSettings


def open_journal(settings: WorkerSettings) -> Journal:
    """The node's journal, for a process beside the worker. SettingsError where no worker ever ran."""
    path = settings.state_dir / "journal.db"
    if not path.exists():
        raise SettingsError(f"there is no journal in {settings.state_dir}", remedy="start the worker first: `fdn-worker start`")
    return Journal(path, Signer())


def standing(settings: WorkerSettings, journal: Journal) -> dict[str, Any]:
    """Whether the worker lives, and what it has in hand."""
    entries = journal.unfinished()
    return {
        "node": settings.node,
        "alive": alive(settings),
        "draining": journal.flag("drain") is not None,
        "paused": journal.flag("paused") is not None,
        "unfinished": len(entries),
        "awaiting_release": sum(entry.phase == "held" for entry in entries),
        "started": sum(entry.phase == "started" for entry in entries),
        "slots": settings.slots,
        "events_to_send": journal.unsent(),
        "disk_free": disk_free(settings.state_dir),
    }


def attempts(journal: Journal, limit: int) -> list[dict[str, Any]]:
    """The latest attempts, newest first."""
    rules = journal.deciding_rules()
    return [
        {
            "run": str(entry.run), "attempt": entry.attempt, "state": str(entry.state), "phase": str(entry.phase), "received": entry.received[:19],
            "user": entry.order.labels.user if entry.order else "", "rule": rules.get(entry.name), "argv": list(entry.order.argv) if entry.order else [],
        }
        for entry in journal.recent(limit)
    ]  # fmt: skip


def alive(settings: WorkerSettings) -> bool:
    """Whether a worker holds the state folder."""
    lock: Path = settings.state_dir / "worker.lock"
    if not lock.exists():
        return False
    with lock.open("r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        return False
