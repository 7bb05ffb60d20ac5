"""The FEM REST interface, as existing dashboards and notebooks speak it: `/{project}/API/v1`, the project being that of what is submitted.

Only tokens in the header count, never a browser's cookie: here GET changes something, too. docs/reference/fem-rest.md has each
endpoint with an example.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, Form, Query, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from fdn_worker import __version__
from federation.catalogue.node import node_id
from federation.catalogue.tool import TaskTemplate, Tool
from federation.gateway import fem_shapes as shapes
from federation.gateway import problems
from federation.gateway.access import Action, Asked, decide
from federation.gateway.api_page import page
from federation.gateway.checks import Checks
from federation.gateway.errors import NotFound
from federation.gateway.fem_wording import PLACE, Names, PutStraight, arguments, relative
from federation.gateway.files import Left, Output, Sending, outputs, send, send_zip
from federation.gateway.services import Services, of
from federation.gateway.signing import Bearer, grant_by_password
from federation.gateway.submitting import submit
from federation.health import NodeHealth
from federation.nearest import unknown
from federation.presence import NodePresence
from federation.request import BadRequest, build
from federation.tool_request import ToolRequest
from storage import accounts
from storage.log_lines import merged
from storage.records import OPEN, ExecutionRow, RunRow


class Detail(BaseModel):
    """Every error's body."""

    detail: str


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Detail, "description": told}
    for status, told in {
        400: "What was asked for is wrong", 401: "Not signed in", 403: "Not the caller's to do", 404: "No such thing, or not the caller's",
        408: "The body came too slowly", 409: "It does not fit what is there", 410: "Deleted by retention", 413: "The body is too large", 422: "Refused",
        429: "Too much at once", 500: "Out of order", 503: "Broker, store or records cannot be reached",
    }.items()
}  # fmt: skip
#: For the interface's description: a body may be left out, and is read whatever its type is said to be.
BODY = {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}, "example": {}}}}}
TEXT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/plain": {}}}}
BYTES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/octet-stream": {}, "application/zip": {}}}, 206: {"description": "The range of it that was asked for"},
    304: {"description": "As the client has it"}, 416: {"model": Detail, "description": "The file has no such range"},
}  # fmt: skip

Several = Annotated[list[str], Query()]
Body = Annotated[dict[str, Any], Depends(arguments)]

router = APIRouter(responses=ERRORS)


def mount(app: FastAPI, services: Services) -> None:
    """Serve it as a part of the gateway's application."""
    own = FastAPI(title="FEM REST interface", version=__version__, docs_url=None, redoc_url=None)
    own.state.services, own.state.passwords, own.state.checks = services, app.state.passwords, Checks(services.centre)
    problems.add_to(own)
    own.include_router(router)
    own.add_route("/docs", lambda _: page("openapi.json", own.title), include_in_schema=False)
    app.mount(f"/{{project}}{PLACE}", own, name="fem-rest")
    app.add_middleware(PutStraight)


@router.post("/token")
async def token(
    request: Request,
    username: Annotated[str, Form(max_length=200)],
    password: Annotated[str, Form(max_length=1000)],
    grant_type: Annotated[Literal["password"], Form()] = "password",  # noqa: ARG001 (there is no other)
) -> shapes.Token:
    """Sign in. These clients cannot refresh a token, so it lasts longer than that of the clean interface."""
    lasting = timedelta(minutes=of(request).settings.fem_token_minutes)
    granted = await grant_by_password(request, username, password, lasting=lasting)
    return shapes.Token(access_token=granted.access_token)


# Nodes


@router.get("/hosts")
def hosts(request: Request, who: Bearer) -> list[shapes.Host]:
    """The nodes."""
    services = of(request)
    services.gate.allow(who, Action.FEDERATION_READ)
    names, tools = services.federation.names(), services.federation.tools()
    return [shapes.host(node, names, tools) for node in services.federation.presence()]


@router.get("/hosts/heartbeat")
def heartbeat(request: Request, who: Bearer, node_name: str = "") -> list[shapes.Beat]:
    """The node's connection, or none."""
    services = of(request)
    services.gate.allow(who, Action.FEDERATION_READ)
    settings, names = services.centre.settings, services.federation.names()
    broker = urlsplit(settings.broker_site_url or settings.broker_url.get_secret_value())
    port = broker.port or {"amqps": 5671, "amqp": 5672}.get(broker.scheme, 0)
    return [
        shapes.Beat(user=node.name, node=names.shown(node.name), host=broker.hostname or "", port=port)
        for node in services.federation.presence()
        if shapes.active(node) == "active" and names.known(node_name) == node.name
    ]


