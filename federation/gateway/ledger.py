"""What is noted of every request: the audit's lines and the counts of the limits. Gathered here, written to the records each second.

What changes something, or takes data out, is in the audit before it is done. What was but read is told together, with how
often: two hundred dashboards that poll would else be all that the log holds. A gateway that is killed forgets the last second.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from datetime import timedelta
from typing import NamedTuple

from fdn_worker.errors import FdnError
from fdn_worker.protocol import now
from storage.records import Records

log = logging.getLogger(__name__)

#: Seconds between two writes of counts, and of what was gathered for the audit.
PAUSE, GATHER = 1.0, 10.0
#: Different things gathered at most; further ones are told without their names. Of a name, so many characters.
MOST, LONGEST = 500, 120
#: Days that tokens are kept after their end, so that one that is turned in again is known.
KEPT = 7


class Request(NamedTuple):
    """One decision."""

    who: str
    action: str
    thing: str
    allowed: bool


class Ledger:
    """A thread of its own writes. Safe from any thread."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._lock = threading.Lock()
        self._seen: Counter[Request] = Counter()
        self._minute = _minute()
        #: Counted here and not yet written; and what the count was over all gateways when it was.
        self._counts: Counter[str] = Counter()
        self._totals: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gateway-ledger", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what is left."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        self._written(gathered=True)

    def note(self, request: Request) -> None:
        """Gather a request for the audit."""
        request = _clean(request)
        with self._lock:
            if request not in self._seen and len(self._seen) >= MOST:
                request = request._replace(thing="...") if len(self._seen) < 2 * MOST else Request("...", "...", "...", request.allowed)
            self._seen[request] += 1

    def write(self, request: Request) -> None:
        """Write it at once."""
        who, action, thing, allowed = _clean(request)
        self._records.audit.write("request", who=who, action=action, thing=thing, decision=_decision(allowed))

    def over(self, name: str, limit: int) -> bool:
        """Count once more under this name; whether that is above the limit for this minute. Other gateways' counts are a second old."""
        name = _printable(name)
        with self._lock:
            if self._minute != _minute():
                self._minute, self._totals = _minute(), {}
                self._counts.clear()
            self._counts[name] += 1
            return self._totals.get(name, 0) + self._counts[name] > limit

    def over_at_once(self, name: str, limit: int) -> bool:
        """The same by the records themselves, for what is rare and must be exact."""
        name = _printable(name)
        return self._records.gateway.count({name: 1}, _minute())[name] > limit

    def flush(self, *, gathered: bool) -> None:
        """Write the counts, and with `gathered` the audit's lines; what could not be written is kept."""
        with self._lock:
            minute, counts, self._counts = self._minute, self._counts, Counter()
            seen, self._seen = (self._seen, Counter()) if gathered else (Counter(), self._seen)
        try:
            totals = self._records.gateway.count(counts, minute)
            counts = Counter()
            if seen:
                told = [[one.who, one.action, one.thing, _decision(one.allowed), times] for one, times in sorted(seen.items())]
                self._records.audit.write("requests", told=told)
                seen = Counter()
        finally:
            with self._lock:
                self._seen.update(seen)
                if minute == self._minute:
                    self._counts.update(counts)
        with self._lock:
            if minute == self._minute:
                self._totals |= totals

    def _run(self) -> None:
        since, swept = 0.0, 0
        while not self._stop.wait(PAUSE):
            since += PAUSE
            self._written(gathered=since >= GATHER)
            since = 0.0 if since >= GATHER else since
            if _minute() > swept + 60:
                swept = _minute()
                self._sweep(swept)

    def _written(self, *, gathered: bool) -> None:
        try:
            self.flush(gathered=gathered)
        except FdnError as error:
            log.error("the gateway's requests wait to be written: %s", error, extra={"action": "ledger-waits"})

    def _sweep(self, minute: int) -> None:
        try:
            self._records.gateway.sweep(minute, now() - timedelta(days=KEPT))
        except FdnError as error:
            log.error("old tokens stay for another hour: %s", error, extra={"action": "ledger-waits"})


def _clean(request: Request) -> Request:
    return request._replace(who=_printable(request.who), thing=_printable(request.thing))


def _printable(text: str) -> str:
    """What strangers make up, fit for a column and a line."""
    return "".join(one if one.isprintable() else "?" for one in text[:LONGEST])


def _decision(allowed: bool) -> str:
    return "allowed" if allowed else "refused"


def _minute() -> int:
    return int(now().timestamp() // 60)
