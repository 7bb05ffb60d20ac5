"""What every handler of the gateway works with; `of(request)` finds it."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import HTTPConnection

from federation.centre import Centre
from federation.gateway.gate import Gate
from federation.gateway.settings import GatewaySettings
from federation.gateway.submitting import Submitter


@dataclass(frozen=True)
class Services:
    """One a process. Handlers that use the centre or the submitter are plain `def`: they block."""

    centre: Centre
    submitter: Submitter
    settings: GatewaySettings
    gate: Gate


def of(request: HTTPConnection) -> Services:
    """Those of the application that serves the request."""
    services = request.app.state.services
    assert isinstance(services, Services)
    return services
