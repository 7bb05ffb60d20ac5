"""Whether a message is of the present: not from the future, by which a wrong clock shows, and not one that may have been here before.

What is known is dropped by the journal. What the journal has forgotten had a deadline that passed before it was forgotten,
so its replay is refused by that deadline; and where the clock was set back since, by the latest of those deadlines.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from fdn_worker.errors import MessageError, PolicyRefused
from fdn_worker.journal import FORGOTTEN, Journal
from fdn_worker.protocol import TaskOrder

_REMEDY = "one of the two clocks is wrong: have both kept by NTP"


def refusals(order: TaskOrder, journal: Journal, tolerance: float, moment: datetime) -> Iterator[PolicyRefused]:
    """Why the order is not of the present."""
    if early := ahead(order.issued, tolerance, moment):
        yield PolicyRefused(f"the order was issued {early} from now by the clock of node {order.node}", code="clock", remedy=_REMEDY)
    if order.deadline.isoformat() <= (journal.flag(FORGOTTEN) or ""):
        yield PolicyRefused(f"the order is as old as some that node {order.node} has forgotten", code="expired", remedy="submit it again")


def check_issued(kind: str, issued: datetime, tolerance: float, moment: datetime) -> None:
    """MessageError for a message that was issued in the future."""
    if early := ahead(issued, tolerance, moment):
        raise MessageError(f"the {kind} was issued {early} from now", code="clock", remedy=_REMEDY)


def ahead(issued: datetime, tolerance: float, moment: datetime) -> str:
    """By how much, in words; "" within the tolerance."""
    if issued - moment <= timedelta(seconds=tolerance):
        return ""
    minutes, seconds = divmod(round((issued - moment).total_seconds()), 60)
    return f"{minutes:,} min {seconds} s"