@router.get("/hosts/resources")
def resources(request: Request, who: Bearer, client_nodes: Several = []) -> dict[str, shapes.NodeResources]:  # noqa: B006
    """What these nodes, or all, have, as they said last."""
    services = of(request)
    services.gate.allow(who, Action.FEDERATION_READ)
    names = services.federation.names()
    wanted = names.ids(client_nodes)
    return {
        names.shown(node.name): shapes.resources(node)
        for node in services.federation.presence()
        if not wanted or node.name in wanted
    }  # fmt: skip


@router.get("/hosts/health")
async def check(request: Request, who: Bearer, nodes: Several = []) -> dict[str, NodeHealth]:  # noqa: B006
    """Ask these nodes, or all, how they are. Others' answers of the last few seconds count, too."""
    services = of(request)

    def allowed() -> tuple[Names, list[str]]:
        services.gate.allow(who, Action.NODES_CHECK)
        names = services.federation.names()
        return names, names.ids(nodes) or [node.name for node in services.federation.presence()]

    names, wanted = await run_in_threadpool(allowed)
    checks: Checks = request.app.state.checks
    return {names.shown(one.node): one for one in await checks.of(wanted, user=who.name)}


@router.get("/hosts/{id_}")
def host(request: Request, who: Bearer, id_: str) -> shapes.Host:
    """A node, by its id or its name."""
    services = of(request)
    services.gate.allow(who, Action.FEDERATION_READ)
    names = services.federation.names()
    wanted = names.id(id_)
    node = next((node for node in services.federation.presence() if node.name == wanted), NodePresence(name=wanted))
    return shapes.host(node, names, services.federation.tools())


# Tools


@router.get("/tools")
def tools(request: Request, who: Bearer) -> list[shapes.Tool]:
    """The catalogue."""
    services = of(request)
    services.gate.allow(who, Action.FEDERATION_READ)
    names = services.federation.names()
    return [shapes.tool(tool, names) for tool in services.federation.tools()]


@router.get("/tools/name/{name:path}")
def tool_by_name(request: Request, who: Bearer, name: str) -> str:
    """Its id."""
    services = of(request)
    services.gate.allow(who, Action.FEDERATION_READ)
    return _tool(services, name).name


@router.get("/tools/{id_}")
def tool(request: Request, who: Bearer, id_: str) -> shapes.Tool:
    """A tool, by its id or its name."""
    services = of(request)
    services.gate.allow(who, Action.FEDERATION_READ)
    return shapes.tool(_tool(services, id_), services.federation.names())


@router.get("/tasks")
def tasks(request: Request, who: Bearer) -> list[shapes.Template]:
    """The task templates of all tools."""
    services = of(request)
    services.gate.allow(who, Action.FEDERATION_READ)
    names = services.federation.names()
    return [shapes.template(tool, task, names) for tool, task in _templates(services)]


@router.get("/tasks/{id_}")
def task(request: Request, who: Bearer, id_: str) -> shapes.Template:
    """A task template, by its id TOOL.TASK."""
    services = of(request)
    services.gate.allow(who, Action.FEDERATION_READ)
    for tool, task in _templates(services):
        if shapes.task_id(tool.name, task.id) == id_:
            return shapes.template(tool, task, services.federation.names())
    known = [shapes.task_id(tool.name, task.id) for tool, task in _templates(services)]
    raise BadRequest(f"task {id_[:80]!r} is unknown", code="unknown-tool", remedy=unknown(id_, known) or "there are none yet")


def _project(request: Request) -> str:
    return str(request.path_params["project"])


