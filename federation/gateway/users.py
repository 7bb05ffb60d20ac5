"""The first user: somebody has to let the others in."""

from __future__ import annotations

from federation.gateway.access import Role
from federation.gateway.passwords import hashed, made_up
from storage.gateway import GatewayRecords, UserRefused

#: Its name.
FIRST = "administrator"


def first_administrator(records: GatewayRecords) -> str | None:
    """Make one where there is no user at all; its password, or None. Of several gateways that start at once one makes it."""
    if records.users():
        return None
    password = made_up()
    try:
        records.add_user(FIRST, Role.ADMINISTRATOR, hashed(password), by="fem serve")
    except UserRefused:
        return None
    return password
