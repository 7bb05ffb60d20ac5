"""What was used: the accounts by whom, what, where and when, as charts, as a table, and as CSV. The address holds what is asked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

import pandas as pd
from fastapi import APIRouter, Request, Response
from nicegui import ui
from starlette.datastructures import QueryParams

from federation.gateway.access import Action, Caller
from federation.gateway.pages import shared
from federation.gateway.pages.charts import Charts, bars, numbers, stacked
from federation.gateway.pages.frame import AT, Visit, note
from federation.gateway.queries import owner
from federation.gateway.services import Services, of
from federation.gateway.signing import Who
from federation.learning.figures import Cell, Figure
from storage.reports import KEYS, PERIODS, report, total

router = APIRouter(prefix=AT, include_in_schema=False)

#: Figure of a report -> what its chart is called, and its unit.
MEASURES = {
    "cpu_hours": ("Hours of processors", "CPU h"), "wall_hours": ("Hours of running tasks", "h"), "runs": ("Runs", "runs"),
    "failed": ("Failed attempts", "attempts"), "bytes_in": ("Read from the store", "bytes"), "bytes_out": ("Written to the store", "bytes"),
}  # fmt: skip
#: Of the table: rows, and columns after those that it is grouped by.
ROWS = 500
FIGURES = ("runs", "succeeded", "failed", "attempts", "cpu_hours", "wall_hours", "peak_memory", "bytes_in", "bytes_out")


@dataclass(frozen=True)
class Asked:
    """What is asked of the accounts; days are 2030-01-31 or empty, `until` is the last one."""

    by: str = "user"
    period: str = ""
    since: str = ""
    until: str = ""

    @classmethod
    def of(cls, given: QueryParams) -> Asked:
        """As an address says; what is unknown there is left out."""
        by, period = given.get("by", ""), given.get("period", "")
        days = {name: given.get(name, "") if day(given.get(name, "")) else "" for name in ("since", "until")}
        return cls(by if by in KEYS else "user", period if period in PERIODS else "", **days)

    def address(self, place: str) -> str:
        """With what is asked."""
        return f"{place}?{urlencode({name: value for name, value in vars(self).items() if value})}"


async def usage(visit: Visit) -> None:
    """The page."""
    asked = Asked.of(visit.request.query_params)

    async def changed(**changes: str) -> None:
        nonlocal asked
        asked = replace(asked, **changes)
        ui.navigate.history.replace(shared.at(asked.address("/accounting")))
        await look()

    with ui.row().classes("fem-filters"):
        by = ui.select({key: f"by {key}" for key in KEYS}, value=asked.by, label="Who or what")
        by.on_value_change(lambda event: changed(by=event.value))
        period = ui.select({"": "in all", **{name: f"each {name}" for name in PERIODS}}, value=asked.period, label="When")
        period.on_value_change(lambda event: changed(period=event.value))
        since = ui.input("From", value=asked.since).props("type=date stack-label")
        since.on_value_change(lambda event: changed(since=event.value or ""))
        until = ui.input("Until", value=asked.until).props("type=date stack-label")
        until.on_value_change(lambda event: changed(until=event.value or ""))
    summary = ui.column().classes("full-width")
    charts = Charts()
    place = ui.column().classes("full-width fem-body")

    async def look() -> None:
        frame = await visit.act(used, asked)
        if frame is not None:
            show(frame)

    def show(frame: pd.DataFrame) -> None:
        charts.show(figures(frame, asked) if len(frame) else [])
        summary.clear()
        place.clear()
        with summary:
            if frame.empty:
                note("empty", "Nothing was used then.", "Accounts are of attempts that have ended.")
                return
            _total(total(frame))
        with place:
            shared.heading("Table")
            if len(frame) > ROWS:
                note("info", f"The latest {ROWS} of {len(frame):,} rows; the CSV has them all.")
            numbers("Usage", *_table(frame))
            shared.file("Download as CSV", asked.address("/accounting/csv"))

    show(await visit.ask(used, asked))


def used(services: Services, who: Caller, asked: Asked) -> pd.DataFrame:
    """The report; of what the caller may see alone."""
    services.gate.allow(who, Action.REPORTS_READ)
    last = day(asked.until)
    return report(
        services.centre.records, (asked.by,), period=asked.period or None, since=day(asked.since), until=last + timedelta(days=1) if last else None,
        of=owner(who, Action.REPORTS_READ),
    )  # fmt: skip


def figures(frame: pd.DataFrame, asked: Asked) -> list[Figure]:
    """A chart for each measure of which there is any."""
    found = []
    # What has no project, say.
    frame = frame.assign(**{asked.by: frame[asked.by].replace("", "none")})
    for measure, (title, unit) in MEASURES.items():
        if not frame[measure].any():
            continue
        if asked.period:
            wide = frame.pivot_table(index="period", columns=asked.by, values=measure, aggfunc="sum", fill_value=0)
            wide = wide.reindex(
                pd.period_range(wide.index.min(), wide.index.max(), freq=_FREQUENCY[asked.period]).to_timestamp(), fill_value=0
            )
            across = [f"{at:%Y-%m}" if asked.period == "month" else f"{at:%Y-%m-%d}" for at in wide.index]
            parts = {str(name): [float(value) for value in wide[name]] for name in wide.columns}
            found.append(stacked(f"{title} each {asked.period}", across, parts, up=unit))
        else:
            values = {str(name): float(value) for name, value in zip(frame[asked.by], frame[measure], strict=True)}
            found.append(bars(f"{title} by {asked.by}", values, up=unit))
    return found


#: Weeks begin on Monday.
_FREQUENCY = {"day": "D", "week": "W-SUN", "month": "M"}


def _total(of_all: dict[str, Any]) -> None:
    shared.facts({
        "Runs": f"{of_all['runs']:,}", "Succeeded": f"{of_all['succeeded']:,}", "Failed": f"{of_all['failed']:,}",
        "Processors": f"{of_all['cpu_hours']:,.2f} h", "Running": f"{of_all['wall_hours']:,.2f} h",
        "Largest memory": shared.size(of_all["peak_memory"]), "Read": shared.size(of_all["bytes_in"]), "Written": shared.size(of_all["bytes_out"]),
    })  # fmt: skip


def _table(frame: pd.DataFrame) -> tuple[list[str], list[list[Cell]]]:
    keys = [name for name in frame.columns if name in ("period", *KEYS)]
    shown = frame[[*keys, *FIGURES]].tail(ROWS).copy()
    if "period" in keys:
        shown["period"] = shown["period"].dt.strftime("%Y-%m-%d")
    rows: list[list[Cell]] = shown.astype(object).values.tolist()
    return [name.replace("_", " ") for name in shown.columns], rows


def day(text: str) -> datetime | None:
    """The beginning of a day, UTC; None where the text is none."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        return None


@router.get("/accounting/csv")
def export(request: Request, who: Who) -> Response:
    """The whole table. A cell that a spreadsheet would take for a formula begins with a quotation mark."""
    frame = used(of(request), who, Asked.of(request.query_params))
    for name in KEYS:
        if name in frame:
            frame[name] = frame[name].map(lambda text: f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text)
    headers = {
        "Content-Disposition": 'attachment; filename="usage.csv"',
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-store",
    }
    return Response(frame.to_csv(index=False), media_type="text/csv; charset=utf-8", headers=headers)
