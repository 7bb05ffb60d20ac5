"""Is the gateway alive, and can it do its work: for proxies and supervisors, without a sign-in."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from fastapi import APIRouter, Request, Response

from fdn_worker.errors import FdnError
from fdn_worker.protocol.names import INBOX
from federation.centre import Centre

log = logging.getLogger(__name__)

router = APIRouter(prefix="/health", tags=["health"])

#: Seconds for which an answer is given again, and in which a part has to answer.
FRESH, PATIENCE = 2.0, 5.0


class Readiness:
    """The parts as they stood at the last look. Strangers may ask as often as they like: there is one look at a time."""

    def __init__(self, centre: Centre) -> None:
        self._parts: dict[str, Callable[[], object]] = {
            "broker": lambda: centre.broker.depth(INBOX), "store": lambda: centre.store.stat("health"), "records": centre.records.audit.head,
        }  # fmt: skip
        self._lock = asyncio.Lock()
        self._looked, self._found = 0.0, dict.fromkeys(self._parts, "unknown")

    async def look(self) -> dict[str, str]:
        """Part -> ok, or down."""
        async with self._lock:
            if time.monotonic() - self._looked > FRESH:
                answers = await asyncio.gather(*(_asked(name, ask) for name, ask in self._parts.items()))
                self._found, self._looked = dict(zip(self._parts, answers, strict=True)), time.monotonic()
        return self._found


async def _asked(name: str, ask: Callable[[], object]) -> str:
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.to_thread(ask)
    except (FdnError, TimeoutError) as error:
        log.warning("%s: %s", name, error or "no answer", extra={"action": "gateway-not-ready"})
        return "down"
    return "ok"


@router.get("/live")
async def live() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"description": "A part is down; the answer says which."}})
async def ready(request: Request, response: Response) -> dict[str, str]:
    """Broker, store and records answer, each by name."""
    readiness: Readiness = request.app.state.readiness
    found = await readiness.look()
    good = all(state == "ok" for state in found.values())
    response.status_code = 200 if good else 503
    return {"status": "ok" if good else "down"} | found
