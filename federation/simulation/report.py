"""A report of one simulation or of a sweep: Markdown with its plots beside it, the same as one HTML page, and CSV."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from jinja2 import Environment

from fdn_worker.errors import SettingsError
from federation.simulation.analysis import Outcome, by_device, by_round, rounds, summary
from federation.simulation.configuration import Configuration
from federation.simulation.plots import columns, lines

#: Column of `by_round` -> what its plot is called, and the name of its values.
BY_ROUND = {
    "metric": ("Metric of the evaluation", "metric"), "loss": ("Loss of the evaluation", "loss"), "fit_loss": ("Loss while training", "loss"),
    "time": ("Simulated time of a round", "s"), "computation": ("Slowest computation", "s"), "communication": ("Slowest communication", "s"),
    "energy": ("Energy of a round", "mJ"), "network": ("Sent in a round", "parameters"), "answered": ("Devices that answered", "devices"),
}  # fmt: skip

MARKDOWN = """# {{ title }}

{{ lead }}

{{ summary }}

{% for name, caption in plots.items() %}
![{{ caption }}](figures/{{ name }}.svg)

{% endfor %}
{% for variant, words in settings.items() %}
## {{ variant or "Configuration" }}

{{ words }}

{% endfor %}"""

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{ title }}</title>
<style>
:root { color-scheme: light dark } body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2.5rem auto; padding: 0 1rem }
figure { margin: 0 } .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: 1.5rem } svg { width: 100%; height: auto }
.wide { overflow-x: auto; margin-bottom: 1.5rem }
table { border-collapse: collapse; font-size: .88rem } th, td { padding: .3rem .5rem; text-align: right; border-bottom: 1px solid #8884 }
</style>
<h1>{{ title }}</h1><p>{{ lead }}</p><div class="wide">{{ summary | safe }}</div><div class="plots">
{% for svg in plots %}<figure>{{ svg | safe }}</figure>{% endfor %}</div>
"""


def plots(outcome: Outcome) -> dict[str, tuple[str, str]]:
    """Name -> caption and SVG."""
    frames = {name or "all": by_round(statuses) for name, statuses in outcome.items()}
    found = {}
    for column, (caption, unit) in BY_ROUND.items():
        series = {name: (list(frame.index), frame[column].tolist()) for name, frame in frames.items()}
        found[column] = (caption, lines(caption, series, across="round", up=unit))
    over_time = {name: (frame["clock"].tolist(), frame["metric"].tolist()) for name, frame in frames.items()}
    caption = "Metric over simulated time"
    found["metric_by_time"] = (caption, lines(caption, over_time, across="s", up="metric"))
    for name, statuses in outcome.items():
        caption = "How often each device was selected" + (f": {name}" if name else "")
        selected = by_device(statuses)["selected"].tolist()
        # Of thousands of devices nobody sees one column.
        if len(selected) <= 200:
            found["-".join(filter(None, ("selected", file_name(name))))] = (
                caption,
                columns(caption, selected, across="device", up="times"),
            )
    return found


def write(configurations: Mapping[str, Configuration], outcome: Outcome, folder: Path, title: str) -> list[Path]:
    """report.md with figures/, report.html, summary.csv and rounds.csv in the folder; the files that people open are returned.

    Beside them, for pages (`results.py`), devices.csv and configurations.json: what each variant changes of the defaults.
    """
    table, drawn = summary(outcome), plots(outcome)
    first = next(iter(configurations.values()))
    lead = (
        f"{len(outcome)} {'variants' if len(outcome) > 1 else 'variant'}, {first.devices.num} devices, seed {first.simulation.seed}. Times are "
        "simulated seconds, energy is in mJ, fairness is the standard deviation of how often devices were selected."
    )
    # summary.csv has all digits.
    rounded = table.map(lambda cell: (f"{cell:.4g}" if abs(cell) < 1000 else f"{cell:.0f}") if isinstance(cell, float) else cell)
    markdown = Environment(trim_blocks=True, lstrip_blocks=True).from_string(MARKDOWN).render(
        title=title, lead=lead, summary=_markdown(rounded), plots={name: caption for name, (caption, _) in drawn.items()},
        settings={name: _settings(configuration) for name, configuration in configurations.items()},
    )  # fmt: skip
    page = (
        Environment(autoescape=True)
        .from_string(PAGE)
        .render(title=title, lead=lead, summary=rounded.to_html(index=False, border=0), plots=[svg for _, svg in drawn.values()])
    )
    every = pd.concat([rounds(statuses).assign(variant=name) for name, statuses in outcome.items()], ignore_index=True)
    devices = pd.concat(
        [by_device(statuses).rename_axis("device").reset_index().assign(variant=name) for name, statuses in outcome.items()]
    )
    changed = {name: dict(settings(configuration)) for name, configuration in configurations.items()}
    files = {name: folder / name for name in ("report.md", "report.html", "summary.csv", "rounds.csv")}
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        for name, (_, svg) in drawn.items():
            (folder / "figures" / f"{name}.svg").write_text(svg, encoding="utf-8")
        files["report.md"].write_text(markdown, encoding="utf-8")
        files["report.html"].write_text(page, encoding="utf-8")
        table.to_csv(files["summary.csv"], index=False)
        every.to_csv(files["rounds.csv"], index=False)
        devices.to_csv(folder / "devices.csv", index=False)
        (folder / "configurations.json").write_text(json.dumps(changed, indent=2), encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{folder}: {error.strerror or error}", remedy="name an output folder that can be written") from error
    return list(files.values())


def file_name(variant: str) -> str:
    """A variant's name as one of a file or folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", variant).strip(".-")


def _markdown(frame: pd.DataFrame) -> str:
    rows = [frame.columns.tolist(), *frame.values.tolist()]
    cells = ["| " + " | ".join(str(value).replace("|", r"\|") for value in row) + " |" for row in rows]
    return "\n".join([cells[0], "|" + "---|" * len(frame.columns), *cells[1:]])


def settings(configuration: Configuration) -> list[tuple[str, object]]:
    """What differs from the defaults, as (a.b.c, value)."""
    return sorted(_flat(configuration.model_dump(mode="json", exclude_defaults=True)))


def _settings(configuration: Configuration) -> str:
    return "\n".join(f"- `{key}`: {value}" for key, value in settings(configuration)) or "All defaults."


def _flat(data: Mapping[str, object], prefix: str = "") -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for key, value in data.items():
        found += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(prefix + key, value)]
    return found
