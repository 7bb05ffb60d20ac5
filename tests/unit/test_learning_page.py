"""A session as figures, as a page, and as what Prefect shows."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import plotly.graph_objects as plotly
import pytest
from plotly.offline import get_plotlyjs
from prefect.artifacts import ImageArtifact, MarkdownArtifact, TableArtifact

from fdn_worker.errors import SettingsError
from federation.learning import dashboard, series
from federation.learning.figures import MOST_BARS, MOST_BOXES, MOST_CLIENTS, MOST_POINTS, Figure, box_plot, curves, timeline
from federation.learning.series import Curves
from flows import learning_artifacts, learning_page
from tests.unit.helpers import MOMENT
from tests.unit.sessions import SESSION, a_round, a_session, an_update, measure, seen

LATER = MOMENT + timedelta(minutes=10)
FEW = seen(3, 4)


def page(of: dashboard.Seen = FEW, **options: Any) -> str:
    """Without what plotly brings."""
    text = learning_page.page(of, LATER, **options)
    assert text.count(get_plotlyjs()) == 1
    return text.replace(get_plotlyjs(), "")


def figures() -> list[Figure]:
    return [*(figure for _, drawn in dashboard.metrics(FEW) for figure in drawn), dashboard.times(FEW, LATER)]


@pytest.mark.parametrize("figure", figures(), ids=lambda figure: figure.title)
def test_plotly_takes_each_figure(figure: Figure) -> None:
    plotly.Figure(figure.data, figure.layout)
    json.dumps([figure.data, figure.layout], allow_nan=False)
    assert figure.data
    assert figure.description.startswith(figure.title)
    assert figure.rows
    assert {len(row) for row in figure.rows} == {len(figure.header)}


def test_all_there_is_to_see_is_drawn() -> None:
    assert [(name, [figure.title for figure in drawn]) for name, drawn in dashboard.metrics(FEW)] == [
        ("loss", ["loss after each round", "loss as clients log it", "loss across clients, train", "loss across clients, validate"]),
        ("accuracy", ["accuracy after each round", "accuracy across clients, train", "accuracy across clients, validate"]),
    ]
    assert dashboard.metrics(replace(FEW, updates=[], measures=[])) == []


def test_curves_have_a_line_for_the_clients_and_one_for_their_mean() -> None:
    of = Curves({"a": [(1, 1.0), (2, 2.0)], "<b>": [(1, 3.0)]}, [(1, 1.5), (2, 2.0)])
    figure = curves("loss", {"train": of}, across="round", up="loss")
    clients, mean = figure.data
    assert (clients["x"], clients["y"]) == ([1, None, 1, 2, None], [3.0, None, 1.0, 2.0, None])
    assert clients["text"] == ["&lt;b&gt;", "&lt;b&gt;", "a", "a", "a"]
    assert (mean["x"], mean["y"], mean["name"]) == ([1, 2], [1.5, 2.0], "train, mean")
    assert figure.header == ["round", "train, mean", "train, <b>", "train, a"]
    assert figure.rows == [[1, 1.5, 3.0, 1.0], [2, 2.0, "", 2.0]]
    assert figure.description == "loss: train, mean from 1.5 to 2 over 2 clients."
    assert curves("loss", {}, across="round", up="loss").description == "loss: nothing was told yet."


def test_boxes_say_what_they_show() -> None:
    scores = series.scores([an_update(f"c{value}", metrics={"loss": float(value)}) for value in (1, 2, 3, 4, 5, 100)])
    figure = box_plot("loss", series.boxes(scores, "train", "loss"), "train", up="loss")
    box, mean, outliers = figure.data
    assert {key: box[key] for key in ("x", "q1", "median", "q3", "lowerfence", "upperfence")} == {
        "x": [1], "q1": [2.25], "median": [3.5], "q3": [4.75], "lowerfence": [1.0], "upperfence": [5.0],
    }  # fmt: skip
    assert mean["y"] == [pytest.approx(115 / 6)]
    assert (outliers["text"], outliers["y"]) == (["c100"], [100.0])
    assert figure.rows == [[1, 6, 1.0, 2.25, 3.5, 4.75, 5.0, pytest.approx(115 / 6), "c100"]]
    assert box_plot("loss", [], "train", up="loss").description == "loss: nothing was told yet."


def test_a_timeline_has_a_bar_for_each_work() -> None:
    figure = timeline("Times", [
        an_update("a", validation_began=MOMENT + timedelta(seconds=20), validation_ended=MOMENT + timedelta(seconds=21)),
        an_update("b", outcome=None, ended=None), an_update("c", outcome="REFUSED"), an_update("d", outcome="LOST", ended=None),
    ], MOMENT + timedelta(seconds=5))  # fmt: skip
    assert [(trace["name"], trace["y"], trace["x"]) for trace in figure.data] == [
        ("train", ["a"], [10_000]), ("train, lost", ["d"], [0]), ("train, refused", ["c"], [10_000]), ("train, under way", ["b"], [5_000]),
        ("validate", ["a"], [1_000]),
    ]  # fmt: skip
    assert figure.data[0]["base"] == ["2030-01-02T03:04:05+00:00"]
    assert figure.rows[-1] == ["2030-01-02 03:04:25", "a", 1, "validate", 1.0]
    assert figure.description == "Times: 4 clients; a took longest, 11.0 s in all."


def test_figures_of_many_clients_and_rounds_stay_small() -> None:
    many = seen(60, 120, steps=2)
    for _, drawn in dashboard.metrics(many):
        for figure in drawn:
            for trace in figure.data:
                assert len(trace["x"]) <= MOST_POINTS + 120
                assert trace["type"] != "box" or (len(trace["x"]) <= MOST_BOXES and trace["x"][-1] == 60)
    times = dashboard.times(many, LATER)
    assert sum(len(trace["x"]) for trace in times.data) <= MOST_BARS
    assert len(times.layout["yaxis"]["categoryarray"]) == MOST_CLIENTS
    assert f"The {MOST_CLIENTS} that took longest are drawn." in times.description


def test_the_page_needs_nothing_from_anywhere() -> None:
    text = page()
    assert not re.search(r"https?://|src=|href=|url\(|@import", text)
    assert "default-src 'none'" in text
    for words in (
        "<title>digits</title>",
        "2 of 12",
        "fedavg",
        "loss across clients, validate",
        "Train and validate of each client",
        'role="img"',
    ):
        assert words in text
    assert "location.reload" not in text
    assert "location.reload" in page(live=True)


def test_what_clients_and_users_say_breaks_no_page() -> None:
    evil = "</script><script>alert(1)</script>"
    text = page(replace(
        FEW, session=a_session(name=evil, reason=evil), rounds=[a_round(reason=evil)], measures=[measure("a", 1, 1.0, name=evil)],
        updates=[an_update(evil, metrics={evil: 1.0, "loss": float("nan")}, reason=evil)],
    ))  # fmt: skip
    assert "<script>alert" not in text
    assert text.count("</script>") == 3


def test_a_session_that_has_not_begun_has_a_page() -> None:
    text = page(dashboard.Seen(a_session(state="CREATED", round=0, configuration="{}"), [], [], []))
    assert "No client has told anything yet." in text


def test_without_plotly_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(SettingsError, match=r"\[learning\]"):
        learning_page.page(FEW, LATER)


def test_a_page_is_written_whole(tmp_path: Path) -> None:
    learning_page.write(tmp_path / "page.html", "one")
    learning_page.write(tmp_path / "page.html", "two")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"page.html": "two"}
    with pytest.raises(SettingsError, match=r"nowhere/page\.html: No such file"):
        learning_page.write(tmp_path / "nowhere/page.html", "three")


def test_the_table_of_rounds() -> None:
    updates = [an_update("a"), *(an_update(f"b{number}", outcome="REFUSED", reason="NaN") for number in range(5))]
    header, rows = dashboard.round_table(replace(FEW, rounds=[a_round(model="0123456789")], updates=updates))
    assert dict(zip(header, rows[0], strict=True)) == {
        "round": 1, "state": "DONE", "seconds": 60.0, "asked": 0, "counted": 1, "refused": 5, "examples": 10, "loss, train": 1.0,
        "model": "01234567", "notes": "b0: REFUSED: NaN; b1: REFUSED: NaN; b2: REFUSED: NaN; and 2 more",
    }  # fmt: skip


def test_prefect_is_shown_three_artifacts() -> None:
    table, markdown, curve = learning_artifacts.artifacts(FEW)
    assert isinstance(table, TableArtifact)
    assert (table.key, len(table.table)) == (f"rounds-{SESSION}", 3)
    assert isinstance(markdown, MarkdownArtifact)
    assert markdown.key == f"learning-{SESSION}"
    (box,) = series.boxes(series.scores([row for row in FEW.updates if row.round == 3]), "train", "loss")
    assert f"| loss | train | 3 | {box.clients} | {box.low:.4g} | {box.q1:.4g} | {box.median:.4g} |" in markdown.markdown
    assert isinstance(curve, ImageArtifact)
    assert curve.key == f"curve-{SESSION}"
    assert curve.image_url.startswith("data:image/svg+xml;base64,")
    assert len(learning_artifacts.artifacts(replace(FEW, updates=[]))) == 2
