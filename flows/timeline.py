"""A timeline of an execution as a picture: a bar for each run, from stage to stage. SVG, without anything to draw it with."""

from __future__ import annotations

import base64
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape

from fdn_worker.protocol import State
from federation.results import TaskResult

COLOURS = {
    State.QUEUED: "#dadce0", State.ACCEPTED: "#bdc1c6", State.STAGING_IN: "#8ab4f8", State.RUNNING: "#1a73e8", State.STAGING_OUT: "#4db6ac",
    State.AWAITING_RELEASE: "#c58af9", State.SUCCEEDED: "#188038", State.FAILED: "#d93025", State.REJECTED: "#d93025",
    State.LOST: "#d93025", State.CANCELLED: "#f9ab00",
}  # fmt: skip
#: Runs that are drawn; of more, the slowest.
MOST = 200
#: Pixels: of the whole, of the names before the bars, above the first and below the last bar, and of a row.
WIDTH, NAMES, ABOVE, BELOW, ROW = 1000, 190, 34, 44, 16
#: Letters of a name; the rest is cut.
LETTERS = 28
#: Of a scale: about so many parts, each so many seconds.
PARTS = 8
STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400, 172800, 604800)


def data_url(svg: str) -> str:
    """The picture as an address that needs nothing from anywhere."""
    return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()


def timeline(results: Sequence[TaskResult], begun: datetime) -> str:
    """A bar for each run, of more than MOST for the slowest, from `begun` to the last end. Clocks are the nodes' own."""
    rows = list(results)
    said = ""
    if len(rows) > MOST:
        rows = sorted(rows, key=lambda result: -_seconds(result))
        others = [_seconds(result) for result in rows[MOST:]]
        said = (f"the {MOST} slowest of {len(results):,} runs; "
                f"the others took {_written(min(others))} to {_written(max(others))}, {_written(statistics.median(others))} in the median")  # fmt: skip
        rows = rows[:MOST]
    several = len({result.task for result in rows}) > 1
    span = max([_offset(result.stages[-1].since, begun) for result in rows if result.stages], default=0.0) or 1.0
    scale = (WIDTH - NAMES - 10) / span
    height = ABOVE + ROW * len(rows) + BELOW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
        'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    parts += _grid(span, scale, height - BELOW)
    parts += [
        _text(NAMES - 8, ABOVE + ROW * number + 11, _name(result, several), "end", COLOURS[result.state])
        for number, result in enumerate(rows)
    ]
    parts += _bars(rows, begun, scale)
    parts += _legend(rows, height - BELOW + 18)
    parts.append(_text(NAMES, height - 8, said))
    return "".join(parts) + "</svg>"


def _bars(rows: Sequence[TaskResult], begun: datetime, scale: float) -> Iterable[str]:
    """All bars of a stage are one path: hundreds of rows stay a small picture."""
    paths: dict[State, list[str]] = defaultdict(list)
    for number, result in enumerate(rows):
        top = ABOVE + ROW * number + 2
        for stage in result.stages:
            left = NAMES + _offset(stage.since, begun) * scale
            width = 3.0 if stage.state.terminal else stage.seconds * scale
            if width > 0:
                paths[stage.state].append(f"M{left:.1f} {top}h{width:.1f}v{ROW - 4}h-{width:.1f}z")
    return [f'<path fill="{COLOURS[state]}" d="{"".join(paths[state])}"/>' for state in State if paths[state]]


def _grid(span: float, scale: float, bottom: int) -> Iterable[str]:
    step = next((step for step in STEPS if span / step <= PARTS), span)
    for number in range(int(span / step) + 1):
        left = NAMES + number * step * scale
        yield f'<path stroke="#e8eaed" d="M{left:.1f} {ABOVE - 8}V{bottom}"/>'
        yield _text(left, ABOVE - 14, _written(number * step), "middle")


def _legend(rows: Sequence[TaskResult], top: int) -> Iterable[str]:
    left = NAMES
    for state in State:
        if any(stage.state is state for result in rows for stage in result.stages):
            yield f'<rect x="{left}" y="{top - 9}" width="10" height="10" fill="{COLOURS[state]}"/>'
            yield _text(left + 14, top, state.replace("_", " ").lower())
            left += 24 + 7 * len(state)


def _name(result: TaskResult, several: bool) -> str:
    name = f"{result.node} {result.task}" if several else result.node
    return name if len(name) <= LETTERS else name[: LETTERS - 1] + "…"


def _text(left: float, top: float, text: str, anchor: str = "start", fill: str = "#3c4043") -> str:
    return f'<text x="{left:.1f}" y="{top}" text-anchor="{anchor}" fill="{fill}">{escape(text)}</text>' if text else ""


def _offset(moment: datetime, begun: datetime) -> float:
    """Seconds from the left edge; a node's clock may be behind the centre's."""
    return max(0.0, (moment - begun).total_seconds())


def _seconds(result: TaskResult) -> float:
    return sum(stage.seconds for stage in result.stages)


def _written(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 and seconds % 1 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h" if seconds < 172800 else f"{seconds / 86400:.0f} d"
