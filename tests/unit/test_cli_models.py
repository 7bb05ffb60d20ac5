"""`fem models` as a command, on records and store of this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from federation.centre import Centre
from federation.learning.checkpoints import Checkpoints
from federation.learning.models import ModelFile
from federation.learning.trail import ModelGone, Trail
from flows import cli, connection
from storage.learning import ModelRow
from storage.records import RecordsRefused
from tests.unit.learning import arrays, close
from tests.unit.trail import a_session, a_trail, kept

Call = Callable[..., str]


@pytest.fixture
def fem(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run `fem models` and give what it prints; errors of ours are raised, as `cli.main` would get them."""
    monkeypatch.setattr(connection, "centre", lambda: centre)
    monkeypatch.setenv("COLUMNS", "160")

    def call(*words: str) -> str:
        ran = CliRunner().invoke(cli.app, ["models", *words])
        if ran.exception is not None and not isinstance(ran.exception, SystemExit):
            raise ran.exception
        assert ran.exit_code == 0, ran.output
        return ran.stdout

    return call


@pytest.fixture
def line(centre: Centre, tmp_path: Path) -> list[ModelRow]:
    return a_trail(centre, tmp_path)


def first_words(table: str) -> list[str]:
    return [row.split()[0] for row in table.splitlines()[1:]]


def test_list(fem: Call, line: list[ModelRow], centre: Centre, tmp_path: Path) -> None:
    other = kept(centre, tmp_path, a_session(centre), 0, line[1])
    assert first_words(fem("list", "--session", line[0].session[:8])) == [row.id for row in reversed(line)]
    assert set(first_words(fem("list", "--leaf"))) == {line[-1].id, other.id}
    assert len(first_words(fem("list", "--limit", "2"))) == 2
    assert fem("list", "--released") == "no models\n"
    fem("release", line[1].id)
    assert first_words(fem("list", "--released")) == [line[1].id]
    [row] = json.loads(fem("list", "--released", "--json"))
    assert (row["id"], row["where"], row["metrics"]) == (line[1].id, line[1].where_, line[1].metrics)


@pytest.mark.parametrize("width", [60, 80])
def test_a_narrow_terminal_still_tells_models_apart(fem: Call, line: list[ModelRow], monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    table = fem("list")
    assert max(map(len, table.splitlines())) <= width
    assert [row.id[:13] for row in reversed(line)] == first_words(table)
    assert "loss 0.25" in table


def test_show_and_follow(fem: Call, line: list[ModelRow]) -> None:
    told = fem("show", line[2].id[:13])
    for text in (line[2].id, line[1].id, line[2].sha256, "digits", "site-a, site-b", "loss 0.3333"):
        assert text in told
    assert "0 (the seed)" in fem("show", line[0].id)
    assert json.loads(fem("show", line[2].id, "--json"))["clients"] == {"site-a": 10.0, "site-b": 20.0}
    assert first_words(fem("ancestors", line[2].id)) == [line[1].id, line[0].id]
    assert [row["id"] for row in json.loads(fem("descendants", line[1].id, "--json"))] == [line[2].id, line[3].id]
    with pytest.raises(RecordsRefused, match="no model's id begins with"):
        fem("show", "00000000-0000-0000-0000-000000000000")


def test_download_and_export(fem: Call, line: list[ModelRow], centre: Centre, tmp_path: Path) -> None:
    path = Path(fem("download", line[1].id, "--to", str(tmp_path / "to")).strip())
    assert path == tmp_path / "to" / f"{line[1].id}.safetensors"
    close(ModelFile(path), arrays(1))
    written = fem("export", line[1].id, str(tmp_path / "m.npz")).splitlines()
    assert [Path(one).exists() for one in written] == [True, True]
    Trail(centre).prune(line[1].session, Checkpoints.parse("last"))
    with pytest.raises(ModelGone):
        fem("download", line[1].id, "--to", str(tmp_path / "other"))
    assert "deleted" in fem("list")
    assert "deleted on" in fem("show", line[1].id)


def test_compare(fem: Call, line: list[ModelRow]) -> None:
    table = fem("compare", line[1].id, line[2].id)
    assert [row.split()[0] for row in table.splitlines() if row] == [
        "tensor",
        "dense.weight",
        "dense.bias",
        "scale",
        "all",
        "metric",
        "loss",
    ]
    assert table.splitlines()[-1].split() == ["loss", "0.5", "0.3333"]
    told = json.loads(fem("compare", line[1].id, line[1].id, "--json"))
    assert (told["models"], told["all"]["distance"], told["tensors"][0]["first"]) == ([line[1].id] * 2, 0.0, "F64[3, 4]")


def test_release(fem: Call, line: list[ModelRow], centre: Centre) -> None:
    assert "by eve" in fem("release", line[1].id, "--by", "eve", "--note", "good")
    again = json.loads(fem("release", line[1].id, "--by", "bob", "--json"))
    assert (again["released_by"], again["note"]) == ("eve", "good")
    [entry] = centre.records.audit.of_kind("model-released")
    assert (entry.what["model"], entry.what["person"]) == (line[1].id, "eve")
    assert "good" in fem("show", line[1].id)
