"""Checks look into a file before it leaves. `csv` and `text` are built in; others come from packages, by entry point."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol

from fdn_worker.errors import SettingsError
from fdn_worker.release.tables import CsvCheck
from fdn_worker.release.texts import TextCheck

#: Group of the entry points; each names a class that takes the options as a mapping, and is a Check.
GROUP = "fdn_worker.release_checks"
#: No package replaces these.
BUILT_IN: Mapping[str, type[Check]] = {"csv": CsvCheck, "text": TextCheck}


class Check(Protocol):
    def __init__(self, options: Mapping[str, Any]) -> None:
        """Raises SettingsError for an option that it does not know."""

    def findings(self, file: Path) -> Iterable[str]:
        """What speaks against letting the file go; nothing when it may leave. Shown at the site alone.

        `file` is a regular file that nothing writes to any more. What this raises ends the attempt, and nothing leaves.
        """


def load(name: str, options: Mapping[str, Any]) -> Check:
    """The check of that name; SettingsError when there is none, or an option is wrong."""
    if name in BUILT_IN:
        return BUILT_IN[name](options)
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise SettingsError(f"check {name!r} is not installed", remedy=f"installed are: {', '.join(sorted({*BUILT_IN, *found}))}")
    kind: type[Check] = found[name].load()
    return kind(options)
