"""Tokens of local users: random words whose hashes stand in the records, so that an end of one counts at every gateway at once.

A sign-in begins a family: its access tokens are short-lived, its refresh tokens good for one turn each. One that is turned
in twice has been copied, and ends the whole family.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal
from uuid import uuid4

from fdn_worker.errors import Fault, FdnError
from fdn_worker.protocol import now
from federation.gateway.access import Caller, Role
from federation.gateway.errors import NotSignedIn
from federation.gateway.passwords import matches
from storage.gateway import GatewayRecords, TokenRow, UserRow

Kind = Literal["access", "refresh", "session", "api"]
#: What every token of ours begins with; scanners for lost secrets find them by it.
MARK = "fem_"
#: Kinds by which one may ask for things.
ASKING = frozenset({"access", "session", "api"})


class BadToken(FdnError):
    """An API token cannot be made so."""

    code = "token"
    fault = Fault.USER


@dataclass(frozen=True)
class Granted:
    """What a sign-in gives. The tokens are seen once."""

    user: str
    access: str = field(repr=False)
    refresh: str = field(repr=False)
    #: Seconds that the access token lasts.
    expires_in: int


def digest(token: str) -> str:
    """What is kept of a token. They are random, so that a plain hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


class Tokens:
    """Handed out, turned in, taken back. Every call reads or writes the records."""

    def __init__(self, records: GatewayRecords, *, access: timedelta, refresh: timedelta, session: timedelta) -> None:
        self._records, self._access, self._refresh, self._session = records, access, refresh, session

    def sign_in(self, name: str, password: str, *, lasting: timedelta | None = None) -> Granted:
        """By password. NotSignedIn in the same words, after the same work, for whoever is unknown, shut out or mistaken."""
        return self._grant(self._by_password(name, password).name, str(uuid4()), lasting or self._access)

    def session(self, name: str, password: str) -> str:
        """The same for a browser: what its cookie holds."""
        user = self._by_password(name, password)
        token, row = _new("session", user.name, str(uuid4()), self._session)
        self._records.add_tokens(row)
        return token

    def refresh(self, token: str) -> Granted:
        """New tokens for a refresh token, which is worth nothing afterwards."""
        row, user = self._found(token, frozenset({"refresh"}))
        if not self._records.use_once(row.digest):
            self._records.revoke_family(row.family)
            raise NotSignedIn
        return self._grant(user.name, row.family, self._access)

    def caller(self, token: str) -> Caller:
        """Whose token it is, with the role and the projects that he has now."""
        row, user = self._found(token, ASKING)
        return Caller(user.name, Role(user.role), user.projects, row.digest)

    def api(self, user: str, label: str, days: int | None) -> str:
        """A token for a program, good until it is revoked or the days are over."""
        if self._records.user(user) is None:
            raise BadToken(f"there is no user {user!r}", code="unknown-user", remedy="see `fem users list`")
        if not label or len(label) > 100:
            raise BadToken("a token needs a label of 1 to 100 characters", remedy="say what it is for")
        if any(row.label == label for row in self._records.tokens_of(user, "api")):
            raise BadToken(f"{user} has a token {label!r} already", remedy="revoke it, or choose another label")
        token, row = _new("api", user, str(uuid4()), timedelta(days=days) if days else None, label)
        self._records.add_tokens(row)
        return token

    def revoke(self, token: str, *, of: str) -> None:
        """End a user's token, and what came of the same sign-in. One that is unknown, or another's, is passed over in silence."""
        found = self._records.token(digest(token))
        if found and found[0].user == of:
            self._records.revoke_family(found[0].family)

    def _by_password(self, name: str, password: str) -> UserRow:
        user = self._records.user(name)
        good = matches(user.password if user else None, password)
        if user is None or not good or user.disabled is not None:
            raise NotSignedIn("user or password is wrong")
        return user

    def _found(self, token: str, kinds: frozenset[str]) -> tuple[TokenRow, UserRow]:
        found = self._records.token(digest(token))
        if found is None or found[0].kind not in kinds or not found[0].good(now()) or found[1] is None or found[1].disabled is not None:
            raise NotSignedIn
        return found[0], found[1]

    def _grant(self, user: str, family: str, lasting: timedelta) -> Granted:
        access, access_row = _new("access", user, family, lasting)
        refresh, refresh_row = _new("refresh", user, family, self._refresh)
        self._records.add_tokens(access_row, refresh_row)
        return Granted(user, access, refresh, int(lasting.total_seconds()))


def _new(kind: Kind, user: str, family: str, lasting: timedelta | None, label: str = "") -> tuple[str, TokenRow]:
    token = f"{MARK}{kind}_{secrets.token_urlsafe(32)}"
    moment = now()
    return token, TokenRow(digest(token), kind, user, family, label, moment, moment + lasting if lasting else None, None, None)
