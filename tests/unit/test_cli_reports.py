"""`fem report` and `fem clean` as commands, on records of this process."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from fdn_worker.errors import FdnError, SettingsError
from fdn_worker.protocol import State
from federation.centre import Centre
from federation.results import FilesDeleted, describe
from flows import cli, cli_reports, connection
from storage.reports import BadReport, report
from tests.unit.ended import ended

Call = Callable[..., Result]


@pytest.fixture
def fem(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run a command; errors of ours are raised, as `cli.main` would get them."""
    monkeypatch.setattr(connection, "centre", lambda: centre)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*words: str) -> Result:
        ran = CliRunner().invoke(cli.app, list(words))
        if isinstance(ran.exception, FdnError):
            raise ran.exception
        return ran

    return call


@pytest.fixture
def used(centre: Centre) -> Centre:
    """Three runs of two projects, one of which has a name that is no good in HTML."""
    for key, project, state in (("1", "ages", State.SUCCEEDED), ("2", "<b>&", State.FAILED), ("3", "", State.SUCCEEDED)):
        ended(centre, key, project, state)
    return centre


# report


def test_the_table_fits_and_adds_up(fem: Call, used: Centre) -> None:
    lines = fem("report", "--by", "project, node").stdout.splitlines()
    assert max(map(len, lines)) <= 100
    assert [line.split()[0] for line in lines[2:]] == ["(none)", "<b>&", "ages", "all"]
    assert lines[-1].split()[:4] == ["all", "3", "2", "1"]


def test_a_long_table_is_cut_and_still_adds_up(fem: Call, used: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli_reports, "MOST_ROWS", 2)
    ran = fem("report", "--by", "project")
    assert [line.split()[0] for line in ran.stdout.splitlines()[2:]] == ["(none)", "<b>&", "all"]
    assert ran.stdout.splitlines()[-1].split()[1] == "3"
    assert ran.stderr == "the first 2 of 3 rows: `--csv -` gives all\n"


def test_every_form_holds_the_same(fem: Call, used: Centre, tmp_path: Path) -> None:
    csv, parquet, html = (tmp_path / name for name in ("a.csv", "a.parquet", "a.html"))
    ran = fem("report", "--by", "project,state", "--csv", str(csv), "--parquet", str(parquet), "--html", str(html), "--json")
    frame = report(used.records, ("project", "state"))
    assert json.loads(ran.stdout) == json.loads(frame.to_json(orient="records"))
    pd.testing.assert_frame_equal(pd.read_csv(csv, keep_default_na=False), frame, check_dtype=False)
    pd.testing.assert_frame_equal(pd.read_parquet(parquet), frame, check_dtype=False)
    assert fem("report", "--by", "project,state", "--csv", "-").stdout == csv.read_text()
    page = html.read_text()
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page


def test_the_page_needs_nothing_from_elsewhere(fem: Call, used: Centre, tmp_path: Path) -> None:
    fem("report", "--by", "project", "--period", "day", "--html", str(tmp_path / "a.html"))
    page = (tmp_path / "a.html").read_text()
    assert re.findall(r"""(?:src|href|url\()\s*=?\s*["']?[a-z]+:""", page) == []
    assert "<script" not in page
    assert (page.count("<svg"), page.count("<h2>By day</h2>"), page.count("<h2>By project</h2>")) == (4, 1, 1)


def test_a_part_of_it(fem: Call, used: Centre) -> None:
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    for words, attempts in (
        (("--project", "ages"), 1), (("--state", "failed"), 1), (("--since", day), 3), (("--until", day), None),
        (("--since", f"{day}T00:00:00+00:00", "--node", "site-a"), 3), (("--user", "nobody"), None),
    ):  # fmt: skip
        found = json.loads(fem("report", "--by", "node", *words, "--json").stdout)
        assert [row["attempts"] for row in found] == ([attempts] if attempts else []), words
    assert fem("report", "--until", day).stdout.strip() == "no attempts ended in that time"


