"""Local users: made by an administrator's hand, at the command line; the first one by the gateway itself."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import timedelta
from uuid import uuid4

from federation.gateway.access import Role
from federation.gateway.passwords import hashed, made_up
from federation.gateway.tokens import made
from storage.gateway import GatewayRecords, UserRefused

#: Name of the first.
FIRST = "administrator"
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,62}")
#: Characters of a project's name, and of a token's label.
LONGEST = 100


def add_user(records: GatewayRecords, name: str, role: str, password: str, projects: Iterable[str] = (), *, by: str) -> None:
    """Let somebody sign in; what is wrong is refused before anything is written."""
    if not _NAME.fullmatch(name):
        raise UserRefused(f"{name!r} is no user's name", remedy="use 1 to 63 of a-z, 0-9, ., _, @ and -, with a letter or digit in front")
    records.add_user(name, checked_role(role), hashed(password), checked_projects(projects), by=by)


def checked_role(role: str) -> Role:
    """The role of that name."""
    if role not in set(Role):
        raise UserRefused(f"{role!r} is no role", remedy=f"one of {', '.join(Role)}")
    return Role(role)


def checked_projects(projects: Iterable[str]) -> list[str]:
    """The same, where each could be a project's name."""
    found = list(projects)
    for project in found:
        if not project.strip() or len(project) > LONGEST or not project.isprintable():
            raise UserRefused(f"{project!r} is no project's name", remedy=f"use 1 to {LONGEST} characters")
    return found


def api_token(records: GatewayRecords, user: str, label: str, days: int | None, *, by: str) -> str:
    """A token for a user's program, good until it is revoked or the days are over. It is seen this once."""
    if records.user(user) is None:
        raise UserRefused(f"there is no user {user!r}", code="unknown-user", remedy="see `fem users list`")
    if not label or len(label) > LONGEST or not label.isprintable():
        raise UserRefused(f"{label!r} is no label", remedy=f"say in 1 to {LONGEST} characters what the token is for")
    if any(row.label == label for row in records.tokens_of(user, "api")):
        raise UserRefused(f"{user} has a token {label!r} already", remedy="revoke it, or choose another label")
    token, row = made("api", user, str(uuid4()), timedelta(days=days) if days else None, label)
    records.add_tokens(row, by=by)
    return token


def first_administrator(records: GatewayRecords) -> str | None:
    """Make one where there is no user at all; its password, or None. Of several gateways that start at once one makes it."""
    if records.users():
        return None
    password = made_up()
    try:
        add_user(records, FIRST, Role.ADMINISTRATOR, password, by="fem serve")
    except UserRefused:
        return None
    return password
