"""Figures of a session as plotly draws them: plain dictionaries, made without plotly. Rows in, figure out; what shows them brings colours of text and grid.

Each has its title, a sentence that says what is to be seen in it, and the same numbers as a table. However many clients there are, a figure stays
of a size that a browser draws at once; what is left out is said.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from typing import Any, NamedTuple

from federation.learning.series import TAKEN, Box, Curves
from storage.learning_rows import Phase, UpdateRow

#: Legible on white and on black: of train, of validate, of what went wrong, of what stayed out.
COLOURS = {"train": "#2b7fd4", "validate": "#d9772b", "bad": "#d64545", "out": "#8a8f98"}
#: Points of single clients in one figure, clients and bars of a timeline, rows of a table, letters of a name.
MOST_POINTS, MOST_CLIENTS, MOST_BARS, MOST_ROWS, LETTERS = 20_000, 100, 5_000, 500, 20
#: Rounds of which each one has its number on an axis, points that are marked, clients with a column in the table.
NUMBERED, MARKED, TABLED = 15, 30, 10
#: Boxes that are told apart in one figure.
MOST_BOXES = 40
Cell = str | int | float


@dataclass(frozen=True)
class Figure:
    """`data` and `layout` are plotly's; `header` and `rows` are the same numbers, of long ones the latest."""

    title: str
    description: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    header: list[str] = field(default_factory=list)
    rows: list[list[Cell]] = field(default_factory=list)


def curves(title: str, of: Mapping[Phase, Curves], *, across: str, up: str) -> Figure:
    """A thin line for each client and a thick one for the mean, of each phase. x counts rounds."""
    data: list[dict[str, Any]] = []
    said, heads, last = [], [across], 0.0
    table = defaultdict[float, dict[str, Cell]](dict)
    for phase, one in of.items():
        if not one.mean:
            continue
        line = {"color": COLOURS[phase], "dash": "solid" if phase == "train" else "dash"}
        shown = _some(one)
        few = "" if len(shown) == len(one.clients) else f" ({len(shown)} of {len(one.clients)})"
        if len(one.clients) > 1:
            data.append(_strung(shown) | {"name": f"{phase}, each client{few}", "opacity": 0.5, "line": line | {"width": 1}})
        x, y = [at for at, _ in one.mean], [value for _, value in one.mean]
        data.append({
            "type": "scatter", "mode": _mode(x), "x": x, "y": y, "name": f"{phase}, mean", "line": line | {"width": 3},
            "hovertemplate": f"{phase}, mean %{{y:.4g}}<extra></extra>",
        })  # fmt: skip
        said.append(f"{phase}, mean from {y[0]:.4g} to {y[-1]:.4g} over {len(one.clients)} clients")
        last = max(last, x[-1])
        for name, points in {"mean": one.mean, **(shown if len(one.clients) <= TABLED else {})}.items():
            heads.append(f"{phase}, {name}")
            for at, value in points:
                table[round(at, 3)][heads[-1]] = value
    rows = [
        [int(at) if at == int(at) else at, *(row.get(head, "") for head in heads[1:])] for at, row in sorted(table.items())[-MOST_ROWS:]
    ]
    return Figure(
        title, f"{title}: {'; '.join(said) or 'nothing was told yet'}.", data, figure_layout(across, up, numbered=last), heads, rows
    )


