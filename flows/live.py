"""The runs of an execution in the terminal: a table that is kept up to date, and the tasks' log lines above it."""

from __future__ import annotations

import re
import statistics
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Column, Table
from rich.text import Text

from fdn_worker.protocol import State, TaskEvent, now

COLOURS = {
    State.QUEUED: "dim", State.SUCCEEDED: "green", State.FAILED: "red", State.REJECTED: "red", State.LOST: "red", State.CANCELLED: "yellow",
}  # fmt: skip
#: One for each node, again from the start when they are used up.
NODE_COLOURS = (
    "cyan",
    "magenta",
    "green",
    "yellow",
    "blue",
    "bright_cyan",
    "bright_magenta",
    "bright_green",
    "bright_yellow",
    "bright_blue",
)
#: Seconds between two redraws at least, and between two when nothing was heard: the times move on.
FASTEST, IDLE = 1 / 8, 1.0
#: Rows that are shown at most; of more runs, those that are not well and the latest to change.
MOST_ROWS = 30
#: Log lines of one redraw; nobody reads more.
MOST_LINES = 200
#: Rows of the terminal that are left for log lines and the header.
MARGIN = 8
#: A run is slow when it takes so many times the median of those that have ended.
SLOW = 2.0

# Terminal commands of a task's output, such as colours and the cursor's moves, and what is left of others without their first byte.
_COMMANDS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def harmless(line: str) -> str:
    """A site's text without anything that a terminal would obey."""
    return _COMMANDS.sub("", line).replace("\t", "    ")


def ago(moment: datetime | None, at: datetime) -> str:
    """Since when, for people."""
    if moment is None:
        return ""
    seconds = max(0.0, (at - moment).total_seconds())
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{moment.astimezone():%m-%d %H:%M}"


@dataclass
class Row:
    """A run as it stands."""

    node: str
    task: str
    state: State = State.QUEUED
    attempt: int = 0
    begun: datetime | None = None
    since: datetime | None = None
    line: str = ""
    why: str = ""
    #: Of all changes, the number of this row's last one.
    change: int = 0

    @property
    def bad(self) -> bool:
        return self.state.terminal and self.state is not State.SUCCEEDED

    @property
    def seconds(self) -> float:
        """From its first word to its last state."""
        return (self.since - self.begun).total_seconds() if self.since and self.begun else 0.0


