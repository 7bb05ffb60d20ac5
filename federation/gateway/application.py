"""The application: all of the gateway's routes behind the same limits, the same errors and the same sign-in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from fdn_worker import __version__
from federation.centre import Centre
from federation.gateway import fem_rest, health, metrics, problems, signing, v2
from federation.gateway.gate import Gate
from federation.gateway.limits import Limits
from federation.gateway.services import Services
from federation.gateway.settings import GatewaySettings
from federation.gateway.submitting import Submitter


def application(centre: Centre, submitter: Submitter, settings: GatewaySettings) -> FastAPI:
    """Ready to be served. It closes the submitter when it ends; the centre is the caller's."""
    services = Services(centre, submitter, settings, Gate(centre.records, settings))

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.gate.ledger.start()
        try:
            yield
        finally:
            await app.state.feeds.close()
            await anyio.to_thread.run_sync(submitter.close)
            await anyio.to_thread.run_sync(services.gate.ledger.close)

    # The framework's own pages fetch their scripts from elsewhere.
    app = FastAPI(
        title="Federated Execution Manager", version=__version__, lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None
    )
    app.state.services = services
    app.state.passwords = anyio.CapacityLimiter(signing.AT_ONCE)
    app.state.metrics = metrics.Metrics(centre)
    app.state.readiness = health.Readiness(centre)
    problems.add_to(app)
    app.add_middleware(Limits, body=settings.body_limit, patience=settings.patience, secure=settings.secure)
    # Outermost, so that a dashboard from elsewhere can read what a limit tells it.
    app.add_middleware(
        CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID", "Range", "If-Range", "If-None-Match"],
        expose_headers=["Content-Disposition", "Content-Range", "Accept-Ranges", "ETag", "Retry-After", "Location", "Link"],
    )  # fmt: skip
    # Around those, too: what a limit refuses is counted.
    app.add_middleware(metrics.Counted, metrics=app.state.metrics)
    app.include_router(health.router)
    app.include_router(metrics.router)
    app.include_router(signing.router)
    v2.mount(app, services)
    fem_rest.mount(app, services)
    return app
