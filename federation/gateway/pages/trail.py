"""The model trail as a figure: each model beside what it came of, branches below each other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from federation.gateway.pages.charts import COLOURS
from federation.learning.figures import Figure, figure_layout, plain
from storage.learning_rows import ModelRow

#: Models that are drawn; of more, the latest. Pixels of a branch.
MOST, BRANCH = 300, 46


class Spot(NamedTuple):
    """Where a model stands: how many came before it, and in which branch."""

    far: int
    branch: int


def trail(models: Sequence[ModelRow], here: str) -> Figure:
    """Of the models of a session (`here`) and of those around it."""
    shown = sorted(models, key=lambda one: (one.created, one.round))[-MOST:]
    spots = places(shown)
    edge_x: list[int | None] = []
    edge_y: list[int | None] = []
    for one in shown:
        if one.parent in spots:
            edge_x += [spots[one.parent].far, spots[one.id].far, None]
            edge_y += [spots[one.parent].branch, spots[one.id].branch, None]
    data: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "lines", "x": edge_x, "y": edge_y, "line": {"color": COLOURS[5], "width": 1.5}, "hoverinfo": "skip",
         "showlegend": False}
    ]  # fmt: skip
    kinds = defaultdict[tuple[str, str, str], list[ModelRow]](list)
    for one in shown:
        kinds[_kind(one, here)].append(one)
    for (name, symbol, colour), those in kinds.items():
        data.append({
            "type": "scatter", "mode": "markers+text" if len(shown) <= 30 else "markers", "name": name, "x": [spots[one.id].far for one in those],
            "y": [spots[one.id].branch for one in those], "marker": {"size": 13, "symbol": symbol, "color": colour, "line": {"width": 2, "color": colour}},
            "text": [_name(one) for one in those], "textposition": "bottom center", "customdata": [_said(one) for one in those],
            "hovertemplate": "%{customdata}<extra></extra>", "cliponaxis": False,
        })  # fmt: skip
    branches = 1 + max((spot.branch for spot in spots.values()), default=0)
    layout = figure_layout("models before it", "") | {"height": 150 + BRANCH * branches}
    layout["yaxis"] = {"visible": False, "range": [branches - 0.4, -0.6]}
    layout["xaxis"] |= {"showgrid": False}
    few = f" The latest {MOST} are drawn." if len(models) > MOST else ""
    said = f"Where each model came from: {len(models)} models in {branches} branch{'es' * (branches > 1)}.{few}"
    rows = [[_name(one), one.session[:8], one.id[:8], (one.parent or "")[:8], _metrics(one)] for one in shown]
    return Figure(
        "Where each model came from", said, data, layout, ["model", "session", "id", "came of", "metrics"], [list(row) for row in rows]
    )


def places(models: Sequence[ModelRow]) -> dict[str, Spot]:
    """Of each model, by its id. The first that came of a model goes on in its branch, each further one begins its own."""
    known = {one.id for one in models}
    children = defaultdict[str | None, list[str]](list)
    for one in models:
        children[one.parent if one.parent in known else None].append(one.id)
    spots: dict[str, Spot] = {}
    branches = 0
    waiting = [(id_, 0, -1) for id_ in reversed(children[None])]
    while waiting:
        id_, far, branch = waiting.pop()
        if branch < 0:
            branch, branches = branches, branches + 1
        spots[id_] = Spot(far, branch)
        # The first one is taken next, and so gets on in this branch before another begins.
        waiting += [(child, far + 1, -1 if place else branch) for place, child in reversed(list(enumerate(children[id_])))]
    return spots


def _kind(one: ModelRow, here: str) -> tuple[str, str, str]:
    """Legend, symbol and colour: told apart without colours, too."""
    where, colour = ("", COLOURS[0]) if one.session == here else (", of another session", COLOURS[3])
    if one.released:
        return f"released{where}", "star", colour
    return (f"file deleted{where}", "circle-open", colour) if one.deleted else (f"kept{where}", "circle", colour)


def _name(one: ModelRow) -> str:
    return str(one.round) if one.round else "seed"


def _metrics(one: ModelRow) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(one.metrics.items()))


def _said(one: ModelRow) -> str:
    return plain(
        " · ".join(filter(None, (f"round {one.round}" if one.round else "seed", one.id[:8], f"session {one.session[:8]}", _metrics(one))))
    )
