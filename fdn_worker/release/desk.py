"""Where a person at the site decides: what waits, what is in it, and the word, which the worker finds in the journal."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from fdn_worker.errors import FdnError
from fdn_worker.globs import Glob
from fdn_worker.holds import Holds
from fdn_worker.journal import Journal
from fdn_worker.protocol import TaskOrder, now
from fdn_worker.release.airlock import Word
from fdn_worker.release.kinds import decoded, open_plain
from fdn_worker.release.register import Held, Releases
from fdn_worker.sandbox import RunFolder
from fdn_worker.settings import WorkerSettings

#: Of a file that is shown: bytes that are read, lines, characters of a line, and bytes of what is no text.
_SHOWN_BYTES, _SHOWN_LINES, _SHOWN_WIDTH, _SHOWN_BINARY = 4096, 8, 120, 32
#: Characters of a reason.
_LONGEST_WHY = 1000


class NotWaiting(FdnError):
    """No attempt waits under that name, or no file of it."""

    code = "not-waiting"


@dataclass(frozen=True)
class Waiting:
    """An attempt whose files wait."""

    order: TaskOrder
    held: Held
    folder: RunFolder

    @property
    def undecided(self) -> list[str]:
        """The paths about which a person is to speak."""
        return [verdict.path for verdict in self.held.verdicts if verdict.action == "hold"]


def waiting(journal: Journal, settings: WorkerSettings) -> list[Waiting]:
    """All that wait for a person's word, oldest first."""
    holds, found = Holds(settings, journal), []
    for held in Releases(journal).held():
        entry = journal.entry(held.name)
        order = entry.order if entry is not None else None
        if order is not None and held.word is None and held.stop != "cancelled":
            found.append(Waiting(order, held, holds.folder(order)))
    return found


def find(among: Iterable[Waiting], run: str) -> Waiting:
    """The one whose run begins with `run`."""
    hits = [one for one in among if str(one.order.run).startswith(run.lower())]
    if len(hits) == 1:
        return hits[0]
    if hits:
        raise NotWaiting(f"{len(hits)} runs begin with {run!r}", remedy="give more of its id")
    raise NotWaiting(f"no run that begins with {run!r} waits for its release", remedy="`fdn-worker release` lists those that do")


def matching(one: Waiting, patterns: Iterable[str]) -> list[str]:
    """The undecided paths that match; each pattern must match one at least."""
    chosen = set[str]()
    for pattern in patterns:
        hits = [path for path in one.undecided if Glob(pattern).matches(path)]
        if not hits:
            raise NotWaiting(f"no file that waits matches {pattern!r}", remedy="name it as it is shown, such as 'outputs/table.csv'")
        chosen |= set(hits)
    return sorted(chosen)


def decide(journal: Journal, one: Waiting, files: Sequence[str], person: str, why: str) -> None:
    """Write the word down. No files: nothing leaves. NotWaiting when somebody else was quicker, or the wait is over."""
    word = Word(person=person, at=now(), files=tuple(files), why=why[:_LONGEST_WHY])
    if not Releases(journal).decide(one.order.name, word):
        raise NotWaiting(f"run {one.order.run} does not wait any longer", remedy="`fdn-worker runs` says how it ended")


def login() -> str:
    """The name of who runs this process, whatever the environment says."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def safe(text: str) -> str:
    """The text with all that a terminal would obey, or not show, written out."""
    return "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in text)


def preview(file: Path) -> list[str]:
    """The beginning of a file, as lines that are safe to show."""
    try:
        with open(open_plain(file), "rb") as source:
            start = source.read(_SHOWN_BYTES)
            whole = not source.read(1)
    except OSError as error:
        return [f"(cannot be read: {error.strerror})"]
    text = decoded(start, whole=whole)
    if text is None:
        return [start[:_SHOWN_BINARY].hex(" ") + (" ..." if len(start) > _SHOWN_BINARY else "")]
    lines = [safe(line[:_SHOWN_WIDTH]) + (" ..." if len(line) > _SHOWN_WIDTH else "") for line in text.split("\n")[:_SHOWN_LINES]]
    return lines + (["..."] if not whole or text.count("\n") > _SHOWN_LINES else [])
