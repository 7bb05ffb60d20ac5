"""The list of sessions of federated learning: filtered, a page at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import get_args

from nicegui import ui

from federation.gateway.access import Caller
from federation.gateway.pages import shared
from federation.gateway.pages.frame import Visit
from federation.gateway.services import Services
from federation.gateway.sessions import sessions
from storage.learning_rows import SessionRow, SessionState

#: Rows of a page, and seconds between two looks.
ROWS, EVERY = 50, 4.0
COLUMNS = ("name", "state", "round", "user", "project", "begun", "took", "session")
STATES: tuple[SessionState, ...] = get_args(SessionState)


@dataclass
class View:
    """What is looked at, and when the last session of each page before this one was created."""

    state: SessionState | None = None
    user: str = ""
    ends: list[datetime] = field(default_factory=list)


async def index(visit: Visit) -> None:
    """All sessions that one may see."""
    view = View()

    async def by_state(name: SessionState | None) -> None:
        view.state, view.ends = name, []
        await look()

    async def by_user(name: str) -> None:
        view.user, view.ends = name.strip(), []
        await look()

    with ui.row().classes("fem-filters"):
        state = ui.select({None: "any state", **{name: shared.words(name) for name in STATES}}, value=None, label="State")
        state.on_value_change(lambda event: by_state(event.value))
        shared.search("User", "", by_user)
    table = shared.table("Sessions, newest first", COLUMNS, [], links={"name": "to"}, sortable=False, rows_at_most=ROWS)
    table.add_slot("no-data", "No session yet. One begins with: fem learn FILE")
    last: list[SessionRow] = []

    def show(found: list[SessionRow]) -> None:
        last[:] = found[:ROWS]
        table.rows = shared.marked([_row(one) for one in last])
        pager.show(len(view.ends), more=len(found) > ROWS)

    async def forward() -> None:
        view.ends.append(last[-1].created)
        await look()

    async def back() -> None:
        view.ends.pop()
        await look()

    pager = shared.Pager(back, forward)
    look = await visit.live(EVERY, lambda services, who: page_of(services, who, view), show)


def page_of(services: Services, who: Caller, view: View) -> list[SessionRow]:
    """The page, and one more row where another page follows."""
    return sessions(services, who, ROWS + 1, state=view.state, user=view.user or None, before=view.ends[-1] if view.ends else None)


def planned(row: SessionRow) -> str:
    """How far it is, of how many rounds it is to have."""
    rounds = json.loads(row.configuration).get("rounds")
    return f"{row.round} of {rounds}" if rounds else str(row.round)


def _row(one: SessionRow) -> dict[str, object]:
    return {
        "id": one.id, "session": one.id[:8], "name": one.name, "state": one.state, "round": planned(one), "user": one.user, "project": one.project,
        "begun": shared.moment(one.created), "took": shared.lasted((one.ended - one.created).total_seconds()) if one.ended else "",
        "to": shared.at(f"/learning/{one.id}"),
    }  # fmt: skip