def box_plot(title: str, boxes: Sequence[Box], phase: Phase, *, up: str) -> Figure:
    """A box for each round across clients, the line of the means, and the clients that lie far outside.

    Of many rounds some alone have a box, the last one among them.
    """
    colour, rounds = COLOURS[phase], [box.round for box in boxes]
    every = max(1, -(-len(boxes) // MOST_BOXES))
    drawn = boxes[::-every][::-1]
    outliers = [(box.round, client, value) for box in drawn for client, value in box.outliers]
    data: list[dict[str, Any]] = [{
        "type": "box", "name": "clients" if every == 1 else f"clients, every {every} rounds", "x": [box.round for box in drawn],
        "lowerfence": [box.low for box in drawn], "upperfence": [box.high for box in drawn], "q1": [box.q1 for box in drawn],
        "median": [box.median for box in drawn], "q3": [box.q3 for box in drawn],
        "line": {"color": colour, "width": 1.5}, "whiskerwidth": 0.5,
    }, {
        "type": "scatter", "mode": _mode(rounds), "name": "mean", "x": rounds,
        "y": [box.mean for box in boxes], "line": {"color": COLOURS["bad"], "width": 2}, "hovertemplate": "mean %{y:.4g}<extra></extra>",
    }]  # fmt: skip
    if outliers:
        data.append({
            "type": "scatter", "mode": "markers", "name": "far outside", "x": [round for round, _, _ in outliers],
            "y": [value for _, _, value in outliers], "text": [plain(client) for _, client, _ in outliers],
            "marker": {"color": colour, "symbol": "circle-open", "size": 7}, "hovertemplate": "%{text}: %{y:.4g}<extra></extra>",
        })  # fmt: skip
    last = boxes[-1] if boxes else None
    said = "nothing was told yet"
    if last:
        said = (
            f"in round {last.round} the median of {last.clients} clients is {last.median:.4g}, "
            f"half of them lie between {last.q1:.4g} and {last.q3:.4g}, and the mean is {last.mean:.4g}"
        )
    layout = figure_layout("round", up, numbered=len(boxes))
    header = ["round", "clients", "low", "quartile 1", "median", "quartile 3", "high", "mean", "far outside"]
    return Figure(
        title, f"{title}: {said}.", data, layout, header,
        [[box.round, box.clients, box.low, box.q1, box.median, box.q3, box.high, box.mean, ", ".join(client for client, _ in box.outliers)]
         for box in boxes[-MOST_ROWS:]],
    )  # fmt: skip


def timeline(title: str, updates: Sequence[UpdateRow], now: datetime) -> Figure:
    """A bar for each client's train and validate in each round; what still goes on lasts until `now`."""
    bars = sorted(_bars(updates, now))
    took = defaultdict[str, float](float)
    for bar in bars:
        took[bar.client] += bar.seconds
    longest = sorted(took, key=lambda client: -took[client])
    clients = sorted(longest[:MOST_CLIENTS])
    kept = [bar for bar in bars if bar.client in set(clients)][-MOST_BARS:]
    kinds = defaultdict[str, list[_Bar]](list)
    for bar in kept:
        kinds[bar.kind].append(bar)
    data = [{
        "type": "bar", "orientation": "h", "name": kind, "y": [bar.client for bar in of], "base": [bar.began.isoformat() for bar in of],
        "x": [round(bar.seconds * 1000) for bar in of], "marker": _marker(kind), "textposition": "none",
        "text": [f"{plain(bar.client)}, round {bar.round}: {kind}, {bar.seconds:.1f} s" for bar in of],
        "hovertemplate": "%{text}<extra></extra>",
    } for kind, of in sorted(kinds.items(), key=lambda item: (item[0].startswith("validate"), item[0]))]  # fmt: skip
    layout = figure_layout("UTC", "") | {"height": 130 + max(60, 20 * len(clients)), "barmode": "overlay", "bargap": 0.25}
    layout["xaxis"] |= {"type": "date"}
    layout["yaxis"] = {
        "type": "category", "categoryorder": "array", "categoryarray": clients, "autorange": "reversed", "automargin": True, "showgrid": False,
        "tickvals": clients, "ticktext": [plain(name if len(name) <= LETTERS else name[: LETTERS - 1] + "…") for name in clients],
    }  # fmt: skip
    said = f"{len(took)} clients; {longest[0]} took longest, {took[longest[0]]:.1f} s in all" if took else "nobody has begun yet"
    few = f" The {len(clients)} that took longest are drawn." if len(clients) < len(took) else ""
    few += f" Of their bars, the latest {MOST_BARS:,} are drawn." if len(kept) == MOST_BARS else ""
    return Figure(
        title, f"{title}: {said}.{few}", data, layout, ["began (UTC)", "client", "round", "what", "seconds"],
        [[f"{bar.began:%Y-%m-%d %H:%M:%S}", bar.client, bar.round, bar.kind, round(bar.seconds, 1)] for bar in bars[-MOST_ROWS:]],
    )  # fmt: skip


class _Bar(NamedTuple):
    began: datetime
    ended: datetime
    client: str
    round: int
    kind: str

    @property
    def seconds(self) -> float:
        return (self.ended - self.began).total_seconds()


def _bars(updates: Iterable[UpdateRow], now: datetime) -> Iterator[_Bar]:
    for row in updates:
        kind = "train" if row.outcome in TAKEN else f"train, {(row.outcome or 'under way').lower()}"
        # Clocks differ, and of an update that was lost nobody may know when.
        ended = row.ended or (now if row.outcome is None else row.began)
        yield _Bar(row.began, max(row.began, ended), row.client, row.round, kind)
        if (began := row.validation_began) is not None:
            kind = "validate" if row.validation_ended else "validate, under way"
            yield _Bar(began, max(began, row.validation_ended or now), row.client, row.round, kind)


def _marker(kind: str) -> dict[str, Any]:
    """Told apart without colours, too."""
    what, _, how = kind.partition(", ")
    colour = COLOURS[what] if how in ("", "under way") else COLOURS["bad" if how == "refused" else "out"]
    shape = {"": "", "under way": ".", "refused": "x", "late": "/", "lost": "\\"}[how]
    return {"color": colour, "pattern": {"shape": shape, "fillmode": "replace", "size": 5}} if shape else {"color": colour}


def _some(of: Curves) -> dict[str, list[tuple[float, float]]]:
    """All clients, or every so many of them."""
    every = -(-sum(map(len, of.clients.values())) // MOST_POINTS)
    return {client: of.clients[client] for client in sorted(of.clients)[:: max(1, every)]}


def _strung(clients: dict[str, list[tuple[float, float]]]) -> dict[str, Any]:
    """Lines of many clients as one trace, with a gap after each: a thousand traces are slow."""
    x: list[float | None] = []
    y: list[float | None] = []
    text: list[str] = []
    for client, points in clients.items():
        x += [*(at for at, _ in points), None]
        y += [*(value for _, value in points), None]
        text += [plain(client)] * (len(points) + 1)
    return {"type": "scatter", "mode": "lines", "x": x, "y": y, "text": text, "hovertemplate": "%{text}: %{y:.4g}<extra></extra>"}


def _mode(x: Sequence[float]) -> str:
    """Of few points each is seen: one alone has no line."""
    return "lines+markers" if len(x) <= MARKED else "lines"


def figure_layout(across: str, up: str, *, numbered: float = NUMBERED + 1) -> dict[str, Any]:
    """Axes with these titles; up to NUMBERED rounds have their numbers."""
    return {
        "height": 340, "margin": {"l": 48, "r": 12, "t": 10, "b": 40}, "hovermode": "closest", "dragmode": False,
        "legend": {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0, "font": {"size": 12}},
        "xaxis": {"title": {"text": plain(across)}, "automargin": True, "zeroline": False} | ({"dtick": 1} if numbered <= NUMBERED else {}),
        "yaxis": {"title": {"text": plain(up)}, "automargin": True, "zeroline": False},
    }  # fmt: skip


def plain(text: str) -> str:
    """A label that plotly shows as it is: it takes some tags in labels for what they say."""
    return escape(text, quote=False)
