"""The clean interface, `/api/v2`: its routes, its description, and the page that shows it. docs/reference/api-v2.md has each endpoint."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.responses import HTMLResponse, JSONResponse

from fdn_worker import __version__
from federation.gateway import signing
from federation.gateway.api_page import add_assets, page
from federation.gateway.checks import Checks
from federation.gateway.feeds import Feeds
from federation.gateway.problems import CLEAN
from federation.gateway.services import Services
from federation.gateway.v2 import events, executions, learning, nodes, reports, simulations, tools
from federation.gateway.v2.shapes import PROBLEMS

router = APIRouter(prefix=CLEAN, responses=PROBLEMS)
for part in (executions, events, tools, nodes, learning, simulations, reports):
    router.include_router(part.router)


def mount(app: FastAPI, services: Services) -> None:
    """Serve it, and the description of both interfaces' pages."""
    app.state.feeds, app.state.node_checks = Feeds(services.centre.records), Checks(services.centre)
    app.include_router(router)
    described: dict[str, Any] = {}

    def openapi() -> JSONResponse:
        if not described:
            described.update(description())
        return JSONResponse(described)

    def docs() -> HTMLResponse:
        return page("openapi.json", "Federated Execution Manager: /api/v2")

    app.add_route(f"{CLEAN}/openapi.json", lambda _: openapi(), include_in_schema=False)
    app.add_route(f"{CLEAN}/docs", lambda _: docs(), include_in_schema=False)
    add_assets(app)


def description() -> dict[str, Any]:
    """The interface as OpenAPI; with signing in, which is served beside it."""
    whole = APIRouter(responses=PROBLEMS)
    whole.include_router(router)
    whole.include_router(signing.router)
    return get_openapi(
        title="Federated Execution Manager", version=__version__, routes=whole.routes,
        description="Sign in at /api/v2/token, or use an API token. Errors are problem+json.",
    )  # fmt: skip
