"""The timeline of an execution: a bar for each run, a part for each stage, drawn by ECharts as stacked bars."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from nicegui import ui

from fdn_worker.protocol import State
from federation.gateway.pages.shared import lasted, words

#: Stage -> colour: legible on white and on black.
COLOURS = {
    State.QUEUED: "#9aa0a6", State.ACCEPTED: "#7b8794", State.STAGING_IN: "#4f9bd9", State.RUNNING: "#1b7fb5",
    State.STAGING_OUT: "#2aa198", State.AWAITING_RELEASE: "#a26bd1",
}  # fmt: skip
#: Bars that are drawn; of more, those that took longest. Pixels of one, and around them.
MOST, ROW, AROUND = 60, 26, 90
#: Letters of a name.
LETTERS = 22


@dataclass(frozen=True)
class Part:
    """A stage of a run, in seconds."""

    state: str
    seconds: float


@dataclass(frozen=True)
class Bar:
    """A run: seconds from the submission to its order, and its stages."""

    node: str
    task: str
    state: str
    begin: float
    parts: tuple[Part, ...]

    @property
    def seconds(self) -> float:
        """From its begin to its end, or until now."""
        return sum(part.seconds for part in self.parts)


@dataclass(frozen=True)
class Chart:
    """What is on the page; `show` draws these bars."""

    show: Callable[[Sequence[Bar]], None]


def gantt() -> Chart:
    """An empty chart."""
    said = ui.label().classes("fem-soft").props('role="status"')
    chart = ui.echart(options([])).classes("full-width")

    def show(bars: Sequence[Bar]) -> None:
        # From the first order on: before, the flow run had yet to begin.
        origin = min((bar.begin for bar in bars), default=0.0)
        slowest = sorted(bars, key=lambda bar: -bar.seconds)[:MOST]
        drawn = [replace(bar, begin=round(bar.begin - origin, 1)) for bar in sorted(slowest, key=lambda bar: (bar.task, bar.node))]
        said.text = _said(bars, origin)
        chart.set_visibility(bool(drawn))
        chart.style(f"height: {AROUND + ROW * len(drawn)}px")
        chart.options.clear()
        chart.options.update(options(drawn))

    return Chart(show)


def _said(bars: Sequence[Bar], origin: float) -> str:
    if not bars:
        return "Nothing was sent yet."
    longest = max(bars, key=lambda bar: bar.seconds)
    few = f"; the {MOST} that took longest are drawn" if len(bars) > MOST else ""
    late = f"; the first was sent {lasted(origin)} after the submission" if origin >= 1 else ""
    return f"{len(bars)} run{'s' * (len(bars) != 1)}, {longest.node} longest: {lasted(longest.seconds)}{late}{few}."


def options(bars: Sequence[Bar]) -> dict[str, Any]:
    """Of ECharts: one series a stage, after an unseen one up to each bar's begin."""
    several = len({bar.task for bar in bars}) > 1
    names = [_short(f"{bar.node} / {bar.task}" if several else bar.node) for bar in bars]
    stages = [state for state in COLOURS if any(part.state == state for bar in bars for part in bar.parts)]
    text = {"color": "#7c8891", "fontSize": 12}
    unseen = {
        "type": "bar",
        "stack": "all",
        "data": [bar.begin for bar in bars],
        "itemStyle": {"color": "transparent"},
        "silent": True,
        "tooltip": {"show": False},
    }
    return {
        "animation": False, "aria": {"enabled": True, "label": {"description": "Timeline of the runs; the table below says how each stands."}},
        "grid": {"left": 8, "right": 16, "top": 34, "bottom": 26, "containLabel": True},
        "legend": {"top": 0, "left": 0, "type": "scroll", "data": [words(state) for state in stages], "textStyle": text, "itemWidth": 14},
        "tooltip": {"trigger": "item", ":valueFormatter": "value => value + ' s'"},
        "xAxis": {"type": "value", "axisLabel": text | {"formatter": "{value} s"}, "splitLine": {"lineStyle": {"color": "rgba(127,127,127,.25)"}}},
        "yAxis": {"type": "category", "inverse": True, "data": names, "axisLabel": text, "axisTick": {"show": False}},
        "series": [unseen, *(_series(state, bars) for state in stages)],
    }  # fmt: skip


def _series(state: State, bars: Sequence[Bar]) -> dict[str, Any]:
    seconds = [round(sum(part.seconds for part in bar.parts if part.state == state), 1) for bar in bars]
    return {"type": "bar", "name": words(state), "stack": "all", "data": seconds, "itemStyle": {"color": COLOURS[state]}, "barMaxWidth": 18}


def _short(name: str) -> str:
    return name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"
