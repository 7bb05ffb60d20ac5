"""Executions: submitted, listed, shown, ended, tried again; their logs and what they left."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import nullcontext
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response

from federation.gateway import access, problems
from federation.gateway.access import Action
from federation.gateway.errors import NotFound
from federation.gateway.files import Sending, outputs, send, send_zip
from federation.gateway.queries import cursor_of, owner, place_of
from federation.gateway.services import Services, of
from federation.gateway.signing import Bearer, Who
from federation.gateway.submitting import submit
from federation.gateway.v2 import shapes
from federation.request import BadRequest
from federation.tool_request import ToolRequest
from storage import accounts
from storage.listing import MOST, Filter, listed, story
from storage.log_lines import merged
from storage.records import OPEN, ExecutionRow

router = APIRouter(prefix="/executions", tags=["executions"])

Limit = Annotated[int, Query(ge=1, le=MOST)]
TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}
ZIP: dict[int | str, dict[str, Any]] = {200: {"content": {"application/zip": {}}}}


@router.post("", status_code=202)
def submit_tool(
    request: Request, response: Response, who: Bearer, asked: ToolRequest,
    key: Annotated[str, Header(alias="Idempotency-Key", max_length=200)] = "",
) -> shapes.Submitted:  # fmt: skip
    """Submit a tool at nodes. The same Idempotency-Key gives the same execution. All of the request is checked before anything is sent."""
    services = of(request)
    asked = asked.model_copy(update={"user": asked.user or who.name})
    services.gate.allow(who, Action.EXECUTIONS_SUBMIT, access.Asked(asked.user, asked.project))
    id_ = str(submit(services.centre, services.submitter, asked, key).execution)
    response.headers["Location"] = f"{problems.CLEAN}{router.prefix}/{id_}"
    return shapes.Submitted(id=id_)


@router.get("")
def list_executions(
    request: Request, who: Who, state: str = "", user: str = "", project: str = "", tool: str = "", node: str = "", text: str = "",
    since: datetime | None = None, limit: Limit = 50, cursor: str = "",
) -> shapes.ExecutionPage:  # fmt: skip
    """Those that one may see, the newest first. `text` is in the tool's name, or at the beginning of the id."""
    services = of(request)
    services.gate.allow(who, Action.EXECUTIONS_LIST)
    if since is not None and since.tzinfo is None:
        raise BadRequest("since has no time zone", remedy="end it with Z, or with an offset such as +01:00")
    wanted = Filter(user=user, project=project, tool=tool, node=node, state=state, text=text, since=since)
    for value in (state, user, project, tool, node, text):
        _plain(value)
    found = listed(services.centre.records.database, owner(who, Action.EXECUTIONS_LIST), wanted, limit, place_of(cursor))
    last = found[-1] if len(found) == limit else None
    return shapes.ExecutionPage(items=found, next=cursor_of(last.created, last.id) if last else None)


@router.get("/{id}")
def show(request: Request, who: Who, id: str) -> shapes.Execution:
    """One execution with its runs, and each run's stages."""
    services = of(request)
    row = services.gate.execution(who, Action.EXECUTIONS_READ, id)
    told = {name: getattr(row, name) for name in ("id", "user", "project", "tool", "state", "outcome", "created", "closed", "cleaned")}
    return shapes.Execution(**told, flow_run=services.submitter.page(row), request=json.loads(row.request), runs=runs_of(services, row))


@router.get("/{id}/runs")
def runs(request: Request, who: Who, id: str) -> list[shapes.Run]:
    """Its runs alone."""
    services = of(request)
    return runs_of(services, services.gate.execution(who, Action.EXECUTIONS_READ, id))


@router.post("/{id}/cancel", status_code=202)
def cancel(request: Request, who: Bearer, id: str) -> shapes.Asked:
    """End it at all its nodes; what has ended stays as it is."""
    services = of(request)
    row = services.gate.execution(who, Action.EXECUTIONS_CANCEL, id)
    if row.state == OPEN:
        services.submitter.cancel(row, f"cancelled by {who.name}")
    return shapes.Asked(id=row.id, asked="cancel")


@router.post("/{id}/retry", status_code=202)
def retry(request: Request, who: Bearer, id: str) -> shapes.Asked:
    """Do again what ended badly; what succeeded is kept."""
    services = of(request)
    row = services.gate.execution(who, Action.EXECUTIONS_RETRY, id)
    services.submitter.retry(row)
    return shapes.Asked(id=row.id, asked="retry")


