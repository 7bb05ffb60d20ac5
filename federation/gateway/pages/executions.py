"""The list of executions: filtered as one types, a page at a time; its address holds the filter."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from urllib.parse import urlencode

from nicegui import ui

from fdn_worker.protocol import State
from federation.gateway.access import Action, Caller
from federation.gateway.pages import shared
from federation.gateway.pages.frame import AT, Visit
from federation.gateway.queries import owner
from federation.gateway.services import Services
from storage.listing import Filter, Listed, Place, listed
from storage.rows import OPEN

#: Rows of a page, and seconds between two looks.
ROWS, EVERY = 50, 4.0
#: States of an execution: OPEN, and what it can end as.
STATES = (OPEN, *(str(state) for state in State if state.terminal), "DEGRADED")
COLUMNS = ("tool", "state", "succeeded", "user", "project", shared.BEGUN, "took", "execution")


@dataclass
class View:
    """What is looked at: the filter, and the places where the pages before this one ended."""

    wanted: Filter
    places: list[Place] = field(default_factory=list)

    @classmethod
    def of(cls, visit: Visit) -> View:
        """As the address says."""
        given = {one.name: visit.request.query_params.get(one.name, "") for one in fields(Filter)}
        return cls(Filter(**{**given, "since": _day(given["since"])}))  # type: ignore[arg-type]

    def address(self) -> str:
        """With the filter."""
        given = {name: f"{value:%Y-%m-%d}" if isinstance(value, datetime) else value for name, value in vars(self.wanted).items() if value}
        return f"{AT}/executions" + (f"?{urlencode(given)}" if given else "")


def page_of(services: Services, who: Caller, view: View) -> list[Listed]:
    """The page, and one more row where another page follows."""
    services.gate.allow(who, Action.EXECUTIONS_LIST)
    after = view.places[-1] if view.places else None
    return listed(services.centre.records.database, owner(who, Action.EXECUTIONS_LIST), view.wanted, ROWS + 1, after)


async def index(visit: Visit) -> None:
    """All executions that one may see."""
    view = View.of(visit)

    async def narrowed(**changes: object) -> None:
        view.wanted, view.places = replace(view.wanted, **changes), []  # type: ignore[arg-type]
        ui.navigate.history.replace(view.address())
        await look()

    _filters(view.wanted, narrowed)
    table = shared.table("Executions, newest first", COLUMNS, [], links={"tool": "to"}, sortable=False, rows_at_most=ROWS)
    table.add_slot("no-data", "No execution matches.")
    last: list[Listed] = []

    def show(found: list[Listed]) -> None:
        last[:] = found[:ROWS]
        table.rows = shared.marked([_row(one) for one in last])
        pager.show(len(view.places), more=len(found) > ROWS)

    async def forward() -> None:
        view.places.append(Place(last[-1].created, last[-1].id))
        await look()

    async def back() -> None:
        view.places.pop()
        await look()

    pager = shared.Pager(back, forward)
    look = await visit.live(EVERY, lambda services, who: page_of(services, who, view), show)


def _filters(wanted: Filter, narrowed: shared.Changed) -> None:
    with ui.row().classes("fem-filters"):
        shared.search("Tool or execution id", wanted.text, lambda text: narrowed(text=text))
        state = ui.select(
            {"": "any state", **{name: shared.words(name) for name in STATES}},
            value=wanted.state if wanted.state in STATES else "",
            label="State",
        )
        state.on_value_change(lambda event: narrowed(state=event.value))
        for name in ("user", "project", "node"):
            shared.search(name.capitalize(), getattr(wanted, name), lambda text, name=name: narrowed(**{name: text}))  # type: ignore[misc]
        since = ui.input("Since", value=f"{wanted.since:%Y-%m-%d}" if wanted.since else "").props("type=date stack-label")
        since.on_value_change(lambda event: narrowed(since=_day(event.value or "")))


def _row(one: Listed) -> dict[str, object]:
    done, total = one.runs.get("SUCCEEDED", 0), sum(one.runs.values())
    return {
        "id": one.id, "execution": one.id[:8], "tool": one.tool or "single task", "state": one.state, "succeeded": f"{done} of {total}",
        "user": one.user, "project": one.project, shared.BEGUN: shared.minute(one.created),
        "took": shared.lasted((one.closed - one.created).total_seconds()) if one.closed else "", "to": shared.at(f"/executions/{one.id}"),
    }  # fmt: skip


def _day(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return None
