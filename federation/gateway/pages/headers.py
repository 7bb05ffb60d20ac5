"""Headers of the pages: nothing is loaded from, or sent to, any place but this one; assets are kept by the browser, pages are not."""

from __future__ import annotations

from nicegui import __version__
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: Vue compiles templates in the browser, which takes scripts of the page and eval; what sites send is never part of a page.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
    "font-src 'self' data:; connect-src 'self'; frame-src 'self'; frame-ancestors 'self'; form-action 'self'; base-uri 'self'; object-src 'none'"
)
#: Assets have NiceGUI's version in their address.
ASSETS = f"/_nicegui/{__version__}/"


class Headers:
    """ASGI middleware around NiceGUI's application."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_own(message: Message) -> None:
            if message["type"] == "http.response.start":
                found = MutableHeaders(scope=message)
                if ASSETS in scope["path"]:
                    found["Cache-Control"] = "public, max-age=31536000, immutable"
                else:
                    found["Cache-Control"] = "private, no-store"
                    found["Content-Security-Policy"] = POLICY
            await send(message)

        await self._app(scope, receive, with_own if scope["type"] == "http" else send)
