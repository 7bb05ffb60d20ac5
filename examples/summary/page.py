"""The demo's HTML page: one file that opens without a network."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment

from federation.results import TaskResult

TEMPLATE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Summary of three hospitals</title>
<style>
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 18%, transparent); --bar: light-dark(#2f7d95, #57aac4); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 58rem; margin: 2.5rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; margin-bottom: .4rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
p.lead { margin-top: 0; opacity: .75 }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
th, td { padding: .45rem .6rem; text-align: right; vertical-align: baseline; border-bottom: 1px solid var(--line) } td { white-space: nowrap }
tbody th { font-weight: 400 } .text, th:first-child { text-align: left } th:first-child { padding-left: 0 } .sites :is(th, td):last-child { font-weight: 650 }
small { opacity: .65; font-weight: 400 } div.wide { overflow-x: auto }
figure { margin: 0 } .charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1.4rem }
figcaption { font-weight: 600; margin-bottom: .3rem } svg { width: 100%; height: auto; display: block } text { fill: currentColor; font-size: 12px }
code { font-size: .85em }
@media (max-width: 40rem) { table { font-size: .77rem } th, td { padding: .4rem .2rem } td small { display: block } .id { display: none } }
</style>
<h1>Three hospitals, one question</h1>
<p class="lead">Each site computed sums over its own patients; the rows never left. “All sites” is computed from those sums alone.</p>
<div class="wide"><table class="sites"><thead><tr><th>mean ± standard deviation{% for site, _ in rows %}<th>{{ site }}{% endfor %}</tr></thead>
<tbody><tr><th>patients{% for _, row in rows %}<td>{{ "{:,.0f}".format(row["patients"]) }}{% endfor %}</tr>
{% for name in columns %}<tr><th>{{ name }}
{% for _, row in rows %}<td>{{ "%#.3g"|format(row[name]) }} <small>± {{ "%#.2g"|format(row[name + " sd"]) }}</small>{% endfor %}</tr>
{% endfor %}</tbody></table></div>
<h2>Mean of each column</h2>
<div class="charts">{% for name in columns %}{% set top = rows|map(attribute=1)|map(attribute=name)|max %}
<figure><figcaption>{{ name }}</figcaption><svg viewBox="0 0 300 {{ rows|length * 26 }}" role="img" aria-label="mean of {{ name }} by site">
{% for site, row in rows %}<text x="0" y="{{ loop.index0 * 26 + 16 }}">{{ site }}</text>
<rect x="105" y="{{ loop.index0 * 26 + 4 }}" height="16" rx="2" width="{{ "%.1f"|format(140 * row[name] / top) }}" fill="var(--bar)"
{% if not loop.last %}opacity=".55"{% endif %}/>
<text x="{{ "%.1f"|format(110 + 140 * row[name] / top) }}" y="{{ loop.index0 * 26 + 16 }}">{{ "%#.3g"|format(row[name]) }}</text>
{% endfor %}</svg></figure>{% endfor %}</div>
<h2>How it ran</h2>
<div class="wide"><table><thead><tr><th>node<th class="text">state<th>seconds<th>CPU seconds<th>bytes out<th class="id">execution</tr></thead><tbody>
{% for result in results %}<tr><th>{{ result.node }}<td class="text">{{ result.state }}
<td>{{ "%.2f"|format(result.stages|sum(attribute="seconds")) }}<td>{{ "%.2f"|format(result.report.usage.cpu_seconds) }}
<td>{{ "{:,}".format(result.report.bytes_out) }}<td class="id"><code>{{ result.execution|string|truncate(8, True, "", 0) }}</code></tr>
{% endfor %}</tbody></table></div>
"""


def write_page(path: Path, table: pd.DataFrame, results: Sequence[TaskResult], columns: Sequence[str]) -> None:
    """Write the page to `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    template = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    rows = [(str(site), row) for site, row in table.to_dict("index").items()]
    path.write_text(template.render(rows=rows, columns=columns, results=results))
