"""Passwords: argon2id, and the same work for a user that is not there."""

from __future__ import annotations

import secrets

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

from fdn_worker.errors import Fault, FdnError

#: Characters of a password; above, hashing would be somebody's to slow us down by.
SHORTEST, LONGEST = 10, 200

_hasher = PasswordHasher()
#: Of no password: what is checked for a user that is unknown. Made once, on first use.
_nobodys: list[str] = []


class BadPassword(FdnError):
    """A new password is none."""

    code = "password"
    fault = Fault.USER


def hashed(password: str) -> str:
    """The argon2 hash to keep. A password that is too short, or too long, is refused."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise BadPassword(f"the password has {len(password)} characters", remedy=f"use {SHORTEST} to {LONGEST}")
    return _hasher.hash(password)


def matches(kept: str | None, password: str) -> bool:
    """Whether it is the password; takes as long where there is none to compare with."""
    if not _nobodys:
        _nobodys.append(_hasher.hash(secrets.token_urlsafe()))
    try:
        _hasher.verify(kept or _nobodys[0], password[:LONGEST])
    except (VerifyMismatchError, InvalidHashError):
        return False
    return kept is not None and len(password) <= LONGEST


def made_up() -> str:
    """A password for a start."""
    return secrets.token_urlsafe(15)
