"""Charts of a report as shapes: columns over time, bars by group. The page draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple


class Rect(NamedTuple):
    """`kind` is its class in the style sheet."""

    kind: str
    x: float
    y: float
    width: float
    height: float


class Words(NamedTuple):
    """Text at a place; `kind` are its classes: soft, end, middle."""

    kind: str
    x: float
    y: float
    text: str


class Row(NamedTuple):
    """A label and the parts of its bar: (kind, value)."""

    label: str
    parts: Sequence[tuple[str, float]]

    @property
    def total(self) -> float:
        return sum(value for _, value in self.parts)


@dataclass
class Chart:
    """`bars` are (what the pointer is told, its rectangles); `lines` heights of lines across."""

    caption: str
    width: int
    height: int
    bars: list[tuple[str, list[Rect]]] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    lines: list[float] = field(default_factory=list)


def bars(caption: str, rows: Sequence[Row], said: Callable[[float], str]) -> Chart:
    """A bar to the right for each row, with what it comes to behind it."""
    left, most, step = 130.0, 230.0, 26
    chart = Chart(caption, 440, step * len(rows))
    top = max((row.total for row in rows), default=0) or 1
    for number, row in enumerate(rows):
        x, y, rects = left, step * number, []
        for kind, value in row.parts:
            rects.append(Rect(kind, x, y + 5, most * value / top, 16))
            x += most * value / top
        chart.bars.append((_told(row, said), rects))
        label = row.label if len(row.label) <= 18 else row.label[:17] + "…"
        chart.words += [Words("", 0, y + 17, label), Words("soft", x + 6, y + 17, said(row.total))]
    return chart


def columns(caption: str, rows: Sequence[Row], said: Callable[[float], str]) -> Chart:
    """A column for each row, from left to right; about eight of them are named."""
    left, width, base, most = 64.0, 936.0, 170.0, 150.0
    chart = Chart(caption, 1000, 196, lines=[base - most * share for share in (0, 0.5, 1)])
    top = max((row.total for row in rows), default=0) or 1
    chart.words = [Words("soft end", left - 8, base - most * share + 4, said(top * share)) for share in (0, 0.5, 1)]
    step, every = width / max(len(rows), 1), -(-len(rows) // 8)
    for number, row in enumerate(rows):
        x, y, rects = left + step * number, base, []
        for kind, value in row.parts:
            height = most * value / top
            y -= height
            rects.append(Rect(kind, x + step * 0.1, y, step * 0.8, height))
        chart.bars.append((_told(row, said), rects))
        if number % every == 0:
            chart.words.append(Words("soft middle", x + step / 2, base + 18, row.label))
    return chart


def _told(row: Row, said: Callable[[float], str]) -> str:
    if len(row.parts) == 1:
        return f"{row.label}: {said(row.total)}"
    return f"{row.label}: " + ", ".join(f"{said(value)} {kind}" for kind, value in row.parts)
