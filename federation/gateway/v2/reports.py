"""Accounting: what was used, by whom, for what, where and when."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response

from federation.gateway.access import Action
from federation.gateway.queries import owner
from federation.gateway.services import of
from federation.gateway.signing import Who
from federation.request import BadRequest
from storage.reports import KEYS, report

router = APIRouter(prefix="/reports", tags=["reports"])

CSV: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {
            "application/json": {"schema": {"type": "array", "items": {"type": "object"}}}, "text/csv": {"schema": {"type": "string"}},
        }
    }
}  # fmt: skip


@router.get("/accounting", response_class=Response, responses=CSV)
def accounting(
    request: Request, who: Who,
    by: Annotated[list[Literal["user", "project", "tool", "node", "task", "state"]], Query(max_length=6)] = ["user"],  # noqa: B006
    period: Literal["day", "week", "month"] | None = None, since: datetime | None = None, until: datetime | None = None,
    user: str = "", project: str = "", tool: str = "", node: str = "", task: str = "", state: str = "", format: Literal["json", "csv"] = "json",
) -> Response:  # fmt: skip
    """A row for each group, as JSON or CSV. A researcher's is about what is his own, and of his projects."""
    services = of(request)
    services.gate.allow(who, Action.REPORTS_READ)
    given = dict(zip(KEYS, (user, project, tool, node, task, state), strict=True))
    where = {name: value for name, value in given.items() if value}
    if any("\0" in value for value in where.values()):
        raise BadRequest("a NUL is in no name", remedy="leave it out")
    for moment in (since, until):
        if moment is not None and moment.tzinfo is None:
            raise BadRequest("a time has no zone", remedy="end it with Z, or with an offset such as +01:00")
    frame = report(
        services.centre.records, tuple(by), period=period, since=since, until=until, where=where, of=owner(who, Action.REPORTS_READ)
    )
    if format == "csv":
        return Response(frame.to_csv(index=False), media_type="text/csv")
    rows = json.loads(frame.to_json(orient="records", date_format="iso"))
    return Response(json.dumps(rows), media_type="application/json")
