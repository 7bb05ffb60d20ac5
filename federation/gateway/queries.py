"""What interfaces ask of the records alike: whose things a list may hold, and where its next page begins."""

from __future__ import annotations

import base64
import binascii
from datetime import datetime

from federation.gateway.access import Action, Caller, Scope, scope
from federation.gateway.errors import NotAllowed
from federation.request import BadRequest
from storage.listing import Owner, Place


def owner(who: Caller, action: Action) -> Owner | None:
    """Whose things the list may hold; None is everybody's."""
    allowed = scope(who, action)
    if allowed is Scope.ALL:
        return None
    if allowed is Scope.SHARED:
        return Owner(who.name, who.projects)
    raise NotAllowed(f"a {who.role} may not do this: {action}", remedy="ask an administrator")


def cursor_of(created: datetime, id_: str) -> str:
    """Where a page ends, for its reader to hand back; he is not to look into it."""
    return base64.urlsafe_b64encode(f"{created.isoformat()} {id_}".encode()).decode().rstrip("=")


def place_of(cursor: str) -> Place | None:
    """The place that a cursor means; None for the first page."""
    if not cursor:
        return None
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True).decode()
        moment, _, id_ = text.partition(" ")
        place = Place(datetime.fromisoformat(moment), id_)
    except (binascii.Error, ValueError) as error:
        raise _wrong(cursor) from error
    if place.created.tzinfo is None or not id_.isascii():
        raise _wrong(cursor)
    return place


def _wrong(cursor: str) -> BadRequest:
    return BadRequest(
        f"cursor {cursor[:80]!r} was not given by this interface", remedy="hand back `next` of the page before, or leave it out"
    )
