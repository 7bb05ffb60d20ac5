"""Tools: the catalogue, and what the nodes would say to a submission."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool

from federation.catalogue import tool as catalogue
from federation.catalogue.find import find_tool, is_path
from federation.gateway import access
from federation.gateway.access import Action
from federation.gateway.errors import NotFound
from federation.gateway.services import of
from federation.gateway.signing import Bearer, Who
from federation.gateway.v2 import shapes
from federation.plan import Plan, plan
from federation.request import BadRequest
from federation.tool_request import ToolRequest

router = APIRouter(prefix="/tools", tags=["tools"])


@router.get("")
def list_tools(request: Request, who: Who) -> list[shapes.Tool]:
    """The catalogue, by name."""
    services = of(request)
    services.gate.allow(who, Action.FEDERATION_READ)
    return [_told(tool) for tool in services.federation.tools()]


@router.get("/{name}")
def show(request: Request, who: Who, name: str) -> shapes.Tool:
    """One tool, with its tasks and their arguments."""
    services = of(request)
    services.gate.allow(who, Action.FEDERATION_READ)
    if is_path(name) or "\0" in name:
        raise NotFound
    return _told(find_tool(services.centre.records, name))


@router.post("/{name}/plan")
async def plan_of(request: Request, who: Bearer, name: str, asked: ToolRequest) -> Plan:
    """Ask the nodes what they would say to this submission; nothing runs."""
    services = of(request)
    if asked.tool != name:
        raise BadRequest(f"the body names the tool {asked.tool[:80]!r}, the path {name[:80]!r}", remedy="name the same")
    if is_path(name) or "\0" in name:
        raise NotFound
    if asked.inputs:
        raise BadRequest("inputs name files of the gateway's machine", remedy="hand small values over as arguments")
    asked = asked.model_copy(update={"user": asked.user or who.name})

    def allowed() -> catalogue.Tool:
        services.gate.allow(who, Action.TOOLS_PLAN, access.Asked(asked.user, asked.project))
        return find_tool(services.centre.records, name)

    return await plan(services.centre, await run_in_threadpool(allowed), asked)


def _told(tool: catalogue.Tool) -> shapes.Tool:
    return shapes.Tool(
        name=tool.name, title=tool.title, version=tool.version, author=tool.author, description=tool.description,
        document=tool.model_dump(mode="json", exclude={"contents"}),
    )  # fmt: skip
