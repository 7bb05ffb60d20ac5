"""A session on a terminal: its rounds as a table that grows, or a line for each where there is no terminal."""

from __future__ import annotations

import threading

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from federation.learning.dashboard import Seen, round_table
from flows.listing import listing
from storage.learning import ENDED, Learning, SessionRow

#: Seconds between two looks at the records.
EVERY = 0.5
#: Rounds that are shown while the session runs: the last ones.
MOST_ROUNDS = 20


def show(learning: Learning, session: str, console: Console, over: threading.Event) -> None:
    """Until the session is over or pauses, or until `over` is set."""
    if console.is_terminal and not console.is_dumb_terminal and not console.quiet:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            while not (over.wait(EVERY) or _rests(learning.find_session(session))):
                live.update(_all(learning, learning.find_session(session), console.width), refresh=True)
        console.print(_all(learning, learning.find_session(session), console.width, most=None))
        return
    told = 0
    while True:
        ended = over.wait(EVERY)
        row = learning.find_session(session)
        header, rows = _table(learning, row)
        done = [cells for cells in rows if cells[1] != "OPEN"]
        for cells in done[told:]:
            console.print(", ".join(f"{_spoken(name)} {cell}" for name, cell in zip(header, cells, strict=True) if cell), soft_wrap=True)
        told = len(done)
        if ended or _rests(row):
            return


def title(row: SessionRow) -> str:
    """The session in a line."""
    return f"session {row.id} {row.name}: {row.state}" + (f", {row.reason}" if row.reason else "")


def table(learning: Learning, row: SessionRow, width: int, most: int | None = None) -> Group:
    """The session's rounds, the last `most` of them."""
    header, rows = _table(learning, row)
    shown = rows if most is None else rows[-most:]
    spare = ("model", "examples", "seconds", "asked")
    body = listing(
        header, shown, wrap=("notes",), right=[name for name in header if name not in ("state", "model", "notes")], spare=spare, width=width
    )
    return Group(Text(title(row)), body if rows else Text("no round yet"))


def _all(learning: Learning, row: SessionRow, width: int, most: int | None = MOST_ROUNDS) -> Group:
    return table(learning, row, width, most)


def _table(learning: Learning, row: SessionRow) -> tuple[list[str], list[list[str]]]:
    header, rows = round_table(Seen(row, learning.rounds(row.id), learning.updates(row.id), []))
    return header, [[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells] for cells in rows]


def _spoken(head: str) -> str:
    """`loss, train` as it is said in a line with other commas."""
    return " ".join(reversed(head.split(", ")))


def _rests(row: SessionRow) -> bool:
    return row.state in (*ENDED, "PAUSED")
