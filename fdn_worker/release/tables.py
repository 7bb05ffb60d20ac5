"""Check `csv`: what a table of results tells of single persons."""

from __future__ import annotations

import csv
import math
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from fdn_worker.globs import Glob
from fdn_worker.launchers.options import Options, read_options
from fdn_worker.release.kinds import open_plain

#: Characters of a line, and lines of a row: a file need not fit into memory.
LONGEST_LINE, LONGEST_ROW = 1_000_000, 1000
#: Different groups that are counted.
MOST_GROUPS = 100_000
#: Digits may stand for no count at all in these.
EVERY = ("*",)


class CsvOptions(Options):
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] = ","
    #: Rows below the header, and columns, at most.
    max_rows: Annotated[int, Field(ge=0)] | None = None
    max_columns: Annotated[int, Field(ge=1)] | None = None
    #: Characters of a cell at most.
    max_cell: Annotated[int, Field(ge=1)] = 1000
    #: Patterns of columns that must not be there. Upper case and lower case are alike in names of columns.
    forbidden_columns: tuple[str, ...] = ()
    #: The least count that may be told; and patterns of the columns with counts. All columns, ["*"]: each whole number counts.
    min_count: Annotated[int, Field(ge=1)] | None = None
    count_columns: tuple[str, ...] = ()
    #: A count of 0 may be told.
    allow_zero: bool = False
    #: What may stand in a column of counts for a number that was left out.
    suppressed: tuple[str, ...] = ("", "NA", "*")
    #: Columns by which rows make groups, and the least number of rows in each.
    group_columns: tuple[str, ...] = ()
    min_group: Annotated[int, Field(ge=1)] | None = None
    #: Cells that a spreadsheet would take for a formula.
    allow_formulas: bool = False

    @model_validator(mode="after")
    def _in_pairs(self) -> CsvOptions:
        for most, columns in (("min_count", "count_columns"), ("min_group", "group_columns")):
            if (getattr(self, most) is None) == bool(getattr(self, columns)):
                raise ValueError(f"{most} and {columns} belong together")
        return self


class CsvCheck:
    """The first row must name the columns. UTF-8; quoting is strict."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = read_options(CsvOptions, "release.rules.checks.csv", options)

    def findings(self, file: Path) -> Iterator[str]:
        """Each finding once, with how many rows have it and the first of them."""
        tally: dict[str, list[int]] = {}
        try:
            # newline: what stands inside quotes is the reader's matter
            with open(open_plain(file), encoding="utf-8-sig", newline="") as text:
                self._read(Rows(text, self._options.delimiter), tally)
        except (UnicodeDecodeError, csv.Error) as error:
            yield f"it cannot be read as CSV: {error}"
        for what, (rows, first) in tally.items():
            yield what if not first else f"{what}: row {first}" if rows == 1 else f"{what}: {rows:,} rows, the first is row {first:,}"

    def _read(self, rows: Rows, tally: dict[str, list[int]]) -> None:
        def tell(what: str, row: int = 0) -> None:
            tally.setdefault(what, [0, row])[0] += 1

        options = self._options
        header = [_plain(name) for name in next(rows, [])]
        for problem in self._of_header(header):
            tell(problem)
        counts = {at for at, name in enumerate(header) if _any(options.count_columns, name)}
        every = tuple(options.count_columns) == EVERY
        groups: Counter[tuple[str, ...]] = Counter()
        by = [header.index(_plain(name)) for name in options.group_columns if _plain(name) in header]
        number = 0
        for number, row in enumerate(rows, 1):
            if options.max_rows is not None and number > options.max_rows:
                tell(f"it has more than {options.max_rows:,} rows")
                return
            if len(row) != len(header):
                tell("another number of cells than columns", number)
                continue
            for at, cell in enumerate(row):
                for problem in self._of_cell(cell):
                    tell(f"column {header[at]!r} {problem}", number)
                if at in counts and (said := self._of_count(cell, every)):
                    tell(f"column {header[at]!r} {said}", number)
            if by:
                groups[tuple(row[at].strip() for at in by)] += 1
                if len(groups) > MOST_GROUPS:
                    tell(f"it has more than {MOST_GROUPS:,} groups")
                    return
        least = options.min_group or 0
        if small := sum(size < least for size in groups.values()):
            tell(f"{small:,} of {len(groups):,} groups have fewer than {least:,} rows")

    def _of_header(self, header: Sequence[str]) -> Iterator[str]:
        options = self._options
        if not header:
            yield "it has no header"
        if any(not name or _number(name) is not None for name in header):
            yield "a column has no name, or a number for one: the first row must be a header"
        yield from (f"two columns are named {name!r}" for name, times in Counter(header).items() if times > 1)
        if options.max_columns is not None and len(header) > options.max_columns:
            yield f"it has {len(header):,} columns, more than {options.max_columns:,}"
        yield from (f"column {name!r} is forbidden" for name in header if _any(options.forbidden_columns, name))
        if options.count_columns and not any(_any(options.count_columns, name) for name in header):
            yield "it has no column of counts"
        yield from (f"column {name!r}, which makes groups, is missing" for name in options.group_columns if _plain(name) not in header)

    def _of_cell(self, cell: str) -> Iterator[str]:
        if len(cell) > self._options.max_cell:
            yield f"has a cell of more than {self._options.max_cell:,} characters"
        if not cell.isprintable():
            yield "has a cell with a character that is not seen"
        if not self._options.allow_formulas and cell.lstrip().startswith(("=", "+", "-", "@")) and _number(cell) is None:
            yield "has a cell that a spreadsheet takes for a formula"

    def _of_count(self, cell: str, every: bool) -> str:
        count = _number(cell)
        if count is None:
            return "" if every or cell.strip() in self._options.suppressed else "has a cell that is no count"
        if count == 0 and self._options.allow_zero:
            return ""
        # Where every column is looked at, a mean of 3.5 is no count.
        least = self._options.min_count or 0
        small = count < least and not (every and (count < 0 or not count.is_integer()))
        return f"has counts below {least:,}" if small else ""


class Rows:
    """Rows of a CSV file but empty ones; csv.Error for a line or row that is too long."""

    def __init__(self, text: Any, delimiter: str) -> None:
        self._text, self._lines = text, 0
        self._reader = csv.reader(self._read(), delimiter=delimiter, strict=True)

    def _read(self) -> Iterator[str]:
        while line := self._text.readline(LONGEST_LINE + 1):
            self._lines += 1
            if len(line) > LONGEST_LINE:
                raise csv.Error(f"a line has more than {LONGEST_LINE:,} characters")
            if self._lines > LONGEST_ROW:
                raise csv.Error(f"a row has more than {LONGEST_ROW:,} lines")
            yield line

    def __iter__(self) -> Rows:
        return self

    def __next__(self) -> list[str]:
        while True:
            self._lines = 0
            if row := next(self._reader):
                return row


def _plain(name: str) -> str:
    """A column's name as it is compared."""
    return unicodedata.normalize("NFKC", name).strip().casefold()


def _any(patterns: Sequence[str], name: str) -> bool:
    # A name is no path, so that `*` stands for all of it.
    return any(Glob(_plain(pattern).replace("/", "_")).matches(name.replace("/", "_")) for pattern in patterns)


def _number(cell: str) -> float | None:
    """The number that a cell holds, also in other scripts' digits; None when it holds none."""
    try:
        value = float(cell)
    except ValueError:
        return None
    return None if math.isnan(value) else value
