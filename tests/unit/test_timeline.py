"""The timeline's picture: well-formed whatever a site is called, bounded in size, and true to the stages."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from datetime import timedelta
from xml.etree import ElementTree

import pytest

from fdn_worker.protocol import State
from federation.results import Stage, TaskResult
from flows import timeline as module
from flows.timeline import COLOURS, MOST, data_url, timeline
from tests.unit.helpers import EXECUTION, MOMENT, an_id

SVG = "{http://www.w3.org/2000/svg}"


def result(node: str, seconds: Sequence[float], end: State = State.SUCCEEDED, *, task: str = "main", late: float = 0.0) -> TaskResult:
    states = (State.ACCEPTED, State.STAGING_IN, State.RUNNING, State.STAGING_OUT)[: len(seconds)]
    since, stages = MOMENT + timedelta(seconds=late), []
    for state, took in zip(states, seconds, strict=True):
        stages.append(Stage(state=state, since=since, seconds=took))
        since += timedelta(seconds=took)
    stages.append(Stage(state=end, since=since, seconds=0.0))
    return TaskResult(execution=EXECUTION, run=an_id(1), task=task, node=node, attempt=1, state=end, stages=tuple(stages))


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def bars(svg: str, state: State) -> list[float]:
    """Widths of a stage's bars."""
    [path] = [element for element in ElementTree.fromstring(svg).iter(f"{SVG}path") if element.get("fill") == COLOURS[state]]
    return [float(width) for width in re.findall(r"h([\d.]+)v", str(path.get("d")))]


def test_bars_are_as_long_as_their_stages() -> None:
    svg = timeline([result("site-a", (1, 1, 6, 2)), result("site-b", (1, 1, 3, 0), State.FAILED)], MOMENT)
    running = bars(svg, State.RUNNING)
    assert running[0] == pytest.approx(2 * running[1], abs=0.2)
    assert running[0] == pytest.approx(6 / 10 * (module.WIDTH - module.NAMES - 10), abs=0.2)
    assert {"site-a", "site-b", "running", "failed", "0 s", "10 s"} <= set(texts(svg))
    assert bars(svg, State.FAILED) == [3.0]


def test_the_slowest_of_many_and_a_word_on_the_others() -> None:
    svg = timeline([result(f"n{number:04d}", (0, 0, number / 100, 0)) for number in range(1000)], MOMENT)
    names = [text for text in texts(svg) if re.fullmatch(r"n\d{4}", text)]
    assert (len(names), names[0], names[-1]) == (MOST, "n0999", "n0800")
    assert f"the {MOST} slowest of 1,000 runs; the others took 0 s to 8.0 s, 4.0 s in the median" in texts(svg)
    assert len(svg) < 60_000


def test_names_are_escaped_and_cut_and_tell_their_task() -> None:
    svg = timeline([result("a" * 60, (1,)), result("b", (1,), task="server")], MOMENT)
    assert {f"{'a' * 27}…", "b server"} <= set(texts(svg))
    odd = result("c", (1,)).model_copy(update={"node": "<b>&"})
    assert "<b>&" in texts(timeline([odd], MOMENT))


@pytest.mark.parametrize("results", [[], [result("never-heard", ()).model_copy(update={"stages": ()})], [result("early", (1, 1), late=-9)]])
def test_what_has_no_length_is_drawn_all_the_same(results: list[TaskResult]) -> None:
    svg = timeline(results, MOMENT)
    assert [one.node for one in results] == [text for text in texts(svg) if text in ("never-heard", "early")]
    assert "-" not in "".join(re.findall(r'd="M([\d.-]+)', svg))


@pytest.mark.parametrize(("span", "last"), [(0.5, "0.5 s"), (90, "80 s"), (3600, "60 min"), (86400 * 3, "3 d")])
def test_the_scale_is_readable(span: float, last: str) -> None:
    svg = timeline([result("a", (span,))], MOMENT)
    ticks = [text for text in texts(svg) if re.fullmatch(r"[\d.]+ (s|min|h|d)", text)]
    assert (ticks[0], ticks[-1]) == ("0 s", last)
    assert len(ticks) <= module.PARTS + 1


def test_the_address_holds_the_picture() -> None:
    kind, _, body = data_url("<svg/>").partition(";base64,")
    assert (kind, base64.b64decode(body)) == ("data:image/svg+xml", b"<svg/>")
