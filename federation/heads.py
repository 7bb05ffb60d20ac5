"""The heads of the sites' audit logs, as their heartbeats tell them: what a site rewrites later is found by them.

A head that goes back, or that has another hash than before, is told at once. Each hour those that changed go into the
centre's own audit log, so that a log that a site hands over can be held against what it once was.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta

from fdn_worker.protocol import Heartbeat, now
from fdn_worker.protocol.chain import Head
from storage.records import Records

log = logging.getLogger(__name__)

#: Between entries with the heads.
EVERY = timedelta(hours=1)
#: Kinds of the centre's entries: heads as they were heard, and one that does not follow from what was heard before.
HEADS, BACK = "heads", "head-went-back"


class Heads:
    """Used by the relay's one thread."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._last: dict[str, Heartbeat] | None = None
        self._changed: set[str] = set()
        self._kept: datetime | None = None

    def heard(self, beats: Iterable[Heartbeat]) -> None:
        """Take in heartbeats, in the order in which they came."""
        if self._last is None:
            rows = [row for row in self._records.nodes() if row.retired is None and row.heartbeat]
            self._last = {row.name: Heartbeat.model_validate_json(row.heartbeat or "") for row in rows}
            self._kept = next((line.at for line in self._records.audit.of_kind(HEADS, 1)), None)
        for beat in beats:
            self._one(beat, self._last)
        if self._changed and (self._kept is None or now() - self._kept >= EVERY):
            heads = {node: str(self._last[node].audit) for node in sorted(self._changed)}
            self._records.audit.write(HEADS, heads=heads)
            self._kept, self._changed = now(), set()

    def _one(self, beat: Heartbeat, known: dict[str, Heartbeat]) -> None:
        last = known.get(beat.node)
        if beat.audit is None or (last is not None and last.session == beat.session and last.number >= beat.number):
            return  # one that came late, or twice
        before = last.audit if last is not None else None
        if before is not None and (beat.audit.number < before.number or (beat.audit.number == before.number and beat.audit != before)):
            log.error("the audit log of %s went from %s to %s", beat.node, before, beat.audit, extra={"action": "audit-went-back"})
            self._records.audit.write(BACK, node=beat.node, was=str(before), now=str(beat.audit))
        if beat.audit != before:
            self._changed.add(beat.node)
        known[beat.node] = beat


def known_heads(records: Records, node: str) -> Iterator[tuple[str, Head]]:
    """The heads of a node's log that the centre heard, each with when."""
    for line in records.audit.of_kind(HEADS):
        if node in line.what.get("heads", {}):
            yield f"the centre, at {line.at:%Y-%m-%d %H:%M},", Head.parse(line.what["heads"][node])
    row = records.node(node)
    if row is not None and row.heartbeat and (beat := Heartbeat.model_validate_json(row.heartbeat)).audit is not None:
        yield "the centre, by the last heartbeat,", beat.audit