@router.post("/tools/job/{tool:path}", openapi_extra=BODY)
def job(
    request: Request,
    who: Bearer,
    project: Annotated[str, Depends(_project)],
    tool: str,
    given: Body,
    server_node: str = "",
    client_nodes: Several = [],  # noqa: B006
) -> shapes.SubmittedAnswer:
    """Submit a tool. All of the request is checked before anything is sent; the answer does not wait for the nodes."""
    services = of(request)
    services.gate.allow(who, Action.EXECUTIONS_SUBMIT, Asked(who.name, project))
    names = services.federation.names()
    server = names.id(server_node) if server_node.strip() else None
    nodes = names.ids(client_nodes) or ([server] if server else [])
    if not nodes:
        raise BadRequest("no node is named", remedy="client_nodes=NODE, again for each one, or with commas between")
    asked = build(
        ToolRequest, tool=_tool(services, tool).name, nodes=tuple(nodes), server_node=server, user=who.name, project=project,
        arguments={names.known(name) or name if isinstance(value, dict) else name: value for name, value in given.items()},
    )  # fmt: skip
    execution = str(submit(services.centre, services.submitter, asked).execution)
    row = services.centre.records.execution(execution)
    assert row is not None, "submit wrote it"
    result = shapes.Submitted(
        execution_id=execution, tool_id=row.tool, user_id=row.user, process_info=_processes(services, row, "submit_run")
    )
    return shapes.SubmittedAnswer(execution_id=execution, result=result)


# Executions


@router.get("/executions/status/{execution}")
def status(request: Request, who: Bearer, execution: str) -> list[shapes.Process]:
    """How each task at each node stands."""
    services = of(request)
    return _processes(services, services.gate.execution(who, Action.EXECUTIONS_READ, execution), "submit_run")


@router.get("/executions/logs/{execution}", response_class=Response, responses=TEXT)
def logs(request: Request, who: Bearer, execution: str) -> Response:
    """The lines that came, by time; after their node's name where there are several."""
    services = of(request)
    row = services.gate.execution(who, Action.EXECUTIONS_LOGS, execution)
    runs = services.centre.records.runs_of(row.id)
    lines = _lines(services, runs, services.federation.names())
    return Sending(lines, 200, {}, "text/plain", held=nullcontext(), patience=services.settings.patience)


@router.get("/executions/report/{execution}")
def report(request: Request, who: Bearer, execution: str) -> shapes.Report:
    """Exit codes, times and what was used."""
    services = of(request)
    row = services.gate.execution(who, Action.EXECUTIONS_READ, execution)
    records, told = services.centre.records, shapes.Told(row, services.federation.names())
    used = accounts.of_execution(records.database, row.id)
    return shapes.Report(
        execution_id=row.id, tool_id=row.tool, user_id=row.user, project=row.project, status=told.whole(), state=row.state, outcome=row.outcome,
        created=row.created, closed=row.closed,
        tasks=[told.report(run, attempt, used.get(run.id)) for run, attempt in records.runs_and_attempts(row.id)],
    )  # fmt: skip


@router.get("/executions/cancel_run/{execution}")
@router.post("/executions/cancel_run/{execution}")
def cancel_run(request: Request, who: Bearer, execution: str) -> shapes.Cancelled:
    """End it at all its nodes; does not wait for them. What has ended stays as it is."""
    services = of(request)
    row = services.gate.execution(who, Action.EXECUTIONS_CANCEL, execution)
    if row.state == OPEN:
        services.submitter.cancel(row, f"cancelled by {who.name}")
    return shapes.Cancelled(execution_id=row.id, process_info=_processes(services, row, "cancel_run"))


# Data


@router.get("/data/list_files", response_model_exclude_none=True)
def list_files(
    request: Request, who: Bearer, execution_id: str, path: str = "", nodes: Several = [],  # noqa: B006
) -> dict[str, shapes.NodeFiles] | shapes.NothingYet:  # fmt: skip
    """The files of each node, without their folders; below the folder `path` alone, where one is named."""
    services = of(request)
    # Dashboards ask every few seconds: in the audit it is a read, and the download an entry of its own.
    row = services.gate.execution(who, Action.EXECUTIONS_READ, execution_id)
    if not decide(who, Action.EXECUTIONS_OUTPUTS, row):
        raise NotFound
    names, below = services.federation.names(), relative(path, "path")
    wanted = names.ids(nodes, retired=True)
    left = outputs(services.centre, row, wanted, known=services.manifests)
    if not left.files and not left.troubles and row.state == OPEN:
        return shapes.NothingYet(user_id=row.user, execution_id=row.id)
    here = [node for node in dict.fromkeys(run.node for run in services.centre.records.runs_of(row.id)) if not wanted or node in wanted]
    return {
        names.shown(node): shapes.NodeFiles(
            files=[name for name, file in flat(left.files, node).items() if not below or f"{file.path}/".startswith(f"{below}/")],
            problem=left.troubles.get(node),
        )
        for node in here
    }  # fmt: skip


