"""Signing in and out, and who is asking: `caller` is what every handler depends on."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Depends, Form, Request, Response
from pydantic import BaseModel

from federation.gateway.access import Action, Caller
from federation.gateway.errors import NotSignedIn
from federation.gateway.services import of
from federation.gateway.tokens import Granted

#: Cookie of a browser that is signed in.
COOKIE = "fem_session"
#: Passwords that are checked at once: argon2 takes 64 MiB and a tenth of a second of a processor for each.
AT_ONCE = 2


class Grant(BaseModel):
    """What a sign-in gives."""

    access_token: str
    token_type: Literal["bearer"] = "bearer"
    #: Seconds.
    expires_in: int
    refresh_token: str


class Me(BaseModel):
    """Whoever asks."""

    name: str
    role: str
    projects: list[str]


def address_of(request: Request) -> str:
    """The client's, as the trusted proxies tell it."""
    return request.client.host if request.client else ""


def bearer(request: Request) -> Caller:
    """Who asks, by the Authorization header alone: where a GET changes something, a browser's cookie must not do."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise NotSignedIn
    return of(request).gate.identify(token.strip(), address_of(request))


def caller(request: Request) -> Caller:
    """Who asks: by the Authorization header, or, where nothing is changed, by the cookie of a browser."""
    cookie = request.cookies.get(COOKIE)
    if cookie and "Authorization" not in request.headers and request.method in ("GET", "HEAD"):
        return of(request).gate.identify(cookie, address_of(request))
    return bearer(request)


Who = Annotated[Caller, Depends(caller)]
Bearer = Annotated[Caller, Depends(bearer)]


async def grant_by_password(request: Request, name: str, password: str, *, lasting: timedelta | None = None) -> Grant:
    """A sign-in, with no more than a few at once."""
    services = of(request)

    def sign_in() -> Granted:
        return services.gate.sign_in(name, password, address_of(request), lasting=lasting)

    return _told(await anyio.to_thread.run_sync(sign_in, limiter=request.app.state.passwords))


def set_cookie(request: Request, response: Response, token: str) -> None:
    """Have the browser keep what `gate.session` gave."""
    settings = of(request).settings
    response.set_cookie(
        COOKIE, token, max_age=settings.session_hours * 3600, httponly=True, samesite="strict", secure=settings.secure, path="/"
    )


router = APIRouter(prefix="/api/v2", tags=["sign-in"])


@router.post("/token")
async def token(
    request: Request,
    grant_type: Annotated[Literal["password", "refresh_token"], Form()],
    username: Annotated[str, Form(max_length=200)] = "",
    password: Annotated[str, Form(max_length=1000)] = "",
    refresh_token: Annotated[str, Form(max_length=200)] = "",
) -> Grant:
    """Sign in by password, or turn a refresh token in for new ones; it is good for one turn."""
    if grant_type == "password":
        return await grant_by_password(request, username, password)
    gate = of(request).gate
    return _told(await anyio.to_thread.run_sync(gate.refresh, refresh_token, address_of(request)))


@router.post("/token/revoke", status_code=204)
def revoke(request: Request, who: Bearer, token: Annotated[str, Form(max_length=8192)]) -> None:
    """End a token of one's own, and all that came of the same sign-in. What is no token is as good as ended."""
    gate = of(request).gate
    gate.allow(who, Action.ACCOUNT)
    gate.revoke(who, token)


@router.get("/me")
def me(request: Request, who: Who) -> Me:
    """Who one is here."""
    of(request).gate.allow(who, Action.ACCOUNT)
    return Me(name=who.name, role=who.role, projects=sorted(who.projects))


def _told(granted: Granted) -> Grant:
    return Grant(access_token=granted.access, expires_in=granted.expires_in, refresh_token=granted.refresh)
