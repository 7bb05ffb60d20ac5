"""Results of simulations: the list; and one with its plots, its devices, and its variants beside each other."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from nicegui import ui

from federation.gateway.pages import shared
from federation.gateway.pages.charts import Charts, bars, lines, numbers
from federation.gateway.pages.frame import Visit, note
from federation.gateway.simulations import simulation, simulations
from federation.learning.figures import Cell, Figure
from federation.simulation.report import BY_ROUND
from federation.simulation.results import Results

#: Rows of the list; devices that have a bar each.
MOST = 500
#: Columns of the comparison, in its order.
SUMMARY = (
    "variant", "repetitions", "rounds", "metric", "metric_std", "best_metric", "loss", "time", "energy", "network", "answered", "fairness",
)  # fmt: skip


async def index(visit: Visit) -> None:
    """All that there are."""
    found = await visit.ask(simulations)
    if not found:
        note(
            "empty",
            "There are no results to look at.",
            "fem simulate FILE -o FOLDER/NAME writes some; simulations = FOLDER in [serve] shows them here.",
        )
        return
    rows = [
        {"id": one.name, "name": one.name, "written": shared.moment(one.at), "to": shared.at(f"/simulations/{one.name}")} for one in found[:MOST]
    ]  # fmt: skip
    shared.table("Simulations, newest first", ("name", "written"), rows, links={"name": "to"}, rows_at_most=MOST)


async def one(visit: Visit) -> None:
    """One of them."""
    results = await visit.ask(simulation, visit.request.path_params["simulation"])
    visit.named(results.name)
    shared.heading("Variants" if len(results.variants) > 1 else "Outcome")
    numbers("Comparison of the variants", *_comparison(results))
    shared.heading("Configuration")
    numbers("What is not as by default", *configurations(results))
    shared.heading("Rounds")
    choices = {name: name or results.name for name in results.variants}
    chosen = ui.select(choices, value=results.variants, label="Variants to compare", multiple=True).props("use-chips outlined")
    chosen.set_visibility(len(choices) > 1)
    charts = Charts()
    shared.heading("Devices")
    devices = Charts()

    def show() -> None:
        wanted = [name for name in results.variants if name in chosen.value]
        charts.show(by_round(results, wanted))
        devices.show(by_device(results, wanted))

    chosen.on_value_change(show)
    show()


def by_round(results: Results, variants: Sequence[str]) -> list[Figure]:
    """A figure for each of the report's plots: means over the repetitions, a line a variant."""
    if not variants:
        return []
    frames = {
        name: results.rounds[results.rounds["variant"] == name].groupby("round").mean(numeric_only=True) for name in variants
    }  # fmt: skip
    found = [
        lines(caption, {name: (frame.index.tolist(), _values(frame[column])) for name, frame in frames.items()}, across="round", up=unit)
        for column, (caption, unit) in BY_ROUND.items()
    ]
    over_time = {name: (_values(frame["clock"]), _values(frame["metric"])) for name, frame in frames.items()}
    return [*found, lines("Metric over simulated time", over_time, across="s", up="metric")]


def by_device(results: Results, variants: Sequence[str]) -> list[Figure]:
    """How often each device was selected, those that were most often on top."""
    found = []
    for name in variants:
        frame = results.devices[results.devices["variant"] == name]
        values = {f"device {number}": float(value) for number, value in zip(frame["device"], frame["selected"], strict=True)}
        found.append(bars("How often devices were selected" + (f": {name}" if name else ""), values, up="times"))
    return found


def configurations(results: Results) -> tuple[list[str], list[list[Cell]]]:
    """A row for each setting that some variant changes, a column a variant; first those that they differ in."""
    settings = sorted({key for one in results.configurations.values() for key in one})
    rows: list[list[Cell]] = [[key, *(_told(one.get(key)) for one in results.configurations.values())] for key in settings]
    rows.sort(key=lambda row: len(set(row[1:])) == 1)
    return ["setting", *(name or "value" for name in results.variants)], rows


def _comparison(results: Results) -> tuple[list[str], list[list[Cell]]]:
    names = [name for name in SUMMARY if name in results.summary and not (name == "variant" and len(results.variants) == 1)]
    rows: list[list[Cell]] = results.summary[names].astype(object).where(results.summary[names].notna(), "").values.tolist()
    return [name.replace("_", " ") for name in names], rows


def _values(column: pd.Series) -> list[float | None]:
    """JSON knows no NaN."""
    return [None if pd.isna(value) else float(value) for value in column]


def _told(value: object) -> Cell:
    return "by default" if value is None else value if isinstance(value, int | float) and not isinstance(value, bool) else str(value)
