"""What the gateway remembers: local users, the hashes of tokens, and counts. Many gateways on the same records agree by it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, bindparam, delete, select, update

from fdn_worker.errors import Fault, FdnError
from fdn_worker.protocol import now
from storage.audit import AuditRecords
from storage.database import Database
from storage.schema import memberships, rates, tokens, users

# Made once, as in `folding`: each request asks these.
_TOKEN = (
    select(tokens, users, memberships.c.project)
    .select_from(tokens.outerjoin(users, users.c.name == tokens.c.user).outerjoin(memberships, memberships.c.user == tokens.c.user))
    .where(tokens.c.digest == bindparam("of"))
)
_USER = select(users).where(users.c.name == bindparam("of"))
_PROJECTS = select(memberships.c.project).where(memberships.c.user == bindparam("of"))


class UserRefused(FdnError):
    """A user cannot be made or changed so."""

    code = "user"
    fault = Fault.USER


@dataclass(frozen=True)
class UserRow:
    """A local user. `password` is its argon2 hash, None where nobody can sign in by one; `disabled` since when it is shut out."""

    name: str
    password: str | None
    role: str
    created: datetime
    disabled: datetime | None
    projects: frozenset[str] = frozenset()


@dataclass(frozen=True)
class TokenRow:
    """A token by its hash. `family` is shared by all that came of one sign-in; `used` is when a refresh token was turned in."""

    digest: str
    kind: str
    user: str
    family: str
    label: str
    created: datetime
    expires: datetime | None
    used: datetime | None
    revoked: datetime | None

    def good(self, at: datetime) -> bool:
        """Neither revoked nor over."""
        return self.revoked is None and (self.expires is None or at < self.expires)


class GatewayRecords:
    """Safe from several threads and processes."""

    def __init__(self, database: Database, audit: AuditRecords) -> None:
        self._db, self._audit = database, audit

    # Users

    def add_user(self, name: str, role: str, password: str | None, projects: Iterable[str] = (), *, by: str) -> None:
        """Write a user; one that is there already is refused. `by` is who does it, here and below."""
        wanted = sorted(set(projects))
        with self._db.write() as db:
            insert = self._db.insert(users).values(name=name, role=role, password=password, created=now()).on_conflict_do_nothing()
            if db.execute(insert.returning(users.c.name)).first() is None:
                raise UserRefused(f"user {name!r} is there already", remedy="see `fem users list`")
            _join(db, name, wanted)
            self._audit.append(db, "user-added", user=name, role=role, projects=wanted, who=by)

    def set_user(
        self, name: str, *, by: str, role: str | None = None, password: str | None = None, projects: Iterable[str] | None = None,
        disabled: bool | None = None,
    ) -> None:  # fmt: skip
        """Change what is given. A new password or the end of a user ends all that it is signed in with, API tokens included."""
        values: dict[str, Any] = {key: value for key, value in {"role": role, "password": password}.items() if value is not None}
        if disabled is not None:
            values["disabled"] = now() if disabled else None
        with self._db.write() as db:
            if db.execute(select(users.c.name).where(users.c.name == name).with_for_update()).first() is None:
                raise UserRefused(f"there is no user {name!r}", code="unknown-user", remedy="see `fem users list`")
            if values:
                db.execute(update(users).where(users.c.name == name).values(values))
            if projects is not None:
                db.execute(delete(memberships).where(memberships.c.user == name))
                _join(db, name, sorted(set(projects)))
            if password is not None or disabled:
                _revoke(db, tokens.c.user == name)
            self._audit.append(
                db, "user-changed", user=name, role=role, projects=None if projects is None else sorted(set(projects)) or "none",
                disabled=None if disabled is None else str(disabled).lower(), password="new" if password else None, who=by,
            )  # fmt: skip

    def user(self, name: str) -> UserRow | None:
        """The user, a disabled one too, or None."""
        with self._db.read() as db:
            return _user(db, name)

    def users(self) -> list[UserRow]:
        """All by name."""
        with self._db.read() as db:
            of: dict[str, set[str]] = {}
            for row in db.execute(select(memberships)):
                of.setdefault(row.user, set()).add(row.project)
            found = db.execute(select(users).order_by(users.c.name)).all()
        return [UserRow(**row._mapping, projects=frozenset(of.get(row.name, ()))) for row in found]

    # Tokens

    def add_tokens(self, *new: TokenRow, by: str = "") -> None:
        """Write tokens that are handed out; `by` somebody, where it is not the user who signs in."""
        with self._db.write() as db:
            db.execute(tokens.insert(), [vars(row) for row in new])
            if by:
                self._audit.append(
                    db, "token-created", user=new[0].user, label=new[0].label, expires=str(new[0].expires or "never"), who=by
                )

    def token(self, digest: str) -> tuple[TokenRow, UserRow | None] | None:
        """The token as it stands, with its user, or None."""
        with self._db.read() as db:
            rows = db.execute(_TOKEN, {"of": digest}).all()
        if not rows:
            return None
        # A row for each project, or one without.
        width, first = len(tokens.c), rows[0]
        of_user = dict(zip(users.c.keys(), first[width:-1], strict=True))
        user = UserRow(**of_user, projects=frozenset(row[-1] for row in rows if row[-1] is not None)) if of_user["name"] else None
        return TokenRow(*first[:width]), user

    def use_once(self, digest: str) -> bool:
        """Turn a refresh token in. False if that was done before."""
        with self._db.write() as db:
            of = (tokens.c.digest == digest, tokens.c.used.is_(None))
            return bool(db.execute(update(tokens).where(*of).values(used=now())).rowcount)

    def tokens_of(self, user: str, kind: str) -> list[TokenRow]:
        """Those that are not revoked, oldest first."""
        of = (tokens.c.user == user, tokens.c.kind == kind, tokens.c.revoked.is_(None))
        with self._db.read() as db:
            return [TokenRow(**row._mapping) for row in db.execute(select(tokens).where(*of).order_by(tokens.c.created, tokens.c.digest))]

    def revoke_family(self, family: str) -> None:
        """End all that came of one sign-in."""
        with self._db.write() as db:
            _revoke(db, tokens.c.family == family)

    def revoke_label(self, user: str, kind: str, label: str, *, by: str) -> None:
        """End a user's token by its label; refused where there is none."""
        with self._db.write() as db:
            if not _revoke(db, (tokens.c.user == user) & (tokens.c.kind == kind) & (tokens.c.label == label)):
                raise UserRefused(f"{user} has no token {label!r}", code="unknown-token", remedy=f"see `fem tokens list {user}`")
            self._audit.append(db, "token-revoked", user=user, label=label, who=by)

    def refuse(self, row: TokenRow) -> None:
        """Refuse somebody else's token from now on."""
        with self._db.write() as db:
            db.execute(self._db.insert(tokens).values(vars(row) | {"revoked": now()}).on_conflict_do_nothing())

    # Counts

    def count(self, counts: Mapping[str, int], minute: int) -> dict[str, int]:
        """Add to the counts of a minute; what each then is, over all gateways."""
        if not counts:
            return {}
        insert = self._db.insert(rates)
        totals = {}
        with self._db.write() as db:
            for name in sorted(counts):
                added = insert.values(name=name, minute=minute, count=counts[name]).on_conflict_do_update(
                    index_elements=[rates.c.name, rates.c.minute], set_={"count": rates.c.count + insert.excluded.count}
                )
                totals[name] = db.execute(added.returning(rates.c.count)).scalar_one()
        return totals

    def sweep(self, minute: int, before: datetime) -> None:
        """Forget the counts of earlier minutes, and tokens that were over before that moment."""
        with self._db.write() as db:
            db.execute(delete(rates).where(rates.c.minute < minute))
            db.execute(delete(tokens).where(tokens.c.expires < before))


def _user(db: Connection, name: str) -> UserRow | None:
    row = db.execute(_USER, {"of": name}).first()
    if row is None:
        return None
    projects = frozenset(db.scalars(_PROJECTS, {"of": name}))
    return UserRow(**row._mapping, projects=projects)


def _join(db: Connection, name: str, projects: list[str]) -> None:
    if projects:
        db.execute(memberships.insert(), [{"user": name, "project": project} for project in projects])


def _revoke(db: Connection, which: Any) -> bool:
    return bool(db.execute(update(tokens).where(which, tokens.c.revoked.is_(None)).values(revoked=now())).rowcount)
