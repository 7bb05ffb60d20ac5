"""Tables on a terminal: what identifies a row is never cut, columns without a word are left out, and long texts wrap."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

#: Characters that a column of long texts has at least.
NARROWEST = 8


def listing(
    header: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    wrap: Collection[str] = (),
    right: Collection[str] = (),
    spare: Sequence[str] = (),
    width: int = 80,
) -> Table:
    """A table; columns named in `wrap` hold texts of any length, those in `right` numbers.

    Those in `spare` are left out, the first first, for as long as the table is wider than `width`.
    """
    from rich.table import Column, Table

    kept = [index for index in range(len(header)) if index == 0 or any(str(row[index]) for row in rows)]
    for name in spare:
        if sum(_width(header[index], [row[index] for row in rows]) + 2 for index in kept) - 2 > width:
            kept = [index for index in kept if header[index] != name]
    columns = [
        Column(name, overflow="fold", min_width=NARROWEST)
        if name in wrap
        else Column(name, no_wrap=True, justify="right" if name in right else "left")
        for name in (header[index] for index in kept)
    ]
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(row[index] for index in kept))
    return table


def _width(head: str, cells: Sequence[str | Text]) -> int:
    return max(len(word) for word in [*head.split("\n"), *map(str, cells)])
