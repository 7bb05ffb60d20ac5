"""Plots as SVG that need nothing else: lines over rounds, and columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

COLOURS = ("#2f7d95", "#c8553d", "#5a6fb0", "#7a8b3c", "#a05a9c", "#b98a2f", "#4f8f6b", "#737d84")
WIDTH, HEIGHT = 640, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 12, 48, 40


def lines(title: str, series: Mapping[str, tuple[Sequence[float], Sequence[float]]], *, across: str, up: str) -> str:
    """A line for each series of (x, y); gaps where y is no number."""
    xs = np.concatenate([np.asarray(x, float) for x, _ in series.values()])
    ys = np.concatenate([np.asarray(y, float) for _, y in series.values()])
    xs, ys = xs[np.isfinite(xs)], ys[np.isfinite(ys)]
    frame = _Frame((xs.min(initial=np.inf), xs.max(initial=-np.inf)), (ys.min(initial=np.inf), ys.max(initial=-np.inf)))
    body = frame.axes(across, up)
    for number, (name, (x, y)) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = [(frame.x(a), frame.y(b)) for a, b in zip(x, y, strict=True) if np.isfinite(a) and np.isfinite(b)]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        body += f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{path}"><title>{escape(name)}</title></polyline>'
        body += "".join(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="2.5" fill="{colour}"/>' for a, b in points)
    return _svg(title, body + (_legend(list(series)) if len(series) > 1 else ""))


def columns(title: str, values: Sequence[float], *, across: str, up: str) -> str:
    """A column for each value, numbered from 0 on."""
    frame = _Frame((-0.5, len(values) - 0.5), (0.0, max(values, default=1)))
    width = (WIDTH - LEFT - RIGHT) / max(len(values), 1)
    body = frame.axes(across, up)
    for number, value in enumerate(values):
        y = frame.y(value)
        body += (
            f'<rect x="{frame.x(number - 0.5) + width * 0.1:.1f}" y="{y:.1f}" width="{width * 0.8:.2f}" '
            f'height="{HEIGHT - BOTTOM - y:.1f}" fill="{COLOURS[0]}"><title>{number}: {value:g}</title></rect>'
        )
    return _svg(title, body)


class _Frame:
    """Where values lie on the sheet."""

    def __init__(self, across: tuple[float, float], up: tuple[float, float]) -> None:
        self._across, self._up = _span(*across), _span(*up)

    def x(self, value: float) -> float:
        low, high = self._across
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        low, high = self._up
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def axes(self, across: str, up: str) -> str:
        body = ""
        for value in _ticks(*self._up):
            y = self.y(value)
            body += f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="#8884"/>'
            body += f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_tick(value)}</text>'
        for value in _ticks(*self._across, least=1.0):
            body += f'<text x="{self.x(value):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:.0f}</text>'
        body += f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 8}" text-anchor="end" opacity=".7">{escape(across)}</text>'
        return body + f'<text x="{LEFT}" y="{TOP - 8}" opacity=".7">{escape(up)}</text>'


def _ticks(low: float, high: float, least: float = 0.0) -> list[float]:
    """Round values between the two, three to eight of them where `least` lets steps be so small."""
    size = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = max(next(size * factor for factor in (5, 2, 1) if size * factor <= (high - low) / 3), least)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _tick(value: float) -> str:
    """Short, so that it fits beside the sheet."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def _span(low: float, high: float) -> tuple[float, float]:
    """Never empty."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return 0.0, 1.0
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _legend(names: Sequence[str]) -> str:
    body, x = "", LEFT + 120.0
    for number, name in enumerate(names):
        body += f'<rect x="{x:.0f}" y="{TOP - 17}" width="10" height="10" rx="2" fill="{COLOURS[number % len(COLOURS)]}"/>'
        body += f'<text x="{x + 14:.0f}" y="{TOP - 8}">{escape(name)}</text>'
        x += 30 + 7 * len(name)
    return body


def _svg(title: str, body: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" font-family="system-ui, sans-serif" '
        f'font-size="12" fill="currentColor" role="img" aria-label="{escape(title)}"><text x="0" y="14" font-weight="600" font-size="14">'
        f"{escape(title)}</text>{body}</svg>"
    )
