"""The gate that each request passes: who it is, whether he may, how much he has asked already; and a note of it in the audit."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

from federation.gateway.access import Action, Caller, Owned, decide
from federation.gateway.errors import NotAllowed, NotFound, NotSignedIn, TooMany
from federation.gateway.ledger import Ledger, Request
from federation.gateway.oidc import Issuer
from federation.gateway.settings import GatewaySettings
from federation.gateway.tokens import Granted, Tokens
from storage.records import ExecutionRow, Records

Thing = TypeVar("Thing", bound=Owned)

#: In the audit before it is done, each by itself: what changes something, and what takes data out.
AT_ONCE = frozenset({
    Action.EXECUTIONS_SUBMIT, Action.EXECUTIONS_CANCEL, Action.EXECUTIONS_RETRY, Action.EXECUTIONS_OUTPUTS, Action.MODELS_READ,
    Action.SESSIONS_STEER, Action.NODES_MANAGE, Action.NODES_CHECK, Action.USERS_MANAGE,
})  # fmt: skip


class Gate:
    """One a process, with its ledger. All but `download` reads the records, and blocks: call it off the event loop."""

    def __init__(self, records: Records, settings: GatewaySettings) -> None:
        self._records, self._settings = records, settings
        self.tokens = Tokens(
            records.gateway, access=timedelta(minutes=settings.token_minutes), refresh=timedelta(days=settings.refresh_days),
            session=timedelta(hours=settings.session_hours), issuer=Issuer(settings) if settings.oidc_issuer else None,
        )  # fmt: skip
        self.ledger = Ledger(records)
        self._lock = threading.Lock()
        self._downloads: Counter[str] = Counter()

    # Who

    def identify(self, token: str, address: str) -> Caller:
        """Whose token it is. NotSignedIn in the same words whatever is wrong with it; TooMany above the limit."""
        try:
            who = self.tokens.caller(token)
        except NotSignedIn:
            self._stranger(address)
            raise
        if self.ledger.over(f"caller {who.name}", self._settings.requests_a_minute):
            raise TooMany(f"more than {self._settings.requests_a_minute} requests in this minute", wait=60)
        return who

    def sign_in(self, name: str, password: str, address: str, *, lasting: timedelta | None = None) -> Granted:
        """By password; `lasting` for clients that cannot refresh. Slow by intention: see `signing.py` for how many at once."""
        with self._a_try(name, address):
            return self.tokens.sign_in(name, password, lasting=lasting)

    def refresh(self, token: str, address: str) -> Granted:
        """New tokens for a refresh token."""
        try:
            return self.tokens.refresh(token)
        except NotSignedIn:
            self._stranger(address)
            raise

    def revoke(self, who: Caller, token: str) -> None:
        """End a token of the caller's own."""
        self.tokens.revoke(token, of=who.name)

    def session(self, name: str, password: str, address: str) -> str:
        """The same for a browser: what its cookie is to hold."""
        with self._a_try(name, address):
            return self.tokens.session(name, password)

    # Whether

    def allow(self, who: Caller, action: Action, thing: Owned | None = None) -> None:
        """Let an action pass that is about things in general, or about one that is yet to be made; NotAllowed otherwise."""
        allowed = decide(who, action, thing)
        self._note(who, action, thing.project if thing else "", allowed)
        if not allowed:
            raise NotAllowed(f"a {who.role} may not do this: {action}", remedy="ask an administrator")

    def reveal(self, who: Caller, action: Action, thing: Thing | None, name: str) -> Thing:
        """The thing, if it is there and the caller may; NotFound otherwise, in the same words. `name` is for the audit."""
        allowed = thing is not None and decide(who, action, thing)
        self._note(who, action, name, allowed)
        if thing is None or not allowed:
            raise NotFound
        return thing

    def execution(self, who: Caller, action: Action, id_: str) -> ExecutionRow:
        """The execution with this id, as `reveal` does."""
        try:
            row = self._records.execution(str(UUID(id_)))
        except ValueError:
            row = None
        return self.reveal(who, action, row, id_)

    # How much

    @contextmanager
    def download(self, who: Caller) -> Iterator[None]:
        """Hold one of the downloads that may go on at once in this process, as long as it lasts."""
        with self._lock:
            if self._downloads[who.name] >= self._settings.downloads_at_once:
                raise TooMany(f"{self._settings.downloads_at_once} of your downloads are under way", wait=10)
            if self._downloads.total() >= self._settings.downloads_in_all:
                raise TooMany("as many downloads are under way as this gateway serves", wait=10)
            self._downloads[who.name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._downloads[who.name] -= 1

    def _note(self, who: Caller, action: Action, name: str, allowed: bool) -> None:
        request = Request(who.name, str(action), name, allowed)
        (self.ledger.write if allowed and action in AT_ONCE else self.ledger.note)(request)

    def _stranger(self, address: str) -> None:
        """Somebody without a good token; a limit of his own, so that nobody tries them out."""
        self.ledger.note(Request("", "identify", address, False))
        if self.ledger.over(f"stranger {address}", self._settings.requests_a_minute):
            raise TooMany(f"more than {self._settings.requests_a_minute} requests in this minute", wait=60)

    @contextmanager
    def _a_try(self, name: str, address: str) -> Iterator[None]:
        """One try to sign in: counted before, noted afterwards."""
        for what in (f"sign-in of {name}", f"sign-in from {address}"):
            if self.ledger.over_at_once(what, self._settings.sign_ins_a_minute):
                raise TooMany("too many tries to sign in", wait=60)
        good = False
        try:
            yield
            good = True
        finally:
            self.ledger.note(Request(name, "sign-in", address, good))
