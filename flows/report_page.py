"""A report as one HTML page with charts, which opens without a network, in light and dark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pandas as pd
from jinja2 import Environment

from flows.report import human
from flows.report_charts import Chart, Row, bars, columns
from storage.reports import FIGURES, total

#: Bars of a chart before the rest is put together, columns over time, rows of the table.
MOST_BARS, MOST_COLUMNS, MOST_ROWS = 12, 370, 5_000
#: Steps of pandas from one period to the next.
STEPS = {"day": "D", "week": "7D", "month": "MS"}
#: What an attempt can have come to: class of the style sheet -> the columns that are added up.
OUTCOMES = {"succeeded": ["succeeded"], "failed": ["failed"], "other": ["cancelled", "lost", "rejected"]}
#: For a group without a name, such as attempts of no project.
NONE = "(none)"


def hours(value: float) -> str:
    """As many digits as tell something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}" if value >= 10 else f"{value:.2g}"


def duration(value: float) -> str:
    """Hours as people say them."""
    seconds = value * 3600
    return f"{seconds:.1f} s" if seconds < 60 else f"{seconds / 60:.1f} min" if seconds < 3600 else f"{value:,.1f} h"


#: Columns of the tables for people -> (heading, how it is written).
SHOWN: Mapping[str, tuple[str, Callable[[Any], str]]] = {
    "runs": ("runs", "{:,}".format), "attempts": ("attempts", "{:,}".format), "succeeded": ("succeeded", "{:,}".format),
    "failed": ("failed", "{:,}".format), "other": ("other", "{:,}".format), "cpu_hours": ("CPU time", duration),
    "wall_hours": ("run time", duration), "peak_memory": ("memory", human), "bytes_in": ("in", human), "bytes_out": ("out", human),
}  # fmt: skip

TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 16%, transparent); --soft: color-mix(in srgb, currentColor 64%, transparent);
  --succeeded: light-dark(#2f7d95, #57aac4); --failed: light-dark(#c8553d, #e8836d); --other: light-dark(#a4adb3, #737d84) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2.5rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin-bottom: .3rem } h2 { font-size: 1.15rem; margin: 2.6rem 0 .6rem } p { color: var(--soft); margin: 0 0 .8rem }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: 1rem; margin: 1.6rem 0 }
dl div { border-top: 2px solid var(--line); padding-top: .4rem }
dt { color: var(--soft); font-size: .85rem } dd { margin: 0; font-size: 1.5rem; font-weight: 600 }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(21rem, 1fr)); gap: 1.6rem 2.5rem }
figure { margin: 0 } figure.long { grid-column: 1 / -1 }
figcaption { font-weight: 600; margin-bottom: .4rem } figcaption small { font-weight: 400; color: var(--soft); margin-left: .9em } i { font-style: normal }
i::before { content: ""; display: inline-block; width: .7em; height: .7em; border-radius: 2px; margin-right: .4em; background: var(--kind) }
svg { width: 100%; height: auto; display: block; overflow: visible } text { fill: currentColor; font-size: 12px } .soft { fill: var(--soft) }
.end { text-anchor: end } .middle { text-anchor: middle } line { stroke: var(--line) } rect { fill: var(--kind) } g:hover > rect { opacity: .7 }
.succeeded { --kind: var(--succeeded) } .hours { --kind: light-dark(#5a6fb0, #8ea2dd) } .failed { --kind: var(--failed) } .other { --kind: var(--other) }
.wide { overflow-x: auto } table { border-collapse: collapse; width: 100%; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { padding: .35rem .45rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; font-weight: 400 }
thead th, tfoot :is(th, td) { font-weight: 650 } th.name { text-align: left } :is(th, td):first-child { padding-left: 0 } tfoot :is(th, td) { border-bottom: 0 }
</style>
<h1>{{ title }}</h1>
<p>{{ lead }}</p>
<dl>{% for name, value in tiles %}<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>{% endfor %}</dl>
{% for name, pair in charts %}<h2>By {{ name }}</h2>
<div class="charts">{% for chart in pair %}<figure{% if chart.width > 500 %} class="long"{% endif %}><figcaption>{{ chart.caption }}
{% if loop.index > 1 %}{% for kind in outcomes %}<small><i class="{{ kind }}">{{ kind }}</i></small>{% endfor %}{% endif %}</figcaption>
<svg viewBox="0 0 {{ chart.width }} {{ chart.height }}" role="img" aria-label="{{ chart.caption }} by {{ name }}">
{% for y in chart.lines %}<line x1="64" x2="{{ chart.width }}" y1="{{ y }}" y2="{{ y }}"/>{% endfor %}
{% for told, rects in chart.bars %}<g><title>{{ told }}</title>{% for rect in rects if rect.width > 0 and rect.height > 0 %}
<rect class="{{ rect.kind }}" x="{{ rect.x|round(2) }}" y="{{ rect.y|round(2) }}" width="{{ rect.width|round(2) }}" height="{{ rect.height|round(2) }}"/>
{% endfor %}</g>{% endfor %}
{% for word in chart.words %}<text class="{{ word.kind }}" x="{{ word.x|round(2) }}" y="{{ word.y|round(2) }}">{{ word.text }}</text>{% endfor %}
</svg></figure>{% endfor %}</div>{% endfor %}
<h2>All figures</h2>
{% if note %}<p>{{ note }}</p>{% endif %}
<div class="wide"><table><thead><tr>{% for head in keys %}<th class="name">{{ head }}</th>{% endfor %}
{% for head in heads %}<th>{{ head }}</th>{% endfor %}</tr></thead>
<tbody>{% for names, cells in rows %}
<tr>{% for name in names %}<th class="name">{{ name }}</th>{% endfor %}{% for cell in cells %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody>
<tfoot><tr><th class="name" colspan="{{ keys|length }}">all</th>{% for cell in all %}<td>{{ cell }}</td>{% endfor %}</tr></tfoot></table></div>
"""


def page(frame: pd.DataFrame, period: str | None, title: str, lead: str) -> str:
    """The page of a report as `storage.reports.report` gave it."""
    keys = [name for name in frame.columns if name not in FIGURES]
    everything = total(frame)
    charts = []
    for key in keys:
        grouped = frame.groupby(key, sort=True)[list(FIGURES)].sum()
        if key == "period":
            charts.append((str(period), _over_time(grouped, str(period))))
        elif len(grouped) > 1:
            charts.append((key, _by_group(grouped)))
    attempts = int(everything["attempts"])
    succeeded = f"{everything['succeeded'] / attempts:.1%}" if attempts else "none"
    tiles = [
        ("attempts", f"{attempts:,}"), ("succeeded", succeeded), ("CPU hours", f"{everything['cpu_hours']:,.1f}"),
        ("hours run", f"{everything['wall_hours']:,.1f}"), ("bytes out", human(everything["bytes_out"])),
    ]  # fmt: skip
    note = "" if len(frame) <= MOST_ROWS else f"The first {MOST_ROWS:,} of {len(frame):,} rows; a CSV or Parquet file has them all."
    template = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    return template.render(
        title=title, lead=lead, tiles=tiles, charts=charts, outcomes=list(OUTCOMES), note=note, keys=keys, heads=[head for head, _ in SHOWN.values()],
        rows=[(names_of(row, keys, period), cells_of(row)) for row in frame.head(MOST_ROWS).to_dict("records")], all=cells_of(everything),
    )  # fmt: skip


def names_of(row: Mapping[Any, Any], keys: list[str], period: str | None) -> list[str]:
    """What the row is of, for people."""
    return [_period(row[key], str(period)) if key == "period" else str(row[key]) or NONE for key in keys]


def cells_of(row: Mapping[Any, Any], shown: Iterable[str] = SHOWN) -> list[str]:
    """The figures of a row for people, as SHOWN says."""
    whole = {**row, "other": sum(row[name] for name in OUTCOMES["other"])}
    return [SHOWN[name][1](whole[name]) for name in shown]


def _period(first: pd.Timestamp, period: str) -> str:
    return f"{first:%Y-%m}" if period == "month" else f"{first:%Y-%m-%d}"


def _over_time(grouped: pd.DataFrame, period: str) -> list[Chart]:
    every = pd.date_range(grouped.index.min(), grouped.index.max(), freq=STEPS[period]) if len(grouped) else grouped.index
    whole = grouped.reindex(every, fill_value=0).tail(MOST_COLUMNS)
    labels = [_period(first, period) for first in whole.index]
    return [columns("CPU hours", _used(whole, labels), hours), columns("Attempts", _outcomes(whole, labels), "{:,.0f}".format)]


def _by_group(grouped: pd.DataFrame) -> list[Chart]:
    ranked = grouped.sort_values("cpu_hours", ascending=False, kind="stable")
    labels = [str(label) or NONE for label in ranked.index]
    if len(ranked) > MOST_BARS:
        labels = [*labels[: MOST_BARS - 1], f"{len(labels) - MOST_BARS + 1} others"]
        ranked = pd.concat([ranked.head(MOST_BARS - 1), ranked.tail(-(MOST_BARS - 1)).sum().to_frame().T])
    return [bars("CPU hours", _used(ranked, labels), hours), bars("Attempts", _outcomes(ranked, labels), "{:,.0f}".format)]


def _used(table: pd.DataFrame, labels: list[str]) -> list[Row]:
    return [Row(label, [("hours", float(value))]) for label, value in zip(labels, table["cpu_hours"], strict=True)]


def _outcomes(table: pd.DataFrame, labels: list[str]) -> list[Row]:
    sums = {kind: table[names].sum(axis=1) for kind, names in OUTCOMES.items()}
    return [Row(label, [(kind, float(sums[kind].iloc[number])) for kind in OUTCOMES]) for number, label in enumerate(labels)]
