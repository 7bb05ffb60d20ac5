"""The checks of the airlock: what a table or a text tells that it must not, and files that try to get past them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.errors import SettingsError
from fdn_worker.release import checks, tables
from fdn_worker.release.checks import load

COUNTS: Mapping[str, Any] = {"min_count": 10, "count_columns": ["n", "*_count"]}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "out.csv"


def found(file: Path, name: str, content: str | bytes, **options: Any) -> list[str]:
    """What the check says of a file with that content."""
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(load(name, options).findings(file))


GOOD = 'group,n,mean\n"a, b",10,3.5\nc,12,-0.5\n'


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        (GOOD, COUNTS | {"max_rows": 2, "max_columns": 3, "forbidden_columns": ["name"]}, []),
        (GOOD.replace("\n", "\r\n"), COUNTS, []),
        ("\ufeff" + GOOD, COUNTS | {"forbidden_columns": ["x"]}, []),
        ("a;n\nx;10\n", COUNTS | {"delimiter": ";"}, []),
        ("a,n\n\nx,10\n\n", COUNTS, []),
        # small cells
        ("a,n\nx,10\ny,9\nz,3\n", COUNTS, ["column 'n' has counts below 10: 2 rows, the first is row 2"]),
        ("a,N \nx,9\n", COUNTS, ["column 'n' has counts below 10: row 1"]),
        ("a,n\nx,9.5\n", COUNTS, ["column 'n' has counts below 10: row 1"]),
        ("a,n\nx,-12\n", COUNTS, ["column 'n' has counts below 10: row 1"]),
        ("a,n\nx,٣\n", COUNTS, ["column 'n' has counts below 10: row 1"]),
        ("a,n\nx,0\n", COUNTS, ["column 'n' has counts below 10: row 1"]),
        ("a,n\nx,0\ny,0.0\n", COUNTS | {"allow_zero": True}, []),
        ("a,n\nx,NA\ny,\nz,*\n", COUNTS, []),
        ("a,n\nx,three\ny,nan\n", COUNTS, ["column 'n' has a cell that is no count: 2 rows, the first is row 1"]),
        ("a,n,old_count\nx,10,1e0\n", COUNTS, ["column 'old_count' has counts below 10: row 1"]),
        ("a,b\nx,y\n", COUNTS, ["it has no column of counts"]),
        # in every column: whole numbers are counts, and nothing else is
        ("a,b,c\nx,3.5,-4\ny,11,z\n", {"min_count": 10, "count_columns": ["*"]}, []),
        ("a,b\nx,3\n", {"min_count": 10, "count_columns": ["*"]}, ["column 'b' has counts below 10: row 1"]),
        # groups
        ("sex,age\nf,1\nf,2\nm,3\n", {"group_columns": ["SEX"], "min_group": 2}, ["1 of 2 groups have fewer than 2 rows"]),
        ("sex,age\nf,1\nf ,2\n", {"group_columns": ["sex"], "min_group": 2}, []),
        ("age\n1\n", {"group_columns": ["sex"], "min_group": 2}, ["column 'sex', which makes groups, is missing"]),
        # size
        ("a,b\n1,2\n3,4\n", {"max_rows": 1}, ["it has more than 1 rows"]),
        ("a,b,c\n", {"max_columns": 2}, ["it has 3 columns, more than 2"]),
        ("a,b\nxxxx,y\n", {"max_cell": 3}, ["column 'a' has a cell of more than 3 characters: row 1"]),
        # columns
        ("Patient Name,x\n", {"forbidden_columns": ["patient*"]}, ["column 'patient name' is forbidden"]),
        ("ｎａｍｅ,x\n", {"forbidden_columns": ["name"]}, ["column 'name' is forbidden"]),
        ("a/b,x\n", {"forbidden_columns": ["a*"]}, ["column 'a/b' is forbidden"]),
        ("a,A\n", {}, ["two columns are named 'a'"]),
        ("a,\n", {}, ["a column has no name, or a number for one: the first row must be a header"]),
        ("4711,x\n", {}, ["a column has no name, or a number for one: the first row must be a header"]),
        ("", {}, ["it has no header"]),
        # rows that are none
        ("a,b\n1\n1,2,3\n", {}, ["another number of cells than columns: 2 rows, the first is row 1"]),
        # what a spreadsheet would run
        ("a,b\n=cmd(),2\n", {}, ["column 'a' has a cell that a spreadsheet takes for a formula: row 1"]),
        ("a,b\n @x,+1\n", {}, ["column 'a' has a cell that a spreadsheet takes for a formula: row 1"]),
        ("a,b\n=1,-2\n", {"allow_formulas": True}, []),
        # what is not seen
        ("a,b\nx\u202ey,2\n", {}, ["column 'a' has a cell with a character that is not seen: row 1"]),
        ('a,b\n"x\ny",2\n', {}, ["column 'a' has a cell with a character that is not seen: row 1"]),
        ("a,b\nx\x00y,2\n", {}, ["column 'a' has a cell with a character that is not seen: row 1"]),
    ],
)  # fmt: skip
def test_csv(file: Path, content: str, options: dict[str, Any], said: list[str]) -> None:
    assert found(file, "csv", content, **options) == said


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a,b\nä,1\n".encode("latin-1"), "can't decode byte 0xe4"),
        ("a,b\n1,2\n".encode("utf-16"), "can't decode byte 0xff"),
        (b'a,b\n"x,2\n', "unexpected end of data"),
        (b'a,b\n"x"y,2\n', "expected after"),
        (b"a,b\n" + b"x" * 200_000 + b",2\n", "field larger than field limit"),
        (b"a,b\n" + b"x," * 600_000, "a line has more than 1,000,000 characters"),
        (b'a,b\n"x' + b"\n" * 2000 + b'",2\n', "a row has more than 1,000 lines"),
    ],
)
def test_what_cannot_be_read_as_csv(file: Path, content: bytes, words: str) -> None:
    (said,) = found(file, "csv", content)
    assert said.startswith("it cannot be read as CSV: ")
    assert words in said


def test_a_file_of_any_length_takes_little_memory(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "MOST_GROUPS", 3)
    said = found(file, "csv", "g,x\n" + "".join(f"{number},y\n" for number in range(9)), group_columns=["g"], min_group=1)
    assert said == ["it has more than 3 groups"]


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("one\ntwo\n", {"max_lines": 2, "forbidden": [r"\d{10}"]}, []),
        ("one\n" * 3, {"max_lines": 2}, ["it has more than 2 lines"]),
        ("x" * 11, {"max_line": 10}, ["line 1 has more than 10 characters"]),
        ("x" * 10 + "\n" + "y" * 10, {"max_line": 10}, []),
        ("a\nid 1234567890\nid 1234567891\n", {"forbidden": [r"\d{10}"]}, [r"line 2 matches '\\d{10}'"]),
        ("a\x1b[2Jb\n", {}, ["line 1 has a control code"]),
        (b"\xff\xfe", {}, ["it is not UTF-8: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"]),
    ],
)
def test_text(file: Path, content: str | bytes, options: dict[str, Any], said: list[str]) -> None:
    assert found(file, "text", content, **options) == said


def test_no_link_is_followed(file: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("a,b\n")
    file.symlink_to(tmp_path / "secret")
    for name in ("csv", "text"):
        with pytest.raises(OSError, match="symbolic links"):
            list(load(name, {}).findings(file))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("csv", {"min_cuont": 3}, "[release.rules.checks.csv] min_cuont"),
        ("csv", {"min_count": 3}, "min_count and count_columns belong together"),
        ("csv", {"group_columns": ["a"]}, "min_group and group_columns belong together"),
        ("csv", {"delimiter": ",,"}, "delimiter"),
        ("text", {"forbidden": ["("]}, "'(' is no regular expression"),
        ("parquet", {}, "check 'parquet' is not installed"),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(name, options)
    assert words in str(caught.value)


class Unwilling:
    """A check of somebody's package."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.why = options["why"]

    def findings(self, file: Path) -> list[str]:
        return [self.why]


def test_a_check_from_a_package(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [metadata.EntryPoint(name, f"{__name__}:Unwilling", checks.GROUP) for name in ("unwilling", "csv")]
    monkeypatch.setattr(checks, "entry_points", lambda group: points if group == checks.GROUP else [])
    monkeypatch.setattr(metadata.EntryPoint, "load", lambda self: Unwilling)
    assert found(file, "unwilling", "x", why="no") == ["no"]
    assert found(file, "csv", "a,b\n1,2\n") == [], "no package replaces what is built in"
