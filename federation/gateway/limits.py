"""What a client may cost: bodies are cut off at the limit, and one that sends nothing more is let go. Headers that every answer has."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from federation.gateway.errors import GatewayRefused, TooLarge
from federation.gateway.problems import refused

#: No page of ours is framed by another's, and nothing guesses at types. Pages add their own policy of content.
HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"SAMEORIGIN"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), microphone=(), geolocation=()"),
)
#: Answers of the interfaces may be of one caller alone.
PRIVATE = (b"cache-control", b"private, no-store")
#: Browsers come back over TLS alone, where they came over TLS.
STRICT = (b"strict-transport-security", b"max-age=31536000")


class TooSlow(GatewayRefused):
    """The client sends its body too slowly."""

    code = "too-slow"
    status = 408


class _CutOff(Exception):
    """Ends the reading of a body; told to the client by `Limits`."""


class Limits:
    """ASGI middleware around everything. A body is refused by its announced length before any of it is read, else as it grows."""

    def __init__(self, app: ASGIApp, *, body: int, patience: float, secure: bool) -> None:
        self._app, self._body, self._patience = app, body, patience
        self._headers = (*HEADERS, STRICT) if secure else HEADERS

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = _Request(self, scope, receive, send)
        if _announced(scope) > self._body:
            request.refusal = self.too_large()
            await request.answer()
            return
        try:
            await self._app(scope, request.receive, request.send)
        except _CutOff:
            await request.answer()

    def too_large(self) -> TooLarge:
        return TooLarge(f"the body is larger than {self._body:,} bytes", remedy="send less")


class _Request:
    """One request on its way: what was read of it, and whether its answer has begun."""

    def __init__(self, limits: Limits, scope: Scope, receive: Receive, send: Send) -> None:
        self._limits, self._scope, self._receive, self._send = limits, scope, receive, send
        self._read, self._whole, self._begun = 0, False, False
        self.refusal: GatewayRefused | None = None

    async def receive(self) -> Message:
        # After the body only the end of the connection comes, for which an answer that streams waits as long as it lasts.
        if self._whole:
            return await self._receive()
        try:
            async with asyncio.timeout(self._limits._patience):
                message = await self._receive()
        except TimeoutError:
            self.refusal = TooSlow("the body did not come", remedy="send it faster")
            raise _CutOff from None
        self._read += len(message.get("body", b""))
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        if self._read > self._limits._body:
            self.refusal = self._limits.too_large()
            raise _CutOff
        return message

    async def send(self, message: Message) -> None:
        if self.refusal is not None and not self._begun:
            # Whatever the frameworks below made of the cut.
            raise _CutOff
        if message["type"] == "http.response.start":
            self._begun = True
            message = {**message, "headers": self._with_own(message.get("headers", []))}
        await self._send(message)
        if message.get("more_body"):
            # uvicorn drops what is sent to a connection that is gone at once: without a pause nobody would come to notice.
            await asyncio.sleep(0)

    async def answer(self) -> None:
        """Tell why it was cut off, and close the connection: the rest of the body is not wanted."""
        assert self.refusal is not None
        if self._begun:
            return
        told, self.refusal = refused(self._scope["path"], self.refusal), None
        told.headers["Connection"] = "close"
        await told(self._scope, self._receive, self.send)

    def _with_own(self, headers: Any) -> list[tuple[bytes, bytes]]:
        found = [(name.lower(), value) for name, value in headers]
        there = {name for name, _ in found}
        private = (PRIVATE,) if b"/api/" in self._scope["path"].lower().encode() else ()
        return found + [pair for pair in (*self._limits._headers, *private) if pair[0] not in there]


def _announced(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0
