"""The pages, on NiceGUI, at /ui: drawn here, with every asset from here. NiceGUI is one a process, so `fem serve` mounts them, once.

A new page is a function `async def draw(visit: Visit) -> None` in a module of its own and a line in PAGES.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from nicegui import app as nicegui
from nicegui import ui

from federation.gateway.access import Action
from federation.gateway.pages import (
    accounting,
    audit,
    execution,
    executions,
    frame,
    headers,
    learning,
    nodes,
    outputs,
    session,
    sign,
    simulations,
    tool,
    tools,
)
from federation.gateway.pages.frame import AT, Page

#: All of them, in the order of the navigation.
PAGES: tuple[Page, ...] = (
    Page("/executions", "Executions", executions.index, Action.EXECUTIONS_LIST, "Work", "list_alt"),
    Page("/executions/{execution}", "Execution", execution.one, Action.EXECUTIONS_LIST),
    Page("/tools", "Tools", tools.catalogue, Action.FEDERATION_READ, "Work", "handyman"),
    Page("/tools/{tool}", "Tool", tool.form, Action.FEDERATION_READ),
    Page("/learning", "Learning", learning.index, Action.SESSIONS_READ, "Work", "insights"),
    Page("/learning/{session}", "Session", session.one, Action.SESSIONS_READ),
    Page("/simulations", "Simulations", simulations.index, Action.SESSIONS_READ, "Work", "science"),
    Page("/simulations/{simulation}", "Simulation", simulations.one, Action.SESSIONS_READ),
    Page("/nodes", "Nodes", nodes.grid, Action.FEDERATION_READ, "Federation", "dns"),
    Page("/nodes/{node}", "Node", nodes.node, Action.FEDERATION_READ),
    Page("/accounting", "Accounting", accounting.usage, Action.REPORTS_READ, "Federation", "bar_chart"),
    Page("/audit", "Audit", audit.log, Action.AUDIT_READ, "Federation", "fact_check"),
)


def mount(app: FastAPI) -> None:
    """Serve the pages as a part of the gateway's application."""
    nicegui.state.services, nicegui.state.readiness = app.state.services, app.state.readiness
    nicegui.state.passwords = app.state.passwords
    nicegui.add_middleware(headers.Headers)
    nicegui.colors(primary="#1b6e8c", secondary="#5b6b73", accent="#7b4fa3", positive="#2e7d32", negative="#b3261e", warning="#9a6700")
    # Quasar's bar has no name for a screen reader; what pages ask for comes over the socket, which it does not show anyway.
    nicegui.config.quasar_config["loadingBar"] = {"skipHijack": True}
    for sheet in ("style.css", "charts.css"):
        ui.add_css((Path(__file__).parent / sheet).read_text(encoding="utf-8"), shared=True)
    for page in PAGES:
        frame.add(page, PAGES)
    ui.page("/sign-in")(sign.page)

    async def nowhere(request: Request) -> Response | None:
        return await frame.nowhere(request, PAGES)

    app.include_router(sign.router)
    for module in (outputs, session, accounting):
        app.include_router(module.router)
    app.add_api_route("/", lambda: RedirectResponse(sign.HOME), include_in_schema=False)
    app.add_api_route(f"{AT}/", lambda: RedirectResponse(sign.HOME), include_in_schema=False)
    ui.run_with(
        app, root=nowhere, mount_path=AT, title="Federation", dark=None, language="en-US", tailwind=False, show_welcome_message=False,
        reconnect_timeout=10.0, favicon=str(Path(__file__).parent / "favicon.svg"),
    )  # fmt: skip
