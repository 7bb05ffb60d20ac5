"""Nodes: as they were last heard, as they are when asked, and their queues."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from federation.gateway.access import Action
from federation.gateway.checks import Checks
from federation.gateway.errors import NotFound
from federation.gateway.services import Services, of
from federation.gateway.signing import Bearer, Who
from federation.gateway.v2 import shapes
from federation.health import NodeHealth
from federation.node_queue import queues
from federation.presence import NodePresence

router = APIRouter(prefix="/nodes", tags=["nodes"])


@router.get("")
def list_nodes(request: Request, who: Who) -> list[NodePresence]:
    """All that are enrolled, by name."""
    services = of(request)
    services.gate.allow(who, Action.FEDERATION_READ)
    return services.federation.presence()


@router.get("/{name}")
def show(request: Request, who: Who, name: str) -> NodePresence:
    """One of them."""
    services = of(request)
    services.gate.allow(who, Action.FEDERATION_READ)
    return _node(services, name)


@router.post("/{name}/health")
async def health(request: Request, who: Bearer, name: str) -> NodeHealth:
    """Ask it how it is. Who asks within the same few seconds gets the same answer."""
    services = of(request)

    def allowed() -> NodePresence:
        services.gate.allow(who, Action.NODES_CHECK)
        return _node(services, name)

    node = await run_in_threadpool(allowed)
    checks: Checks = request.app.state.node_checks
    (found,) = await checks.of([node.name], user=who.name)
    return found


@router.get("/{name}/queues")
def queues_of(request: Request, who: Who, name: str) -> list[shapes.Queue]:
    """Its queues at the broker."""
    services = of(request)
    services.gate.allow(who, Action.FEDERATION_READ)
    return [
        shapes.Queue(
            name=one.name, what=one.what, messages=one.depth.messages if one.depth else None, consumers=one.depth.consumers if one.depth else None
        )
        for one in queues(services.centre, _node(services, name).name)
    ]  # fmt: skip


def _node(services: Services, name: str) -> NodePresence:
    found = next((node for node in services.federation.presence() if node.name == name), None)
    if found is None:
        raise NotFound
    return found
