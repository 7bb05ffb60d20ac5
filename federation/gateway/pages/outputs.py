"""What an execution left, to look at and to download. What a site sent is never a part of a page of ours: it is text, a table of
texts, a picture, or a document of its own in a sandbox without scripts, without the cookie, and without the network.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Generator
from contextlib import nullcontext
from urllib.parse import urlencode

from fastapi import APIRouter, Request, Response
from nicegui import ui

from federation.gateway.access import Action, Caller, decide
from federation.gateway.errors import NotFound, TooLarge
from federation.gateway.files import Left, Output, Sending, outputs, send, send_zip
from federation.gateway.pages import shared
from federation.gateway.pages.frame import AT, Visit, note
from federation.gateway.services import Services, of
from federation.gateway.signing import Who
from federation.results import ManifestDiffers
from storage.log_lines import merged
from storage.records import OPEN, ExecutionRow

router = APIRouter(prefix=AT, include_in_schema=False)

#: Files that are listed, bytes of a text, rows of a table, and bytes of a picture or document that are shown.
MOST, TEXT, ROWS, WHOLE = 500, 256 * 1024, 200, 16 * 1024**2
PICTURES = {"png": "image/png", "jpg": "image/jpeg", "jpeg": "image/jpeg", "gif": "image/gif", "webp": "image/webp", "svg": "image/svg+xml"}
DOCUMENTS = {"html": "text/html; charset=utf-8", "htm": "text/html; charset=utf-8"}
TABLES = {"csv": ",", "tsv": "\t"}
#: An origin of its own, no scripts, nothing from anywhere; framed by our pages alone.
SANDBOX = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; font-src data:; frame-ancestors 'self'"


async def show(visit: Visit, place: ui.column, row: ExecutionRow) -> None:
    """List them in this place."""
    if not decide(visit.who, Action.EXECUTIONS_OUTPUTS, row):
        place.clear()
        with place:
            note("info", "Outputs are for whoever submitted it, and the members of its project.")
        return
    left = await visit.act(left_by, row.id)
    place.clear()
    if left is None:
        return
    with place:
        for node, trouble in left.troubles.items():
            note("error", f"{node}: {trouble}.")
        if not left.files:
            note("empty", "Nothing has come back yet." if row.state == OPEN else "Nothing came back.")
            return
        if len(left.files) > 1:
            shared.file(f"Download all {len(left.files)} as a zip", f"/executions/{row.id}/zip")
        if len(left.files) > MOST:
            note("info", f"The first {MOST} are listed; the zip has them all.")
        _list(visit, row, left.files[:MOST])


def left_by(services: Services, who: Caller, id_: str) -> Left:
    """What is there now."""
    return outputs(services.centre, services.gate.execution(who, Action.EXECUTIONS_OUTPUTS, id_))


def _list(visit: Visit, row: ExecutionRow, files: list[Output]) -> None:
    rows = [
        {"id": number, "file": file.path, "node": file.node, "task": file.task, "size": shared.size(file.file.size),
         "to": _address(row.id, file, "file")}
        for number, file in enumerate(files)
    ]  # fmt: skip
    table = shared.table("Outputs", ("file", "node", "task", "size", "open"), rows, rows_at_most=MOST)
    table.add_slot(
        "body-cell-open",
        """<q-td :props="props"><q-btn flat dense no-caps color="primary" label="Look" :aria-label="'Look at ' + props.row.file + ' of ' + props.row.node"
        @click="$parent.$emit('look', props.row.id)" /> <a class="nicegui-link q-ml-sm" download :href="props.row.to"
        :aria-label="'Download ' + props.row.file + ' of ' + props.row.node">Download</a></q-td>""",
    )
    table.on("look", lambda event: _look(visit, row, files[int(event.args)]))


async def _look(visit: Visit, row: ExecutionRow, file: Output) -> None:
    kind = file.name.rpartition(".")[2].lower()
    shown = kind in PICTURES or kind in DOCUMENTS
    text = "" if shown else await visit.act(read, row.id, file)
    if text is None:
        return
    with ui.dialog().props("maximized") as dialog, ui.card().classes("fem-look"):
        with ui.row().classes("items-center justify-between no-wrap full-width"):
            ui.label(f"{file.path} of {file.node}").classes("fem-card-name").props('role="heading" aria-level="2"')
            ui.button(icon="close", color=None, on_click=dialog.close).props('flat round aria-label="Close"')
        if shown and file.file.size > WHOLE:
            note("info", f"It has {shared.size(file.file.size)}: download it to look at it.")
        elif kind in PICTURES:
            ui.element("img").classes("fem-picture").props.update(src=_address(row.id, file, "look"), alt=file.name)
        elif kind in DOCUMENTS:
            frame = ui.element("iframe").classes("fem-document")
            frame.props.update(sandbox="", src=_address(row.id, file, "look"), title=f"{file.name} of {file.node}")
        else:
            _text(kind, text, file)
    dialog.on("hide", dialog.delete)
    dialog.open()


def _text(kind: str, text: str, file: Output) -> None:
    if file.file.size > TEXT:
        note("info", f"The first {shared.size(TEXT)} of {shared.size(file.file.size)}.")
    if "\0" in text:
        note("info", "It is no text: download it.")
    elif kind in TABLES:
        _table(list(csv.reader(io.StringIO(text), delimiter=TABLES[kind])), file)
    else:
        with ui.element("pre").classes("fem-text").props('tabindex="0" aria-label="Content"'):
            ui.label(text)


def _table(lines: list[list[str]], file: Output) -> None:
    if not lines:
        note("empty", "It is empty.")
        return
    head, body = lines[0], lines[1 : ROWS + 1]
    if len(lines) > ROWS + 1:
        note("info", f"The first {ROWS} rows.")
    columns = [{"name": f"c{n}", "label": name, "field": f"c{n}", "align": "left"} for n, name in enumerate(head)]
    rows = [{"id": number} | {f"c{n}": cell for n, cell in enumerate(line)} for number, line in enumerate(body)]
    with ui.element("div").classes("fem-wide") as place:
        place.props.update({"tabindex": 0, "role": "region", "aria-label": f"Content of {file.name}"})
        ui.table(columns=columns, rows=rows, row_key="id", pagination=ROWS).classes("full-width").props("flat dense hide-pagination")


def read(services: Services, who: Caller, id_: str, file: Output) -> str:
    """The beginning of a file as text."""
    services.gate.execution(who, Action.EXECUTIONS_OUTPUTS, id_)
    return b"".join(services.centre.store.get(file.file.key, length=min(TEXT, file.file.size))).decode(errors="replace")


def _address(id_: str, file: Output, what: str) -> str:
    return shared.at(f"/executions/{id_}/{what}?{urlencode({'task': file.task, 'node': file.node, 'path': file.path})}")


def _found(request: Request, who: Caller, id_: str, task: str, node: str, path: str) -> Output:
    """The file of these names, as the manifest has them: no path of the address reaches store or disk."""
    services = of(request)
    row = services.gate.execution(who, Action.EXECUTIONS_OUTPUTS, id_)
    for file in outputs(services.centre, row, [node]).files:
        if (file.task, file.path) == (task, path):
            return file
    raise NotFound


@router.get("/executions/{id_}/file")
def download(request: Request, who: Who, id_: str, task: str = "", node: str = "", path: str = "") -> Response:
    """A file, with ranges."""
    file = _found(request, who, id_, task, node, path)
    return send(request, who, file.file, file.name)


@router.get("/executions/{id_}/zip")
def everything(request: Request, who: Who, id_: str) -> Response:
    """All files, NODE/TASK/PATH each."""
    left = left_by(of(request), who, id_)
    return send_zip(request, who, [(f"{file.node}/{file.task}/{file.path}", file.file) for file in left.files], id_)


@router.get("/executions/{id_}/look")
def look_at(request: Request, who: Who, id_: str, task: str = "", node: str = "", path: str = "") -> Response:
    """A picture or a document, for the frame that shows it."""
    file = _found(request, who, id_, task, node, path)
    kind = (PICTURES | DOCUMENTS).get(file.name.rpartition(".")[2].lower())
    if kind is None:
        raise NotFound
    if file.file.size > WHOLE:
        raise TooLarge(f"{file.name} is larger than {WHOLE:,} bytes", remedy="download it")
    data = b"".join(of(request).centre.store.get(file.file.key))
    if hashlib.sha256(data).hexdigest() != file.file.sha256:
        raise ManifestDiffers(f"{file.path} of {file.node} is not what its manifest lists")
    return Response(data, media_type=kind, headers={"Content-Security-Policy": SANDBOX, "Cache-Control": "private, no-store"})


@router.get("/executions/{id_}/log")
def log(request: Request, who: Who, id_: str) -> Response:
    """All log lines by time, as a text."""
    services = of(request)
    row = services.gate.execution(who, Action.EXECUTIONS_LOGS, id_)
    runs = services.centre.records.runs_of(row.id)
    names = {run.id: f"{run.node} {run.task} | " if len(runs) > 1 else "" for run in runs}

    def lines() -> Generator[bytes]:
        for event in merged(services.centre.records.database, [(run.id, run.attempt) for run in runs]):
            yield "".join(f"{names[str(event.run)]}{line}\n" for line in event.lines).encode(errors="replace")

    headers = {"Content-Disposition": f'attachment; filename="{row.id}.log"', "X-Content-Type-Options": "nosniff"}
    return Sending(lines(), 200, headers, "text/plain; charset=utf-8", held=nullcontext(), patience=services.settings.patience)
