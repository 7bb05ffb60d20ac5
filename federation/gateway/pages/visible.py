"""How a list is narrowed to what somebody may see, by the one table that decides."""

from __future__ import annotations

from federation.gateway.access import Action, Caller, Scope, scope
from federation.gateway.errors import NotAllowed
from storage.listing import Owner


def owner(who: Caller, action: Action) -> Owner | None:
    """Whose things the list may hold; None is everybody's."""
    allowed = scope(who, action)
    if allowed is Scope.ALL:
        return None
    if allowed is Scope.SHARED:
        return Owner(who.name, who.projects)
    raise NotAllowed(f"a {who.role} may not do this: {action}", remedy="ask an administrator")
