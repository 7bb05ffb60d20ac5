"""The nearest right names, for messages about an unknown one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

#: Names that a message lists at most.
MOST = 5


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Those that look like `name`, or else the first few."""
    names = sorted(known)
    return sorted(difflib.get_close_matches(name, names, n=3)) or names[:MOST]


def unknown(name: str, known: Iterable[str], intro: str = "there are") -> str:
    """The remedy's sentence; "" when nothing is known at all."""
    near = nearest(name, known)
    return f"{intro}: {', '.join(near)}" if near else ""
