"""Signing in and out of the pages: plain forms, since only an answer of the server's sets a cookie that no script can read."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import anyio.to_thread
from fastapi import APIRouter, Form, Request
from fastapi.responses import RedirectResponse
from nicegui import ui

from federation.gateway.access import Action
from federation.gateway.errors import GatewayRefused, NotSignedIn
from federation.gateway.pages.frame import AT, identified, note, scheme
from federation.gateway.services import of
from federation.gateway.signing import COOKIE, address_of, set_cookie

router = APIRouter(prefix=AT, include_in_schema=False)

HOME = f"{AT}/executions"
#: What was wrong, by the code that the address carries.
SAID = {"signed-in": "User or password is wrong.", "too-many": "Too many tries. Wait a minute, then try again."}


class CrossSite(GatewayRefused):
    """A form that another site's page sent."""

    code = "cross-site"
    status = 403


def _own_form(request: Request) -> None:
    """Nobody is signed in or out by the page of somebody else."""
    if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise CrossSite("this form came from another site", remedy="use the page itself")


def _inside(place: str) -> str:
    """A page of ours, whatever the address says."""
    return place if place.startswith(f"{AT}/") and "\\" not in place and not place.startswith(f"{AT}/sign") else HOME


@router.post("/sign-in")
async def sign_in(
    request: Request,
    username: Annotated[str, Form(max_length=200)] = "",
    password: Annotated[str, Form(max_length=1000)] = "",
    then: Annotated[str, Form(max_length=2000)] = "",
) -> RedirectResponse:
    """Set the cookie and go where one wanted to go."""
    _own_form(request)
    gate = of(request).gate
    try:
        token = await anyio.to_thread.run_sync(
            gate.session, username.strip(), password, address_of(request), limiter=request.app.state.passwords
        )
    except GatewayRefused as error:
        said = "signed-in" if isinstance(error, NotSignedIn) else "too-many"
        return RedirectResponse(f"{AT}/sign-in?said={said}&then={quote(_inside(then))}", 303)
    answer = RedirectResponse(_inside(then), 303)
    set_cookie(request, answer, token)
    return answer


@router.post("/sign-out")
def sign_out(request: Request) -> RedirectResponse:
    """End the session here and in the records."""
    _own_form(request)
    gate, answer = of(request).gate, RedirectResponse(f"{AT}/sign-in", 303)
    answer.delete_cookie(COOKIE, path="/")
    try:
        who = identified(of(request), request)
    except NotSignedIn:
        return answer
    gate.allow(who, Action.ACCOUNT)
    gate.revoke(who, request.cookies[COOKIE])
    return answer


async def page(request: Request) -> None:
    """The form."""
    scheme(request)
    ui.page_title("Sign in · Federation")
    with ui.column().classes("fem-sign absolute-center"):
        ui.label("Federation").classes("fem-title").props('role="heading" aria-level="1"')
        if (said := SAID.get(request.query_params.get("said", ""))) is not None:
            note("error", said)
        with ui.element("form").props(f'method="post" action="{AT}/sign-in"'):
            ui.element("input").props.update(type="hidden", name="then", value=_inside(request.query_params.get("then", "")))
            ui.input("User").props('name="username" autocomplete="username" autofocus required outlined').classes("full-width")
            ui.input("Password", password=True).props('name="password" autocomplete="current-password" required outlined').classes(
                "full-width"
            )
            ui.button("Sign in").props("type=submit no-caps").classes("full-width")
