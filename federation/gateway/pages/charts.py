"""Figures on a page: drawn by plotly, with the numbers below as a table. A figure that comes again takes the place of the former one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from federation.learning.figures import Cell, Figure, figure_layout, plain

#: Legible on white and on black.
COLOURS = ("#2b7fd4", "#d9772b", "#3d9970", "#a26bd1", "#d64545", "#8a8f98", "#b98a2f", "#2aa198")
#: What was asked for is drawn, and no tools around it; on a phone it is as wide as that.
_CONFIG = {"displayModeBar": False, "responsive": True}
_GRID = {"gridcolor": "rgba(127,127,127,.25)", "linecolor": "rgba(127,127,127,.5)"}
#: Rows of a table of numbers, and bars of a chart.
MOST_ROWS, MOST_BARS = 500, 30


class Charts:
    """A place for figures, in their order."""

    def __init__(self, *, wide: bool = False) -> None:
        self._place = ui.element("div").classes("full-width" if wide else "fem-charts")
        self._drawn: dict[str, _Chart] = {}

    def show(self, figures: Sequence[Figure]) -> None:
        """Draw these. Where they have the titles of those that stand, these are brought up to date."""
        if [one.title for one in figures] != list(self._drawn):
            self._place.clear()
            with self._place:
                self._drawn = {one.title: _Chart(one) for one in figures}
            return
        for one in figures:
            self._drawn[one.title].show(one)


class _Chart:
    def __init__(self, figure: Figure) -> None:
        self._figure = figure
        with ui.column().classes("fem-card fem-chart"):
            ui.label(figure.title).classes("fem-chart-name").props('role="heading" aria-level="3"')
            self._plot = ui.plotly(_drawn(figure)).classes("full-width").props('role="img"')
            self._plot.props["aria-label"] = figure.description
            self._numbers = ui.expansion("The numbers").classes("full-width")
            # Many hundreds of rows each, which hardly anybody opens.
            self._numbers.on_value_change(self._tell)

    def show(self, figure: Figure) -> None:
        if figure == self._figure:
            return
        self._figure = figure
        self._plot.props["aria-label"] = figure.description
        self._plot.update_figure(_drawn(figure))
        self._tell()

    def _tell(self) -> None:
        self._numbers.clear()
        if self._numbers.value:
            with self._numbers:
                ui.label(self._figure.description)
                numbers(self._figure.title, self._figure.header, self._figure.rows)


def numbers(label: str, header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
    """A table of numbers, in four digits; the latest MOST_ROWS. What is wider than the page is scrolled, by keyboard, too."""
    columns = [
        {
            "name": f"c{n}", "label": name, "field": f"c{n}", "sortable": True, "align": "left" if rows and isinstance(rows[-1][n], str) else "right",
            ":format": "value => typeof value === 'number' && !Number.isInteger(value) ? +value.toPrecision(4) : value",
        } for n, name in enumerate(header)
    ]  # fmt: skip
    data = [{"id": number} | {f"c{n}": cell for n, cell in enumerate(row)} for number, row in enumerate(rows[-MOST_ROWS:])]
    with ui.element("div").classes("fem-wide") as place:
        place.props.update({"tabindex": 0, "role": "region", "aria-label": label})
        ui.table(columns=columns, rows=data, row_key="id", pagination=MOST_ROWS).props("flat dense hide-pagination")


def _drawn(figure: Figure) -> dict[str, Any]:
    layout = figure.layout | {"paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)"}
    layout |= {axis: _GRID | layout.get(axis, {}) for axis in ("xaxis", "yaxis")}
    return {"data": figure.data, "layout": layout, "config": _CONFIG}


Points = tuple[Sequence[Any], Sequence[float | None]]


def lines(title: str, series: Mapping[str, Points], *, across: str, up: str) -> Figure:
    """A line for each series of (x, y)."""
    data, rows = [], list[list[Cell]]()
    for number, (name, (x, y)) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        data.append({
            "type": "scatter", "mode": "lines+markers" if len(x) <= 40 else "lines", "name": plain(name or up), "x": list(x), "y": list(y),
            "line": {"color": colour, "dash": ("solid", "dash", "dot", "dashdot")[number // len(COLOURS) % 4]},
        })  # fmt: skip
        rows += [[name, at, "" if value is None else value] for at, value in zip(x, y, strict=True)]
    ends = {name: next((value for value in reversed(y) if value is not None), None) for name, (_, y) in series.items()}
    layout = figure_layout(across, up, **({"numbered": max((len(x) for x, _ in series.values()), default=0)} if across == "round" else {}))
    said = ", ".join(f"{name or up} {value:.4g}" for name, value in ends.items() if value is not None)
    return Figure(title, f"{title}, at the end: {said or 'nothing'}.", data, layout, ["", across, up], rows)


def bars(title: str, values: Mapping[str, float], *, up: str) -> Figure:
    """A bar for each, the longest on top; of many the longest."""
    longest = sorted(values.items(), key=lambda pair: -pair[1])
    names, sizes = [name for name, _ in longest[:MOST_BARS]], [value for _, value in longest[:MOST_BARS]]
    layout = figure_layout(up, "") | {"height": 110 + 24 * max(1, len(names))}
    layout["yaxis"] = {"type": "category", "autorange": "reversed", "automargin": True, "showgrid": False, "tickvals": names,
                       "ticktext": [plain(name if len(name) <= 22 else name[:21] + "…") for name in names]}  # fmt: skip
    data = [
        {
            "type": "bar",
            "orientation": "h",
            "y": names,
            "x": sizes,
            "marker": {"color": COLOURS[0]},
            "hovertemplate": "%{x:.4g}<extra></extra>",
        }
    ]
    said = f"{names[0]} has most, {sizes[0]:.4g} of {sum(values.values()):.4g}" if names else "nothing"
    few = f"; the {MOST_BARS} longest of {len(values)} are drawn" if len(values) > MOST_BARS else ""
    return Figure(title, f"{title}: {said}{few}.", data, layout, ["", up], [[name, value] for name, value in longest])


def stacked(title: str, across: Sequence[str], series: Mapping[str, Sequence[float]], *, up: str) -> Figure:
    """Columns over time, a part for each series; beyond the colours there are, the rest is one."""
    longest = sorted(series, key=lambda name: -sum(series[name]))
    parts = {name: list(series[name]) for name in longest[: len(COLOURS) - 1]}
    if rest := longest[len(COLOURS) - 1 :]:
        parts[f"{len(rest)} others"] = [sum(series[name][at] for name in rest) for at in range(len(across))]
    data = [
        {"type": "bar", "name": plain(name or up), "x": list(across), "y": values, "marker": {"color": COLOURS[number]},
         "hovertemplate": f"{plain(name)} %{{y:.4g}}<extra></extra>"}
        for number, (name, values) in enumerate(parts.items())
    ]  # fmt: skip
    # One series has its name there, too.
    layout = figure_layout("", up) | {"barmode": "stack", "showlegend": True}
    layout["xaxis"] |= {"type": "category"}
    rows: list[list[Cell]] = [[at, *(parts[name][number] for name in parts)] for number, at in enumerate(across)]
    total = sum(map(sum, series.values()))
    return Figure(title, f"{title}: {total:.4g} in {len(across)} periods.", data, layout, ["period", *parts], rows)
