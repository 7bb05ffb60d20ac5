"""The table in the terminal: what is shown of few and of many runs, and that drawing is bounded whatever comes."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any

import pytest
from rich.console import Console

from fdn_worker.errors import Fault
from fdn_worker.protocol import Reason, State, TaskEvent, now
from flows import live
from flows.live import Board, LiveTable, ago, harmless
from tests.unit.helpers import MOMENT, an_event, an_order

REASON = Reason(code="exit-code", fault=Fault.USER, message="the task ended with exit code 1")


def said(node: str, number: int, task: str = "main", attempt: int = 1, **fields: Any) -> TaskEvent:
    return an_event(an_order(node=node, task=task, attempt=attempt), number, **fields)


def shown(board: Board, room: int = 30, width: int = 100) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(board.table(room))
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def test_a_row_for_each_run_with_what_it_said_last() -> None:
    board = Board([("main", "site-b"), ("main", "site-a")])
    board.add(said("site-a", 1, state=State.RUNNING))
    board.add(said("site-a", 2, lines=("one", "two")))
    head, a, b = shown(board)
    assert head.split() == ["node", "state", "since", "last", "line,", "or", "why"]
    assert (a.split()[:2], a.split()[-1]) == (["site-a", "RUNNING"], "two")
    assert b.split() == ["site-b", "QUEUED"]


def test_tasks_attempts_and_reasons_show_when_there_are_some() -> None:
    board = Board([("server", "site-a"), ("client", "site-b")])
    board.add(said("site-b", 1, "client", state=State.FAILED, reason=REASON))
    assert "exit code 1" in shown(board)[1]
    assert "attempt" not in shown(board)[0]
    board.add(said("site-b", 1, "client", attempt=2, state=State.ACCEPTED))
    head, client, server = shown(board)
    assert {"task", "attempt"} <= set(head.split())
    assert client.split()[:3] == ["site-b", "client", "ACCEPTED"]
    assert "exit code" not in client
    assert server.split()[:3] == ["site-a", "server", "QUEUED"]
    board.add(said("site-b", 5, "client", attempt=1, state=State.FAILED))
    assert "FAILED" not in shown(board)[1], "an earlier attempt's late word changes nothing"


def test_of_many_those_that_are_not_well_and_the_latest_to_change() -> None:
    nodes = [f"n{number:03d}" for number in range(100)]
    board = Board(("main", node) for node in nodes)
    for node in nodes:
        board.add(said(node, 1, state=State.RUNNING))
    for node in nodes[:60]:
        board.add(said(node, 2, state=State.SUCCEEDED))
    board.add(said("n070", 2, state=State.FAILED, reason=REASON))
    board.add(said("n090", 2, lines=("x",)))
    board.add(said("n099", 2, state=State.STAGING_OUT))
    at = MOMENT + timedelta(seconds=2)
    chosen = [row.node for row in board.shown(10, at)]
    assert (len(chosen), chosen[:2]) == (10, ["n070", "n099"])
    assert shown(board, 10)[-1] == "and 90 more"
    assert len(shown(board, 10)) == 12
    # Much later, those that still run are slow.
    late = [row.node for row in board.shown(12, MOMENT + timedelta(seconds=600))]
    assert late[0] == "n070"
    assert set(late[1:4]) <= set(nodes[60:])
    assert [row.state for row in board.shown(12, MOMENT + timedelta(seconds=600))[1:4]] == [State.RUNNING] * 3


def test_nobody_is_slow_before_half_have_ended() -> None:
    board = Board(("main", node) for node in ("a", "b", "c"))
    for node in ("a", "b", "c"):
        board.add(said(node, 1, state=State.RUNNING))
    board.add(said("a", 2, state=State.SUCCEEDED))
    at = MOMENT + timedelta(hours=1)
    assert board.slow(at) == []
    board.add(said("b", 2, state=State.SUCCEEDED))
    assert [row.node for row in board.slow(at)] == ["c"]


def test_a_long_reason_is_cut_in_the_live_table_and_whole_elsewhere() -> None:
    board = Board()
    board.put(board.rows.setdefault(("main", "a"), live.Row("a", "main")), State.FAILED, None, "long " * 40)
    assert len(shown(board, width=60)) == 2
    console = Console(file=io.StringIO(), width=60)
    console.print(board.table(whole=True))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().count("long") == 40


@pytest.mark.parametrize(
    ("line", "plain"),
    [("\x1b[31mred\x1b[0m", "red"), ("\x1b]0;title\x07x", "]0;titlex"), ("a\tb", "ab"), ("10%\r20%", "10%20%"), ("é [bold]", "é [bold]")],
)
def test_nothing_that_a_task_writes_commands_the_terminal(line: str, plain: str) -> None:
    assert harmless(line).replace("    ", "") == plain


def test_since_when() -> None:
    at = now()
    assert [ago(moment, at) for moment in (None, at + timedelta(seconds=3), at - timedelta(seconds=119), at - timedelta(minutes=90))] == [
        "", "0 s", "119 s", "90 min"
    ]  # fmt: skip


def a_live_table(**options: Any) -> tuple[LiveTable, io.StringIO]:
    file = io.StringIO()
    return LiveTable(Console(file=file, force_terminal=True, width=100, height=40, color_system=None), "tool at 3 nodes", **options), file


def test_events_never_draw_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FASTEST", 3600.0)
    table, file = a_live_table()
    with table:
        before = file.tell()
        for number in range(1000):
            table.show(said("site-a", number + 1, lines=(f"line {number}",)))
        assert file.tell() == before
        table.draw()
        text = file.getvalue()[before:]
        assert text.count("tool at 3 nodes") <= 2
        assert f"site-a | line {live.MOST_LINES - 1}" in text
        assert f"site-a | line {live.MOST_LINES}" not in text
        assert f"{1000 - live.MOST_LINES} more lines: fem logs" in text
        table.show(said("site-a", 1001, lines=("later",)))
    assert "site-a | later" in file.getvalue(), "what came last is shown before it ends"


def test_without_lines_the_table_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FASTEST", 3600.0)
    table, file = a_live_table(lines=False)
    with table:
        table.show(said("site-a", 1, state=State.RUNNING, lines=("hello",)))
    assert "site-a | hello" not in file.getvalue()
    assert "1 RUNNING" in file.getvalue()
