"""A session of federated learning as one HTML page, which opens without a network, in light and dark, on a wide screen and a narrow one."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

from jinja2 import Environment
from markupsafe import Markup

from fdn_worker.errors import SettingsError
from federation.learning.dashboard import Seen, metrics, round_table, times
from federation.learning.figures import MOST_ROWS, Cell

#: Seconds between two looks of an open page at its file.
EVERY = 10

TEMPLATE = """{% macro table(header, rows) %}<div class="wide" tabindex="0"><table><thead><tr>
{% for head in header %}<th{% if rows and rows[-1][loop.index0] is string %} class="text"{% endif %} scope="col">{{ head }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in rows %}<tr>{% for cell in row %}
<td{% if cell is string %} class="text{{ ' note' if cell|length > 30 }}"{% endif %}>{{ written(cell) }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endmacro %}
<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data: blob:">
<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 16%, transparent); --soft: color-mix(in srgb, currentColor 68%, transparent) }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem;
  color: light-dark(#1f2328, #e6e8eb); background: light-dark(#fff, #16181b) }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .3rem; overflow-wrap: anywhere } h2 { font-size: 1.2rem; margin: 2.4rem 0 .8rem }
p { color: var(--soft); margin: 0 0 .6rem; overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(8rem, 1fr)); gap: 1rem; margin: 1.4rem 0 }
dl div { border-top: 2px solid var(--line); padding-top: .4rem } dt { color: var(--soft); font-size: .85rem }
dd { margin: 0; font-size: 1.15rem; font-weight: 600; overflow-wrap: anywhere }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 30rem), 1fr)); gap: 1.8rem 2rem }
figure { margin: 0; min-width: 0 } figcaption { font-weight: 600 }
details { font-size: .85rem; margin-top: .2rem } summary { cursor: pointer; color: var(--soft) }
.wide { overflow: auto; max-height: 28rem } table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; font-weight: 400; vertical-align: top }
thead th { font-weight: 650; white-space: normal; vertical-align: bottom } :is(th, td).text { text-align: left }
td.note { white-space: normal; min-width: 16rem; max-width: 40rem }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ lead }}</p>
{% if live %}<p><label><input type="checkbox" id="reload" checked> Look for news every {{ every }} seconds</label></p>{% endif %}
<dl>{% for name, value in tiles %}<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>{% endfor %}</dl>
{% for name, figures in sections %}<h2>{{ name }}</h2>
<div class="figures">{% for figure in figures %}<figure><figcaption>{{ figure.title }}</figcaption>
<div class="plot" role="img" aria-label="{{ figure.description }}" style="min-height:{{ figure.layout.height }}px"></div>
<details id="{{ name }}/{{ figure.title }}"><summary>{{ figure.description }}</summary>
{{ table(figure.header, figure.rows) }}</details></figure>{% endfor %}</div>
{% else %}<p>No client has told anything yet.</p>{% endfor %}
<h2>Rounds</h2>
{% if rows|length > most %}<p>The latest {{ most }} of {{ rows|length }} rounds.</p>{% endif %}
{{ table(heads, rows[-most:]) }}
<noscript><p>The figures need JavaScript; the tables have the same numbers.</p></noscript>
<script type="application/json" id="figures">{{ data }}</script>
<script>{{ plotly }}</script>
<script>
const figures = JSON.parse(document.getElementById("figures").textContent);
const plots = document.querySelectorAll(".plot");
function draw() {
  const colour = getComputedStyle(document.body).color, line = colour.replace("rgb(", "rgba(").replace(")", ", .16)");
  const axis = {gridcolor: line, linecolor: line, tickcolor: line};
  const template = {layout: {
    font: {color: colour, family: "system-ui, sans-serif", size: 13}, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    xaxis: axis, yaxis: axis, modebar: {bgcolor: "rgba(0,0,0,0)", color: colour, activecolor: colour}}};
  figures.forEach((figure, number) => Plotly.react(
    plots[number], figure.data, {...figure.layout, template}, {responsive: true, displaylogo: false, displayModeBar: false}));
}
draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
{% if live %}const box = document.getElementById("reload"), tables = document.querySelectorAll("details");
const kept = JSON.parse(sessionStorage.getItem("kept") || '{"reload": true, "open": []}');
box.checked = kept.reload;
tables.forEach(table => { table.open = kept.open.includes(table.id); });
function keep() {
  const open = [...tables].filter(table => table.open).map(table => table.id);
  sessionStorage.setItem("kept", JSON.stringify({reload: box.checked, open}));
}
setInterval(() => { if (box.checked) { keep(); location.reload(); } }, {{ every }} * 1000);
{% endif %}</script>
</body></html>
"""


def page(seen: Seen, now: datetime, *, live: bool = False) -> str:
    """The page of a session. `live`: an open one loads itself again. Raises SettingsError without plotly."""
    session, sections, (heads, rows) = seen.session, metrics(seen), round_table(seen)
    if seen.updates:
        sections.append(("Timeline", [times(seen, now)]))
    drawn = [{"data": figure.data, "layout": figure.layout} for _, figures in sections for figure in figures]
    template = Environment(autoescape=True, trim_blocks=True).from_string(TEMPLATE)
    return template.render(
        title=session.name, lead=f"{session.state}{': ' if session.reason else ''}{session.reason}", tiles=_tiles(seen, now), sections=sections,
        heads=heads, rows=rows, most=MOST_ROWS, live=live, every=EVERY, written=written,
        # No text of a client ends the element that it stands in.
        data=Markup(json.dumps(drawn, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")), plotly=Markup(_plotly()),
    )  # fmt: skip


def write(path: Path, text: str) -> None:
    """Whole or not at all: a browser may be reading it. Raises SettingsError where nothing can be written."""
    half = path.with_name(f"{path.name}.part")
    try:
        half.write_text(text, encoding="utf-8")
        half.replace(path)
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}", remedy="name a file that can be written") from error


def written(cell: Cell) -> str:
    """A cell of a table for people."""
    return (
        cell if isinstance(cell, str) else f"{cell:,}" if isinstance(cell, int) else f"{cell:.4g}" if abs(cell) < 1000 else f"{cell:,.1f}"
    )


def _tiles(seen: Seen, now: datetime) -> list[tuple[str, str]]:
    session, configuration = seen.session, json.loads(seen.session.configuration)
    done = sum(row.state == "DONE" for row in seen.rounds)
    planned = f" of {configuration['rounds']}" if configuration.get("rounds") else ""
    return [
        ("rounds done", f"{done}{planned}"), ("clients", f"{len({row.client for row in seen.updates}):,}"),
        ("aggregator", str((configuration.get("aggregator") or {}).get("name", "fedavg"))), ("user", session.user),
        ("began (UTC)", f"{session.created:%Y-%m-%d %H:%M}"), ("ended" if session.ended else "as of", f"{session.ended or now:%Y-%m-%d %H:%M:%S}"),
    ]  # fmt: skip


def _plotly() -> str:
    """The whole of plotly.js: the page is to work where no network is."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise SettingsError(
            "plotly, which draws the page, is not here", remedy="pip install 'federated-execution-manager[learning]'"
        ) from error
    return str(get_plotlyjs())
