"""What waits for a person's word, as the journal has it: the worker and `fdn-worker release` meet here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter

from fdn_worker.entries import note
from fdn_worker.journal import Journal, Phase
from fdn_worker.protocol import ManifestFile, Release, State, TaskOrder, now
from fdn_worker.release.airlock import Verdict, Word

_VERDICTS = TypeAdapter(list[Verdict])
#: All that waits, or is on its way after it; by the index of what is unfinished.
_HELD = "SELECT releases.*, stop FROM runs JOIN releases USING (name) WHERE phase != 'done' AND phase = 'held'"


@dataclass(frozen=True)
class Held:
    """An attempt whose files wait. Moments in ISO 8601."""

    name: str
    since: str
    until: str | None
    verdicts: Sequence[Verdict]
    #: What a person said, once somebody has.
    word: Word | None
    #: As that of a journal's entry.
    stop: str | None


class Releases:
    """Safe from any thread and process."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def hold(self, order: TaskOrder, verdicts: Sequence[Verdict]) -> None:
        """Let the attempt wait for a person's word about these, until the order's time for it is over."""
        until = order.release_by.isoformat() if order.release_by else None
        # It counts with the phase alone, which follows; a kill in between has the files judged anew.
        with self._journal.transaction(durable=False) as db:
            values = (order.name, now().isoformat(), until, _VERDICTS.dump_json(list(verdicts)).decode())
            db.execute("INSERT OR REPLACE INTO releases (name, since, until, verdicts) VALUES (?, ?, ?, ?)", values)
        self._journal.record(order.name, phase=Phase.HELD, state=State.AWAITING_RELEASE)

    def held(self, name: str | None = None) -> list[Held]:
        """That attempt, or all of them, oldest first."""
        rows = self._journal.read(f"{_HELD} AND (? IS NULL OR name=?) ORDER BY since, name", name, name)
        return [
            Held(
                name=row["name"], since=row["since"], until=row["until"], verdicts=_VERDICTS.validate_json(row["verdicts"]),
                word=Word.model_validate_json(row["word"]) if row["word"] else None, stop=row["stop"],
            )
            for row in rows
        ]  # fmt: skip

    def decide(self, name: str, word: Word) -> bool:
        """Write a person's word down. False when the attempt does not wait for one any more."""
        waiting = f"SELECT name FROM ({_HELD}) WHERE word IS NULL AND stop IS NOT 'cancelled' AND (until IS NULL OR until > ?)"
        with self._journal.transaction() as db:
            values = (word.model_dump_json(), name, now().isoformat())
            return db.execute(f"UPDATE releases SET word=? WHERE name=? AND name IN ({waiting})", values).rowcount > 0

    def due(self) -> list[str]:
        """Attempts whose wait is over: by a word, by a cancel, or by its end."""
        over = f"SELECT name FROM ({_HELD}) WHERE word IS NOT NULL OR stop='cancelled' OR until <= ?"
        return [row["name"] for row in self._journal.read(over, now().isoformat())]

    def audit(self, order: TaskOrder, release: Release, files: Sequence[ManifestFile]) -> None:
        """Have the audit log tell what leaves, before it does. What a power cut undoes is judged, and told, anew."""
        with self._journal.transaction(durable=False) as db:
            note(
                db, "release", run=str(order.run), attempt=order.attempt, verdict=release.verdict, rules=release.rules, person=release.person,
                why=release.why, withheld=release.withheld, files={file.path: file.sha256 for file in files},
            )  # fmt: skip
