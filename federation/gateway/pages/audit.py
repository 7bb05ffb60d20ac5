"""The centre's audit log, the newest first, for those who may read it. Whether it is as it was written is for `fem audit verify` to say."""

from __future__ import annotations

from dataclasses import dataclass

from nicegui import ui

from fdn_worker.errors import MessageError
from fdn_worker.protocol.chain import read
from federation.gateway.access import Action, Caller
from federation.gateway.pages import shared
from federation.gateway.pages.frame import Visit
from federation.gateway.services import Services

#: Entries of a page.
ROWS = 100
COLUMNS = ("number", "at", "kind", "what")


@dataclass(frozen=True)
class Entries:
    """Some of them, the newest first; `first` is the number that they begin at, and `last` that of the newest there is."""

    rows: list[dict[str, object]]
    first: int
    last: int


async def log(visit: Visit) -> None:
    """The page."""
    table = shared.table("Audit log, newest first", COLUMNS, [], sortable=False, rows_at_most=ROWS)
    table.add_slot("no-data", "Nothing is in it yet.")
    until: int | None = None
    shown = Entries([], 0, 0)

    async def look() -> None:
        found = await visit.act(entries, until)
        if found is not None:
            show(found)

    def show(found: Entries) -> None:
        nonlocal shown
        shown = found
        table.rows = found.rows
        newer.set_enabled(until is not None)
        older.set_enabled(found.first > 1)
        where.text = f"{found.first} to {found.first + len(found.rows) - 1} of {found.last:,}" if found.rows else "0 entries"

    async def back() -> None:
        nonlocal until
        end = shown.first - 1 + ROWS * 2
        until = None if end >= shown.last else end
        await look()

    async def forward() -> None:
        nonlocal until
        until = shown.first - 1
        await look()

    with ui.row().classes("items-center"):
        newer = ui.button("Newer", icon="chevron_left", on_click=back).props("flat no-caps")
        where = ui.label().props('role="status"')
        older = ui.button("Older", on_click=forward).props("flat no-caps icon-right=chevron_right")
    show(await visit.ask(entries, until))


def entries(services: Services, who: Caller, until: int | None) -> Entries:
    """The page that ends with this number, or with the newest."""
    services.gate.allow(who, Action.AUDIT_READ)
    audit = services.centre.records.audit
    last = audit.head().number
    end = min(until or last, last)
    rows: list[dict[str, object]] = []
    for place, text in audit.lines(max(0, end - ROWS)):
        number = int(place.removeprefix("row "))
        if number > end:
            break
        rows.append({"id": number, "number": number} | _told(text))
    return Entries(rows[::-1], max(1, end - ROWS + 1), last)


def _told(text: str) -> dict[str, object]:
    try:
        line = read(text)
    except MessageError as error:
        return {"at": "", "kind": "damaged", "what": error.message}
    return {"at": shared.moment(line.at), "kind": line.kind, "what": line.said()}
