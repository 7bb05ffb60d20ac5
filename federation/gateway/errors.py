"""What the gateway itself refuses."""

from __future__ import annotations

from fdn_worker.errors import Fault, FdnError


class GatewayRefused(FdnError):
    """The root of these. `status` is that of the answer, `wait` the seconds after which another try makes sense."""

    code = "gateway"
    fault = Fault.USER
    status = 400
    wait: int | None = None


class NotSignedIn(GatewayRefused):
    """No token, or none that is good. Never says what was wrong with it: that is for the log."""

    code = "not-signed-in"
    status = 401

    def __init__(self, message: str = "not signed in, or no longer") -> None:
        super().__init__(message, remedy="sign in, and send the token as Authorization: Bearer TOKEN")


class NotAllowed(GatewayRefused):
    """The caller's role does not do this, whatever it is about."""

    code = "not-allowed"
    status = 403


class NotFound(GatewayRefused):
    """There is no such thing, or it is not the caller's to see: the same words, so that nobody learns which."""

    code = "not-found"
    status = 404

    def __init__(self) -> None:
        super().__init__("there is no such thing here, or it is not yours to see", remedy="check its id")


class TooLarge(GatewayRefused):
    """A body above the limit."""

    code = "too-large"
    status = 413


class TooMany(GatewayRefused):
    """More than the limit allows."""

    code = "too-many"
    status = 429

    def __init__(self, message: str, wait: int) -> None:
        super().__init__(message, remedy=f"try again in {wait} s")
        self.wait = wait
