"""Results of simulations, as every interface shows them: those in the folder that `simulations` names. Each function passes the gate, and blocks."""

from __future__ import annotations

from pathlib import Path

from federation.gateway.access import Action, Caller
from federation.gateway.errors import NotFound
from federation.gateway.services import Services
from federation.simulation import results
from federation.simulation.results import Found, Results


def simulations(services: Services, who: Caller) -> list[Found]:
    """All of them, the newest first: they are nobody's, and hold nobody's data."""
    services.gate.allow(who, Action.SESSIONS_READ)
    folder = services.settings.simulations
    return results.found(Path(folder)) if folder else []


def simulation(services: Services, who: Caller, name: str) -> Results:
    """One of them."""
    services.gate.allow(who, Action.SESSIONS_READ)
    folder = services.settings.simulations
    read = results.read(Path(folder), name) if folder else None
    if read is None:
        raise NotFound
    return read
