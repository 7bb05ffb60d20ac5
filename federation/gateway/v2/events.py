"""Server-sent events of an execution: its states, its runs' states and log lines, from where the client left off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import StreamingResponse

from fdn_worker.protocol import Reason, State, TaskEvent
from federation.gateway.access import Action
from federation.gateway.feeds import Batch, Feeds, id_of, position_of
from federation.gateway.services import of
from federation.gateway.signing import Who
from storage.records import OPEN, AttemptRow, ExecutionRow, RunRow

router = APIRouter(prefix="/executions", tags=["executions"])

STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {}}, "description": "Events `execution`, `run` and `end`"},
    204: {"description": "It is closed, and all was told"},
}


class ExecutionSaid(BaseModel):
    """Data of an event `execution`: how it stands."""

    state: str
    outcome: str | None


class RunSaid(BaseModel):
    """Data of an event `run`: what a node said of one of its runs."""

    run: str
    task: str
    node: str
    attempt: int
    number: int
    at: str
    state: State | None
    reason: Reason | None
    lines: tuple[str, ...]


@router.get("/{id}/events", response_class=Response, responses=STREAM)
async def follow(
    request: Request, who: Who, id: str, last: Annotated[str, Header(alias="Last-Event-ID", max_length=60_000)] = ""
) -> Response:
    """Follow it until it is closed. The stream ends before that when a token's lifetime is over, or the client does not keep up: ask again, with
    the Last-Event-ID that came last."""
    services, feeds = of(request), request.app.state.feeds

    def allowed() -> tuple[ExecutionRow, tuple[str, ...], bool]:
        row = services.gate.execution(who, Action.EXECUTIONS_LOGS, id)
        order = tuple(run.id for run in services.centre.records.runs_of(row.id))
        told = position_of(order, last)
        over = row.state != OPEN and bool(last) and _all_told(services.centre.records.current_attempts(row.id), told)
        return row, order, over

    row, order, over = await run_in_threadpool(allowed)
    if over:
        return Response(status_code=204)  # which tells a browser not to come again
    body = _messages(feeds, row, order, last, services.settings.token_minutes * 60)
    return StreamingResponse(body, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def _all_told(current: Sequence[tuple[RunRow, AttemptRow]], told: dict[str, tuple[int, int]]) -> bool:
    return all(told.get(run.id, (0, 0)) >= (run.attempt, attempt.last_number) for run, attempt in current)


async def _messages(feeds: Feeds, row: ExecutionRow, order: tuple[str, ...], last: str, seconds: float) -> AsyncGenerator[bytes]:
    position = position_of(order, last)
    until = asyncio.get_running_loop().time() + seconds
    async with aclosing(feeds.follow(row, dict(position))) as batches:
        async for batch in batches:
            yield "".join(_of(batch, order, position)).encode() or b": all is well\n\n"
            if batch.last or asyncio.get_running_loop().time() >= until:
                return


def _of(batch: Batch, order: tuple[str, ...], position: dict[str, tuple[int, int]]) -> Iterator[str]:
    for event in batch.events:
        run, place = str(event.run), (event.attempt, event.number)
        if place <= position.get(run, (0, 0)):
            continue
        position[run] = place
        if event.state or event.lines:
            yield f"id: {id_of(order, position)}\nevent: run\ndata: {_said(event).model_dump_json()}\n\n"
    if batch.row is not None:
        said = ExecutionSaid(state=batch.row.state, outcome=batch.row.outcome)
        yield f"event: execution\ndata: {said.model_dump_json()}\n\n"
    if batch.last:
        yield "event: end\ndata: {}\n\n"


def _said(event: TaskEvent) -> RunSaid:
    return RunSaid(
        run=str(event.run), task=event.task, node=event.node, attempt=event.attempt, number=event.number, at=event.at.isoformat(),
        state=event.state, reason=event.reason, lines=event.lines,
    )  # fmt: skip
