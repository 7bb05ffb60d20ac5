"""Who is let in: one browser, by a token that is good once, and no page but our own on its behalf.

The Host must be ours (a name that an attacker points to 127.0.0.1 is not), the cookie is sent by our own pages alone, and
a form carries the session's own word besides. All answers forbid scripts, frames, and whatever comes from elsewhere.
"""

from __future__ import annotations

import hmac
import secrets
import time
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Bytes of a form, and seconds for which one sign-in lasts.
LONGEST_FORM, SESSION = 256 * 1024, 8 * 3600.0
#: Every answer has these. No script, no frame, nothing from elsewhere, nothing kept by the browser.
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # `no-referrer` would hide the origin of our own forms from us.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}  # fmt: skip


class Guard:
    """What stands for one start of the page: its token, and the session that came of it."""

    def __init__(self, token: str, port: int) -> None:
        self._token, self._hosts = token, {f"127.0.0.1:{port}", f"localhost:{port}"}
        # Browsers keep one jar for all ports of a host.
        self.cookie = f"fdn-worker-{port}"
        self._session, self._ends = "", 0.0
        #: Stands in every form.
        self.csrf = secrets.token_urlsafe(32)

    def refusal(self, headers: Headers, method: str) -> str:
        """Why a request has no place here, whoever makes it; "" for one that has."""
        host = headers.get("host", "").lower()
        if host not in self._hosts:
            return f"host {host!r} is not this page's: open it at 127.0.0.1 or localhost, and through a tunnel at the same port"
        origin = headers.get("origin")
        if method not in ("GET", "HEAD") and origin != f"http://{host}":
            return "the form was sent from elsewhere"
        return ""

    def enter(self, request: Request) -> Response:
        """Change the token for a session; it is void from then on."""
        given = request.query_params.get("token", "")
        if not self._token or not hmac.compare_digest(given.encode(), self._token.encode()):
            return PlainTextResponse("This address was used, or is none of mine. Start `fdn-worker ui` again for another one.\n", 403)
        self._token, self._session, self._ends = "", secrets.token_urlsafe(32), time.monotonic() + SESSION
        answer = RedirectResponse("/", 303)
        answer.set_cookie(self.cookie, self._session, max_age=int(SESSION), httponly=True, samesite="strict")
        return answer

    def known(self, request: Request) -> bool:
        """Whether the request is of the session."""
        given = request.cookies.get(self.cookie, "")
        return bool(self._session) and time.monotonic() < self._ends and hmac.compare_digest(given.encode(), self._session.encode())

    async def form(self, request: Request) -> dict[str, list[str]] | None:
        """The fields of a form of ours; None for any other body."""
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > LONGEST_FORM:
                return None
        try:
            fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=10_000)
        except ValueError:
            return None
        return fields if hmac.compare_digest(fields.pop("csrf", [""])[0].encode(), self.csrf.encode()) else None


class Guarded:
    """The application, behind the guard."""

    def __init__(self, app: ASGIApp, guard: Guard) -> None:
        self._app, self._guard = app, guard

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        request, app = Request(scope, receive), self._app
        if why := self._guard.refusal(request.headers, request.method):
            app = PlainTextResponse(f"Refused: {why}.\n", 403)
        elif scope["path"] == "/enter":
            app = self._guard.enter(request)
        elif not scope["path"].startswith("/static/") and not self._guard.known(request):
            app = PlainTextResponse("Open the address that `fdn-worker ui` printed; it lets one browser in, once.\n", 403)
        await app(scope, receive, answer)
