"""Plots: they show every number, and survive those that are none."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from federation.simulation.plots import columns, lines

SVG = "{http://www.w3.org/2000/svg}"


def places(svg: str) -> list[tuple[float, float]]:
    return [(float(circle.attrib["cx"]), float(circle.attrib["cy"])) for circle in ElementTree.fromstring(svg).iter(f"{SVG}circle")]


def test_lines_rise_to_the_right_and_leave_gaps_out() -> None:
    svg = lines("t", {"a": ([0, 1, 2, 3], [0.1, float("nan"), 0.2, 0.4])}, across="round", up="metric")
    (x0, y0), (x1, y1), (x2, y2) = places(svg)
    assert x0 < x1 < x2
    assert y0 > y1 > y2
    # By the scale, too.
    assert (y1 - y2) / (y0 - y1) == pytest.approx(2, rel=0.01)


@pytest.mark.parametrize("y", [[float("nan")] * 2, [1.0, 1.0], [0.0, 3.85e7]])
def test_nothing_flat_and_large_numbers_are_drawn(y: list[float]) -> None:
    svg = lines("t", {"a": ([0, 1], y)}, across="round", up="m")
    assert "nan" not in svg
    texts = [text.text or "" for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert all(len(text) <= 7 for text in texts)
    assert ("30M" in texts) == (y[1] > 1e7)


def test_scales_are_round_and_rounds_are_whole() -> None:
    svg = lines("t", {"a": ([0, 19], [0.283, 0.944])}, across="round", up="m")
    texts = [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert texts[1:-2] == ["0.4", "0.6", "0.8", "0", "5", "10", "15"]
    few = [text.text for text in ElementTree.fromstring(lines("t", {"a": ([0, 1], [0, 1])}, across="round", up="m")).iter(f"{SVG}text")]
    assert few[-4:-2] == ["0", "1"]


def test_names_are_text() -> None:
    svg = lines("<t>", {"a&b": ([0], [1]), "<c>": ([0], [2])}, across="<x>", up="y")
    texts = [text.text for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]
    assert {"<t>", "a&b", "<c>", "<x>"} <= set(texts)


def test_columns_have_the_heights_of_their_values() -> None:
    heights = [
        float(rect.attrib["height"]) for rect in ElementTree.fromstring(columns("t", [1, 2, 0, 4], across="d", up="n")).iter(f"{SVG}rect")
    ]
    assert [height / heights[0] for height in heights] == pytest.approx([1, 2, 0, 4], abs=0.02)
