"""Presence: what the heartbeats say of the nodes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fdn_worker.protocol import Heartbeat, now
from fdn_worker.protocol.chain import Head
from storage.records import Records

#: Missed heartbeats after which a node is suspect, and after which it is gone.
SUSPECT, GONE = 3, 30
#: By how much a node's clock may be ahead without a word.
CLOCK = timedelta(minutes=5)


class NodePresence(BaseModel):
    """A node as it was last heard."""

    model_config = ConfigDict(frozen=True)

    name: str
    display_name: str = ""
    presence: Literal["connected", "suspect", "gone"] = "gone"
    last_seen: datetime | None = None
    version: str = ""
    slots: int = 0
    slots_free: int = 0
    launchers: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    accepting: bool = False
    problems: tuple[str, ...] = ()
    cpus: float = 0.0
    memory: int = 0
    gpus: int = 0
    disk_free: int = 0
    images: tuple[str, ...] = ()
    #: Where others reach servers there; "" where nobody can.
    address: str = ""
    #: Keys of the centre whose orders it obeys, by name, and where its audit log ends.
    trusts: tuple[str, ...] = ()
    audit: Head | None = None
    #: Attempts that are there now.
    present: int = 0


def presence(records: Records) -> list[NodePresence]:
    """Every node that is enrolled, by name."""
    found = []
    for row in sorted(records.nodes(), key=lambda row: row.name):
        if row.retired is not None:
            continue
        if row.heartbeat is None or row.last_seen is None:
            found.append(NodePresence(name=row.name, display_name=row.display_name))
            continue
        beat = Heartbeat.model_validate_json(row.heartbeat)
        found.append(
            NodePresence(
                name=row.name, display_name=row.display_name, presence=judged(row.last_seen, beat.interval, now()), last_seen=row.last_seen,
                version=beat.worker_version, slots=beat.slots, slots_free=beat.slots_free, launchers=beat.launchers, datasets=beat.datasets,
                accepting=beat.accepting, problems=(*beat.problems, *_clock(beat, row.last_seen)), cpus=beat.cpus, memory=beat.memory, gpus=beat.gpus,
                disk_free=beat.disk_free, images=beat.images, address=beat.address, trusts=beat.trusts, audit=beat.audit, present=len(beat.present),
            )
        )  # fmt: skip
    return found


def _clock(beat: Heartbeat, heard: datetime) -> Iterator[str]:
    """A clock that is ahead. One that is behind shows at the node, to which the centre's orders come from the future."""
    if beat.at - heard > CLOCK:
        yield f"its clock is {(beat.at - heard).total_seconds() / 60:,.0f} min ahead of the centre's"


def judged(last_seen: datetime, interval: float, moment: datetime) -> Literal["connected", "suspect", "gone"]:
    """By how many heartbeats are missing."""
    missed = (moment - last_seen).total_seconds() / interval
    return "connected" if missed <= SUSPECT else "suspect" if missed <= GONE else "gone"
