"""Ids as people give them: the beginning is enough, where it is unique."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar
from uuid import UUID

from storage.rows import RecordsRefused

#: Ids that an ambiguous prefix is told to fit.
CANDIDATES = 5


class _Row(Protocol):
    @property
    def id(self) -> str: ...


_R = TypeVar("_R", bound=_Row)


def bounds(prefix: str, what: str) -> tuple[str, str]:
    """The lowest and the highest id that begin so."""
    digits = prefix.strip().lower().replace("-", "")
    if not 0 < len(digits) <= 32 or set(digits) - set("0123456789abcdef"):
        raise RecordsRefused(f"{prefix!r} is no {what}'s id or the beginning of one", code=f"unknown-{what}")
    return str(UUID(digits.ljust(32, "0"))), str(UUID(digits.ljust(32, "f")))


def only(found: Sequence[_R], prefix: str, what: str, see: str) -> _R:
    """The one row of those that were found, at most CANDIDATES + 1; none or several are refused."""
    if not found:
        raise RecordsRefused(f"no {what}'s id begins with {prefix!r}", code=f"unknown-{what}", remedy=f"see `{see}`")
    if len(found) > 1:
        some = ", ".join(row.id for row in found[:CANDIDATES]) + ", ..." * (len(found) > CANDIDATES)
        raise RecordsRefused(f"{prefix!r} begins the ids of {some}", code=f"ambiguous-{what}", remedy="give more of it")
    return found[0]
