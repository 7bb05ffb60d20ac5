"""Tables on a terminal, whatever its width."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from flows.listing import listing

HEADER = ("node", "free", "why", "note")
ROWS = [("hospital-north", "2", "a rather long reason that wraps to several lines", ""), ("hospital-south", "10", "", "")]


def shown(width: int, **options: object) -> list[str]:
    out = StringIO()
    Console(file=out, width=width).print(listing(HEADER, ROWS, wrap=("why",), right=("free",), width=width, **options))  # type: ignore[arg-type]
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_what_names_a_row_stays_whole_and_long_texts_wrap() -> None:
    lines = shown(40)
    assert lines[0] == "node            free  why"
    assert [line.split()[0] for line in lines if line.startswith("hospital")] == ["hospital-north", "hospital-south"]
    assert len(lines) > 4
    assert all(len(line) <= 40 for line in lines)


def test_a_column_without_a_word_is_left_out_but_never_the_first() -> None:
    assert "note" not in shown(200)[0]
    out = StringIO()
    Console(file=out, width=40).print(listing(("a", "b"), [("", "x")]))
    assert out.getvalue().split() == ["a", "b", "x"]


def test_what_may_be_spared_goes_first_where_there_is_no_room() -> None:
    assert "why" in shown(200, spare=("why", "free"))[0]
    assert shown(30, spare=("why", "free"))[0].split() == ["node", "free"]
    assert shown(15, spare=("why", "free"))[0].split() == ["node"]


def test_no_rows_is_a_header() -> None:
    assert listing(("a",), []).row_count == 0
