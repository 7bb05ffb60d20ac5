"""Tokens of local users: random words whose hashes stand in the records, so that an end of one counts at every gateway at once.

A sign-in begins a family: its access tokens are short-lived, its refresh tokens good for one turn each. One that is turned
in twice has been copied, and ends the whole family.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal
from uuid import uuid4

from fdn_worker.protocol import now
from federation.gateway.access import Caller, Role
from federation.gateway.errors import NotSignedIn
from federation.gateway.oidc import Issuer
from federation.gateway.passwords import matches
from storage.gateway import GatewayRecords, TokenRow, UserRow

Kind = Literal["access", "refresh", "session", "api"]
#: What every token of ours begins with; scanners for lost secrets find them by it.
MARK = "fem_"
#: Kinds by which one may ask for things.
ASKING = frozenset({"access", "session", "api"})


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

    def __init__(
        self, records: GatewayRecords, *, access: timedelta, refresh: timedelta, session: timedelta, issuer: Issuer | None = None
    ) -> None:  # fmt: skip
        self._records, self._access, self._refresh, self._session, self._issuer = records, access, refresh, session, issuer

    def sign_in(self, name: str, password: str, *, lasting: timedelta | None = None) -> Granted:
        """By password. NotSignedIn in the same words, after the same work, for whoever is unknown, shut out or mistaken."""
        return self._grant(self._by_password(name, password).name, str(uuid4()), lasting or self._access)

    def session(self, name: str, password: str) -> str:
        """The same for a browser: what its cookie holds."""
        user = self._by_password(name, password)
        token, row = made("session", user.name, str(uuid4()), self._session)
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
        if not token.startswith(MARK):
            return self._foreign(token)[0]
        row, user = self._found(token, ASKING)
        return Caller(user.name, Role(user.role), user.projects, row.digest)

    def _foreign(self, token: str) -> tuple[Caller, datetime]:
        """The same for a token of the issuer's. Who has the name of a local user is not taken for him."""
        if self._issuer is None:
            raise NotSignedIn
        who, until = self._issuer.caller(token, digest(token))
        if self._records.token(who.token) is not None or self._records.user(who.name) is not None:
            raise NotSignedIn
        return who, until

    def revoke(self, token: str, *, of: str) -> None:
        """End a user's token, and what came of the same sign-in. One that is unknown, or another's, is passed over in silence."""
        if not token.startswith(MARK):
            try:
                who, until = self._foreign(token)
            except NotSignedIn:
                return
            if who.name == of:
                self._records.refuse(TokenRow(who.token, "foreign", of, str(uuid4()), "", now(), until, None, None))
            return
        found = self._records.token(digest(token))
        if found and found[0].user == of:
            self._records.revoke_family(found[0].family)

    def _by_password(self, name: str, password: str) -> UserRow:
        # Not every database takes every character.
        user = self._records.user(name) if name.isprintable() else None
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
        access, access_row = made("access", user, family, lasting)
        refresh, refresh_row = made("refresh", user, family, self._refresh)
        self._records.add_tokens(access_row, refresh_row)
        return Granted(user, access, refresh, int(lasting.total_seconds()))


def made(kind: Kind, user: str, family: str, lasting: timedelta | None, label: str = "") -> tuple[str, TokenRow]:
    """A token, and what is kept of it."""
    token = f"{MARK}{kind}_{secrets.token_urlsafe(32)}"
    moment = now()
    return token, TokenRow(digest(token), kind, user, family, label, moment, moment + lasting if lasting else None, None, None)