def test_a_page_of_nothing(fem: Call, centre: Centre, tmp_path: Path) -> None:
    fem("report", "--period", "week", "--html", str(tmp_path / "a.html"))
    assert "<dt>attempts</dt><dd>0</dd>" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--since", "yesterday"), "--since 'yesterday': write 2030-01-31, or a moment such as"),
        (("--until", "2026-01-01T00:00:00"), "--until '2026-01-01T00:00:00': write"),
    ],
)
def test_a_moment_that_cannot_be_read(fem: Call, words: tuple[str, ...], message: str) -> None:
    ran = fem("report", *words)
    assert ran.exit_code == 2
    assert message in " ".join(ran.stderr.replace("│", "").split())


def test_a_report_that_there_is_none_of(fem: Call) -> None:
    with pytest.raises(BadReport, match=r"report by 'nod': unknown \(did you mean node\?\)"):
        fem("report", "--by", "user,nod")


def test_a_file_that_cannot_be_written(fem: Call, used: Centre, tmp_path: Path) -> None:
    for option in ("--csv", "--html", "--parquet"):
        with pytest.raises(SettingsError, match="no-folder"):
            fem("report", option, str(tmp_path / "no-folder/file"))


def test_parquet_without_its_library(fem: Call, used: Centre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SettingsError, match=r"install the extra `parquet`"):
        fem("report", "--parquet", str(tmp_path / "a.parquet"))
    assert not (tmp_path / "a.parquet").exists()


# clean


def test_a_dry_run_deletes_nothing(fem: Call, used: Centre) -> None:
    ran = fem("clean", "--older-than", "0d", "--dry-run")
    assert re.search(r"would delete 6 objects \([\d.,]+ (B|KiB)\) of 3 executions that closed before", ran.stdout)
    assert len(ran.stdout.splitlines()) == 4
    assert len(list(used.store.list(""))) == 6
    assert fem("clean", "--older-than", "90d").stdout.startswith("deleted 0 objects (0 B) of 0 executions")
    assert all(row.cleaned is None for row in used.records.executions())


def test_outputs_go_and_everybody_is_told(fem: Call, used: Centre) -> None:
    found = {row.project: row.id for row in used.records.executions()}
    assert "deleted 2 objects" in fem("clean", "--older-than", "0h", "--project", "ages").stdout
    for command in ("files", "download"):
        with pytest.raises(FilesDeleted, match=r"^site-a: deleted on \d{4}-\d\d-\d\d by retention$"):
            fem(command, found["ages"])
    assert "outputs/a.csv" in fem("files", found[""]).stdout
    told = [json.loads(line) for line in fem("clean", "--older-than", "0w", "--json").stdout.splitlines()]
    assert {one["project"]: one["objects"] for one in told} == {"<b>&": 2, "": 2}
    assert list(used.store.list("")) == []
    assert all(describe(used, one).cleaned for id_ in found.values() for one in used.submissions(UUID(id_)))


def test_records_go_with_their_outputs(fem: Call, used: Centre) -> None:
    before = fem("report", "--by", "project", "--json").stdout
    assert "6 events" not in fem("clean", "--older-than", "0d", "--dry-run").stdout
    assert "2 events" in fem("clean", "--older-than", "0d", "--dry-run", "--records").stdout
    assert "of 3 executions with their records that closed before" in fem("clean", "--older-than", "0d", "--records").stdout
    assert used.records.executions() == []
    assert list(used.store.list("")) == []
    assert fem("report", "--by", "project", "--json").stdout == before
    assert "of 0 executions" in fem("clean", "--older-than", "0d", "--records").stdout


@pytest.mark.parametrize("age", ["90", "d", "-1d", "1y", "90 days", ""])
def test_an_age_that_cannot_be_read(fem: Call, age: str) -> None:
    ran = fem("clean", f"--older-than={age}")
    assert ran.exit_code == 2
    assert "write such as 90d, 12w or 36h" in " ".join(ran.stderr.replace("│", "").split())
