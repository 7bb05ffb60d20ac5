"""What every handler of the gateway works with; `of(request)` finds it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from starlette.requests import HTTPConnection

from federation.centre import Centre
from federation.gateway.gate import Gate
from federation.gateway.lately import Federation
from federation.gateway.manifests import Manifests
from federation.gateway.settings import GatewaySettings
from federation.gateway.submitting import Submitter


@dataclass(frozen=True)
class Services:
    """One a process. Handlers that use the centre or the submitter are plain `def`: they block."""

    centre: Centre
    submitter: Submitter
    settings: GatewaySettings
    gate: Gate

    @cached_property
    def federation(self) -> Federation:
        """What all ask for alike."""
        return Federation(self.centre.records)

    @cached_property
    def manifests(self) -> Manifests:
        """Those that were read and checked."""
        return Manifests()


def of(request: HTTPConnection) -> Services:
    """Those of the application that serves the request."""
    services = request.app.state.services
    assert isinstance(services, Services)
    return services
