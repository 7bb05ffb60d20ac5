"""Errors as answers: each error of ours has its status, and words that say what to mend. Faults of the machinery are told by name alone.

`/api/v2` answers problem+json (RFC 9457); the FEM REST interface `{"detail": ...}`, as its clients expect.
"""

from __future__ import annotations

import http
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from fdn_worker.errors import Fault, FdnError, SystemFault
from federation.gateway.errors import GatewayRefused

log = logging.getLogger(__name__)

#: What the paths of the clean interface begin with.
CLEAN = "/api/v2"
#: Codes whose status is not that of their fault.
STATUS = {
    "unknown-execution": 404, "unknown-tool": 404, "unknown-node": 404, "node-unknown": 404, "unknown-run": 404, "unknown-user": 404,
    "object-missing": 404, "files-deleted": 410, "model-deleted": 410, "session-ended": 409,
    "idempotency-conflict": 409, "stale-attempt": 409, "ambiguous-execution": 409, "node-offline": 409,
}  # fmt: skip
#: Codes of what may be down -> its name for people.
PARTS = {"broker-unavailable": "the broker", "store-unavailable": "the object store", "records-unavailable": "the records"}
#: Seconds after which a client may try again when a part is down.
AGAIN = 5


class Problem(BaseModel):
    """An error of /api/v2, as application/problem+json."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    #: How to mend it.
    remedy: str | None = None
    #: Short name of the error, which stays the same.
    code: str


def status_of(error: FdnError) -> int:
    """The status that an error has."""
    if isinstance(error, GatewayRefused):
        return error.status
    if error.code in STATUS:
        return STATUS[error.code]
    if isinstance(error, SystemFault):
        return 503 if error.retryable else 500
    return {Fault.USER: 400, Fault.POLICY: 422}.get(error.fault, 500)


def problem_of(error: FdnError) -> Problem:
    """The error for whoever asked. What is ours to mend names no address and no file of this machine."""
    status = status_of(error)
    detail, remedy = error.message, error.remedy
    if status >= 500:
        part = PARTS.get(error.code)
        detail = f"{part} cannot be reached" if part else "something here is out of order"
        remedy = "try again in a moment" if status == 503 else "tell the operator, with the time"
    return Problem(title=http.HTTPStatus(status).phrase, status=status, detail=detail, remedy=remedy, code=error.code)


def answer(path: str, problem: Problem, headers: dict[str, str] | None = None) -> JSONResponse:
    """In the words of the interface that was asked."""
    if path.startswith(CLEAN):
        return JSONResponse(problem.model_dump(exclude_none=True), problem.status, headers, media_type="application/problem+json")
    detail = f"{problem.detail} ({problem.remedy})" if problem.remedy else problem.detail
    return JSONResponse({"detail": detail}, problem.status, headers)


def refused(path: str, error: FdnError) -> JSONResponse:
    """The answer to an error of ours."""
    problem = problem_of(error)
    headers = {}
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    wait = error.wait if isinstance(error, GatewayRefused) else AGAIN if problem.status == 503 else None
    if wait is not None:
        headers["Retry-After"] = str(wait)
    if problem.status >= 500:
        log.error("%s: %s", path, error, extra={"action": "gateway-fault"})
    return answer(path, problem, headers)


def add_to(app: FastAPI) -> None:
    """Have the application answer so."""

    @app.exception_handler(FdnError)
    async def _ours(request: Request, error: FdnError) -> JSONResponse:
        return refused(request.url.path, error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        told = "; ".join(f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}" for item in error.errors())
        return answer(request.url.path, _plain(422, told, "invalid"))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> JSONResponse:
        headers: Any = error.headers
        return answer(request.url.path, _plain(error.status_code, str(error.detail), "http"), dict(headers or {}))

    @app.exception_handler(Exception)
    async def _unforeseen(request: Request, error: Exception) -> JSONResponse:
        # Starlette raises it again afterwards, so that it stands in the log with its traceback.
        return answer(request.url.path, problem_of(FdnError(str(error), code="internal")))


def _plain(status: int, detail: str, code: str) -> Problem:
    return Problem(title=http.HTTPStatus(status).phrase, status=status, detail=detail, code=code)
