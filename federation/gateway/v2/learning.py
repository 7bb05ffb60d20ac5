"""Sessions of federated learning and their models."""

from __future__ import annotations

import math
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from federation.gateway import sessions as shown
from federation.gateway.access import Action, decide
from federation.gateway.errors import NotFound
from federation.gateway.files import send
from federation.gateway.queries import cursor_of, place_of
from federation.gateway.services import of
from federation.gateway.signing import Who
from federation.gateway.v2 import shapes
from federation.gateway.v2.executions import sent
from storage.learning import ModelRow, SessionState

router = APIRouter()
sessions = APIRouter(prefix="/sessions", tags=["sessions"])
models = APIRouter(prefix="/models", tags=["models"])


@sessions.get("")
def list_sessions(
    request: Request, who: Who, state: SessionState | None = None, user: str | None = None, limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: str = "",
) -> shapes.SessionPage:  # fmt: skip
    """Those that one may see, the newest first."""
    if user is not None and "\0" in user:
        raise NotFound
    place = place_of(cursor)
    found = shown.sessions(of(request), who, limit, state=state, user=user, before=place.created if place else None)
    last = found[-1] if len(found) == limit else None
    return shapes.SessionPage(items=found, next=cursor_of(last.created, last.id) if last else None)


@sessions.get("/{id}")
def show_session(request: Request, who: Who, id: str) -> shapes.Session:
    """One of them, with its rounds, and what each client did in them."""
    services = of(request)
    row, learning = shown.session(services, who, Action.SESSIONS_READ, id), services.centre.records.learning
    return shapes.Session(session=row, rounds=learning.rounds(row.id), updates=learning.updates(row.id))


@sessions.get("/{id}/measures")
def measures(request: Request, who: Who, id: str, round: Annotated[int | None, Query(ge=0, lt=2**31)] = None) -> list[shapes.Measure]:
    """What its clients told while they worked, of all rounds or one."""
    services = of(request)
    row = shown.session(services, who, Action.SESSIONS_READ, id)
    return [
        shapes.Measure(
            round=one.round, client=one.client, phase=one.phase, name=one.name, step=one.step, at=one.at,
            value=one.value if math.isfinite(one.value) else None,
        )
        for one in services.centre.records.learning.measures(row.id, round=round)
    ]  # fmt: skip


@sessions.get("/{id}/models")
def models_of(request: Request, who: Who, id: str) -> list[ModelRow]:
    """Its models, the newest first."""
    services = of(request)
    row = shown.session(services, who, Action.MODELS_READ, id)
    return services.centre.records.learning.models(row.id)


@models.get("/{id}")
def show_model(request: Request, who: Who, id: str) -> shapes.Model:
    """One model and its lineage."""
    services = of(request)
    row, learning = shown.model(services, who, id), services.centre.records.learning

    def seen(rows: list[ModelRow]) -> list[ModelRow]:
        allowed = {of_: decide(who, Action.MODELS_READ, learning.session(of_)) for of_ in {row.session for row in rows}}
        return [row for row in rows if allowed[row.session]]

    return shapes.Model(model=row, ancestors=seen(learning.ancestors(row.id)), descendants=seen(learning.descendants(row.id)))


@models.head("/{id}/file", include_in_schema=False)
@models.get("/{id}/file", response_class=Response, responses=shapes.BYTES)
def download(request: Request, who: Who, id: str) -> Response:
    """Its file (safetensors), or a range of its bytes."""
    file = shown.model_file(shown.model(of(request), who, id))
    return sent(request, send(request, who, file, file.path), file.path)


router.include_router(sessions)
router.include_router(models)