class Board:
    """The runs of an execution, fed with their events."""

    def __init__(self, runs: Iterable[tuple[str, str]] = ()) -> None:
        self.rows = {(task, node): Row(node, task) for task, node in runs}
        #: Known with the first event.
        self.execution: UUID | None = None
        self._changes = 0

    def add(self, event: TaskEvent) -> None:
        """Take in what was said."""
        self.execution = event.execution
        row = self.rows.setdefault((event.task, event.node), Row(event.node, event.task))
        if event.attempt < row.attempt:
            return
        if event.attempt > row.attempt:
            row.attempt, row.begun, row.why = event.attempt, event.at, ""
        if event.state is not None:
            self.put(row, event.state, event.at, event.reason.message if event.reason else "")
        if event.lines:
            row.line = harmless(event.lines[-1])

    def put(self, row: Row, state: State, since: datetime | None, why: str) -> None:
        """How a run stands, from wherever it is known."""
        self._changes += 1
        row.state, row.since, row.why, row.change = state, since, harmless(why), self._changes

    @property
    def counts(self) -> Counter[State]:
        return Counter(row.state for row in self.rows.values())

    @property
    def ended(self) -> int:
        return sum(row.state.terminal for row in self.rows.values())

    def slow(self, at: datetime) -> list[Row]:
        """Runs that take much longer than the others did, once half have ended; the slowest first."""
        took = [row.seconds for row in self.rows.values() if row.state.terminal]
        if 2 * len(took) < len(self.rows) or not took:
            return []
        limit = SLOW * statistics.median(took)
        found = [row for row in self.rows.values() if not row.state.terminal and row.begun and (at - row.begun).total_seconds() > limit]
        return sorted(found, key=lambda row: row.begun or at)

    def shown(self, room: int, at: datetime) -> list[Row]:
        """All of them by task and node, or of more than `room` those that are not well, then the latest to change."""
        rows = [self.rows[key] for key in sorted(self.rows)]
        if len(rows) <= room:
            return rows
        newest = sorted(rows, key=lambda row: -row.change)
        chosen = [row for row in newest if row.bad][: room // 2] + self.slow(at)[: room // 4]
        return chosen + [row for row in newest if row not in chosen][: room - len(chosen)]

    def table(self, room: int = MOST_ROWS, *, whole: bool = False) -> Table:
        """A row for each that is shown, a line high unless it is to be `whole`; columns that would say nothing are left out."""
        at = now()
        shown = self.shown(room, at)
        tasks, again = len({row.task for row in shown}) > 1, any(row.attempt > 1 for row in shown)
        narrow = [Column("node", no_wrap=True), *([Column("task", no_wrap=True)] * tasks), Column("state", no_wrap=True)]
        narrow += [Column("since", no_wrap=True, justify="right"), *([Column("attempt", no_wrap=True, justify="right")] * again)]
        last_of_all = Column("why" if whole else "last line, or why", no_wrap=not whole, overflow="fold" if whole else "ellipsis", ratio=1)
        table = Table(*narrow, last_of_all, box=None, pad_edge=False, expand=True)
        for row in shown:
            last = Text(row.why, COLOURS.get(row.state, "")) if row.why else Text(row.line, "dim")
            state = Text(row.state, COLOURS.get(row.state, "blue"))
            cells = [
                Text(row.node),
                *([Text(row.task)] * tasks),
                state,
                Text(ago(row.since, at)),
                *([Text(str(row.attempt))] * again),
                last,
            ]
            table.add_row(*cells)
        if len(shown) < len(self.rows):
            table.add_row(Text(f"and {len(self.rows) - len(shown)} more", "dim"))
        return table

    def header(self) -> RenderableType:
        """How far they are, and how many are in which state."""
        counts = self.counts
        bar = Table.grid(padding=(0, 2))
        bar.add_row(ProgressBar(len(self.rows) or 1, self.ended, width=40), f"{self.ended}/{len(self.rows)}")
        return Group(bar, Text("  ").join(Text(f"{counts[state]} {state}", COLOURS.get(state, "blue")) for state in State if counts[state]))


class LiveTable:
    """Shows a board on a terminal while it is entered; `show` takes events from any thread and never draws by itself."""

    def __init__(self, console: Console, title: str, runs: Iterable[tuple[str, str]] = (), *, lines: bool = True) -> None:
        self.board = Board(runs)
        self._console, self._title, self._told = console, title, lines
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._lines: list[Text] = []
        self._skipped = 0
        self._changed = True
        self._colours: dict[str, str] = {}
        self._began = self._drawn = time.monotonic()
        self._live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")
        self._drawing = threading.Thread(target=self._keep_drawing, name="live-table", daemon=True)

    def __enter__(self) -> LiveTable:
        self._live.start()
        self.draw()
        self._drawing.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._drawing.join()
        self.draw()
        self._live.stop()

    def show(self, event: TaskEvent) -> None:
        """Take in what was said; it is seen with the next redraw."""
        with self._lock:
            self.board.add(event)
            self._changed = True
            if self._told:
                colour = self._colours.setdefault(event.node, NODE_COLOURS[len(self._colours) % len(NODE_COLOURS)])
                room = max(0, MOST_LINES - len(self._lines))
                self._skipped += max(0, len(event.lines) - room)
                self._lines += [Text.assemble((f"{event.node} | ", colour), harmless(line)) for line in event.lines[:room]]

    def _keep_drawing(self) -> None:
        while not self._stop.wait(FASTEST):
            if self._changed or time.monotonic() - self._drawn >= IDLE:
                self.draw()

    def draw(self) -> None:
        """Draw it once: the lines that came, and below them the table."""
        with self._lock:
            lines, self._lines, skipped, self._skipped, self._changed = self._lines, [], self._skipped, 0, False
            picture = self._picture()
        if skipped:
            lines.append(Text(f"... {skipped:,} more lines: fem logs", "dim"))
        with self._console:  # what is written goes out as one piece
            if lines:
                self._console.print(Text("\n").join(lines), soft_wrap=True)
            self._live.update(picture, refresh=True)
        self._drawn = time.monotonic()

    def _picture(self) -> RenderableType:
        title = Text.assemble((self._title, "bold"), f"  {time.monotonic() - self._began:.0f} s")
        room = min(MOST_ROWS, max(3, self._console.height - MARGIN))
        # The cursor rests on a line of its own, where the terminal may write a ^C without moving the table.
        return Group(title, self.board.header(), self.board.table(room), Text())