@router.get("/{id}/logs", response_class=Response, responses=TEXT)
def logs(request: Request, who: Who, id: str, node: str = "") -> Response:
    """The lines that came so far, by time, of all nodes or of one; after their node's name where there are several runs."""
    services = of(request)
    row = services.gate.execution(who, Action.EXECUTIONS_LOGS, id)
    found = {run.id: run for run in services.centre.records.runs_of(row.id) if node in ("", run.node)}

    def lines() -> Generator[bytes]:
        for event in merged(services.centre.records.database, [(run.id, run.attempt) for run in found.values()]):
            before = f"{event.node} {event.task} | " if len(found) > 1 else ""
            yield "".join(f"{before}{line}\n" for line in event.lines).encode(errors="replace")

    return Sending(lines(), 200, {}, "text/plain", held=nullcontext(), patience=services.settings.patience)


@router.get("/{id}/outputs")
def list_outputs(request: Request, who: Who, id: str) -> shapes.Files:
    """The files that have come back so far."""
    services = of(request)
    left = outputs(services.centre, services.gate.execution(who, Action.EXECUTIONS_OUTPUTS, id))
    files = [shapes.File(task=one.task, node=one.node, path=one.path, size=one.file.size, sha256=one.file.sha256) for one in left.files]
    return shapes.Files(files=files, troubles=left.troubles)


@router.head("/{id}/outputs.zip", include_in_schema=False)
@router.get("/{id}/outputs.zip", response_class=Response, responses=ZIP)
def download_all(request: Request, who: Who, id: str) -> Response:
    """All of them as a zip that is made while it is sent, TASK/NODE/PATH each."""
    services = of(request)
    row = services.gate.execution(who, Action.EXECUTIONS_OUTPUTS, id)
    found = outputs(services.centre, row).files
    if not found:
        raise BadRequest("nothing has come back", code="object-missing", remedy="see the execution's state")
    return send_zip(request, who, [(f"{one.task}/{one.node}/{one.path}", one.file) for one in found], row.id)


@router.head("/{id}/outputs/{task}/{node}/{path:path}", include_in_schema=False)
@router.get("/{id}/outputs/{task}/{node}/{path:path}", response_class=Response, responses=shapes.BYTES)
def download(request: Request, who: Who, id: str, task: str, node: str, path: str) -> Response:
    """One of them, or a range of its bytes."""
    services = of(request)
    row = services.gate.execution(who, Action.EXECUTIONS_OUTPUTS, id)
    _plain(node)
    one = next((one for one in outputs(services.centre, row, [node]).files if (one.task, one.path) == (task, path)), None)
    if one is None:
        raise NotFound
    return sent(request, send(request, who, one.file, one.name), one.path)


def sent(request: Request, answer: Response, name: str) -> Response:
    """The download; a range that is not there as a problem, too."""
    if answer.status_code != 416:
        return answer
    problem = problems.Problem(title="Range Not Satisfiable", status=416, detail=f"{name} has no byte in that range", code="no-such-range")
    return problems.answer(request.url.path, problem, {"Content-Range": answer.headers["Content-Range"]})


def runs_of(services: Services, row: ExecutionRow) -> list[shapes.Run]:
    """Its runs as they stand."""
    records = services.centre.records
    current = {run.id: attempt for run, attempt in records.current_attempts(row.id)}
    used = accounts.of_execution(records.database, row.id)
    stages: dict[str, list[shapes.Stage]] = {}
    for step in story(records.database, row.id):
        stages.setdefault(step.run, []).append(shapes.Stage(state=step.state, at=step.at))
    return [
        shapes.Run(
            id=run.id, task=run.task, node=run.node, attempt=run.attempt, state=run.state, reason=attempt.reason if attempt else None,
            issued=attempt.issued if attempt else None, since=attempt.state_at if attempt else None, stages=stages.get(run.id, []), used=used.get(run.id),
        )
        for run in records.runs_of(row.id)
        for attempt in [current.get(run.id)]
    ]  # fmt: skip


def _plain(value: str) -> None:
    """The records take no NUL in a text."""
    if "\0" in value:
        raise BadRequest("a NUL is in no name", remedy="leave it out")