@router.head("/data/download_files", include_in_schema=False)
@router.get("/data/download_files", response_class=Response, responses=BYTES)
def download_files(request: Request, who: Bearer, execution_id: str, node: str = "", file: str = "") -> Response:
    """A file of a node, under the name that list_files tells or its whole path; without `file`, all files as a zip, NODE/NAME each."""
    services = of(request)
    row = services.gate.execution(who, Action.EXECUTIONS_OUTPUTS, execution_id)
    names = services.federation.names()
    wanted = names.ids([node], retired=True)
    asked = relative(file, "file")
    left = outputs(services.centre, row, wanted)
    at = {here: flat(left.files, here) for here in dict.fromkeys(output.node for output in left.files)}
    if not asked:
        if not left.files:
            raise _missing(left, names, "nothing has come back yet" if row.state == OPEN else "nothing came back")
        files = [(f"{names.shown(here)}/{name}", output.file) for here, found in at.items() for name, output in found.items()]
        return send_zip(request, who, files, row.id)
    named = [(name, output) for found in at.values() for name, output in found.items()]
    found = [one for one in named if one[0] == asked] or [one for one in named if asked in (one[1].path, one[1].file.path)]
    if len(found) > 1:
        nodes = ", ".join(sorted({names.shown(output.node) for _, output in found}))
        raise BadRequest(
            f"{asked[:80]!r} is a file of several: {nodes}", remedy="say which: node=NODE, and the file as list_files tells it"
        )
    if not found:
        raise _missing(left, names, f"no file {asked[:80]!r} has come back", unknown(asked, [name for name, _ in named]))
    ((name, output),) = found
    return send(request, who, output.file, name)


def flat(files: Sequence[Output], node: str) -> dict[str, Output]:
    """Name -> file of the node: its path's last part, and where that is taken by one that was there before, more of its path."""
    found: dict[str, Output] = {}
    for output in files:
        if output.node != node:
            continue
        whole = output.path.replace("/", "_")
        name = next(name for name in (output.name, whole, f"{output.task}_{whole}", output.file.sha256) if name not in found)
        found[name] = output
    return found


def _missing(left: Left, names: Names, message: str, remedy: str = "") -> BadRequest:
    troubles = "; ".join(f"{names.shown(node)}: {trouble}" for node, trouble in left.troubles.items())
    return BadRequest(message, code="object-missing", remedy=troubles or remedy or "see list_files")


def _templates(services: Services) -> list[tuple[Tool, TaskTemplate]]:
    return [(tool, task) for tool in services.federation.tools() for task in tool.tasks]


def _tool(services: Services, name: str) -> Tool:
    """By its id, or by its name as people see it; BadRequest if there is none."""
    known = services.federation.tools()
    name = name.strip()
    for wanted in (name, node_id(name)):
        for tool in known:
            if wanted in (tool.name, tool.title):
                return tool
    ids = [tool.name for tool in known]
    raise BadRequest(f"tool {name[:80]!r} is unknown", code="unknown-tool", remedy=unknown(node_id(name), ids) or "there are none yet")


def _processes(services: Services, row: ExecutionRow, action: Literal["submit_run", "cancel_run"]) -> list[shapes.Process]:
    records, told = services.centre.records, shapes.Told(row, services.federation.names())
    return [told.process(run, attempt, action) for run, attempt in records.runs_and_attempts(row.id)]


def _lines(services: Services, runs: Sequence[RunRow], names: Names) -> Generator[bytes]:
    several = len({run.task for run in runs}) > 1
    before: Mapping[str, str] = {
        run.id: f"{names.shown(run.node)}{f' {run.task}' if several else ''} | " if len(runs) > 1 else "" for run in runs
    }
    for event in merged(services.centre.records.database, [(run.id, run.attempt) for run in runs]):
        start = before[str(event.run)]
        yield "".join(f"{start}{line}\n" for line in event.lines).encode(errors="replace")
