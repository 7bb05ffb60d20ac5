"""Accounts: one for each attempt that ended, however it ended; and the reports that sum them up. On SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import event as sql_event
from sqlalchemy import select

from fdn_worker.errors import Fault
from fdn_worker.protocol import Reason, Report, State, Usage
from storage.accounts import MOST_BYTES
from storage.records import Records
from storage.reports import FIGURES, BadReport, report, total
from storage.schema import accounts
from tests.support.submitted import NOON, Submitted

LOST = Reason(code="lost", fault=Fault.INFRASTRUCTURE, message="silent")
DIGEST = "sha256:" + "a" * 64


def rows(records: Records) -> list[Any]:
    with records.database.read() as db:
        return list(db.execute(select(accounts).order_by(accounts.c.run, accounts.c.attempt)))


def account(records: Records) -> Any:
    [row] = rows(records)
    return row


def used(cpu: float = 12.5, **more: Any) -> Report:
    fields = {"launcher": "docker", "image_digest": DIGEST, "exit_code": 0, "bytes_in": 7, "bytes_out": 9} | more
    return Report(usage=Usage(cpu_seconds=cpu, peak_memory=2**20), **fields)


def test_an_attempt_has_its_account_once_it_has_ended(one: Submitted) -> None:
    stages = [(1, State.ACCEPTED), (3, State.STAGING_IN), (5, State.RUNNING), (65, State.STAGING_OUT), (70, State.AWAITING_RELEASE)]
    one.records.record_events([one.event(number, state) for number, state in stages])
    assert rows(one.records) == []
    end = one.event(100, State.SUCCEEDED, report=used())
    one.records.record_events([end])
    row = account(one.records)
    assert (row.run, row.attempt, row.execution) == (one.run, 1, str(one.id))
    assert (row.user, row.project, row.tool, row.task, row.node, row.state) == ("ada", "p", "t", "mean", "site-a", State.SUCCEEDED)
    assert (row.launcher, row.image_digest, row.exit_code, row.reason_code, row.reason_fault) == ("docker", DIGEST, 0, None, None)
    assert (row.cpu_seconds, row.peak_memory, row.estimated, row.bytes_in, row.bytes_out) == (12.5, 2**20, False, 7, 9)
    assert (row.issued, row.ended) == (NOON, NOON + timedelta(seconds=100))
    assert [row.waiting, row.staging_in, row.running, row.staging_out, row.releasing] == [3, 2, 60, 5, 30]
    one.records.record_events([end])
    assert account(one.records) == row


def test_events_that_come_together_and_out_of_order_give_the_same(one: Submitted) -> None:
    states = {5: State.SUCCEEDED, 2: State.STAGING_IN, 4: State.STAGING_OUT, 3: State.RUNNING}
    one.records.record_events([one.event(number, state, report=used() if number == 5 else None) for number, state in states.items()])
    row = account(one.records)
    assert [row.waiting, row.staging_in, row.running, row.staging_out, row.releasing] == [2, 1, 1, 1, 0]


def test_killed_and_retried_attempts_have_accounts_of_their_own(one: Submitted) -> None:
    reason = Reason(code="out-of-memory", fault=Fault.USER, message="x")
    one.records.record_events([one.event(1, State.RUNNING), one.event(9, State.FAILED, reason=reason, report=used(3, exit_code=137))])
    one.add(2)
    one.records.record_events([one.event(1, State.RUNNING, attempt=2), one.event(5, State.CANCELLED, attempt=2, report=used(1))])
    one.add(3)
    one.records.end_undispatched(one.run, 3, State.CANCELLED)
    one.add(4)
    one.records.mark_lost(one.run, 4, LOST)
    first, second, third, fourth = rows(one.records)
    assert (first.state, first.reason_code, first.reason_fault, first.exit_code, first.cpu_seconds) == (
        State.FAILED, "out-of-memory", "user", 137, 3.0)  # fmt: skip
    assert (second.state, second.cpu_seconds, second.running) == (State.CANCELLED, 1.0, 4.0)
    assert (third.state, third.cpu_seconds, third.launcher, third.running) == (State.CANCELLED, 0.0, None, 0.0)
    assert (fourth.state, fourth.reason_code, fourth.exit_code) == (State.LOST, "lost", None)
    assert third.waiting == pytest.approx((third.ended - NOON).total_seconds())


def test_a_late_word_replaces_the_account_of_a_lost_attempt(one: Submitted) -> None:
    one.records.record_events([one.event(1, State.RUNNING)])
    one.records.mark_lost(one.run, 1, LOST)
    assert account(one.records).state is State.LOST
    one.records.record_events([one.event(2, State.STAGING_OUT)])
    assert rows(one.records) == []  # it has not ended after all
    one.records.mark_lost(one.run, 1, LOST)
    one.records.record_events([one.event(3, State.SUCCEEDED, report=used())])
    row = account(one.records)
    assert (row.state, row.reason_code, row.cpu_seconds) == (State.SUCCEEDED, None, 12.5)


def test_a_late_word_of_an_attempt_that_was_given_up_leaves_its_account(one: Submitted) -> None:
    one.records.mark_lost(one.run, 1, LOST)
    before = account(one.records)
    one.add(2)
    one.records.record_events([one.event(1, State.SUCCEEDED, report=used())])
    assert rows(one.records) == [before]


def test_no_node_breaks_the_accounts(one: Submitted) -> None:
    """Whatever it says of times and sizes is cut to what is possible, and marked."""
    absurd = Report(
        usage=Usage(cpu_seconds=1e300, peak_memory=10**30), exit_code=10**12, bytes_in=2**63, bytes_out=10**40, launcher="x\0" * 9999
    )  # fmt: skip
    far = {1: datetime(9999, 1, 1, tzinfo=UTC), 2: datetime(1, 1, 2, tzinfo=UTC)}
    said = [one.event(number, state) for number, state in ((1, State.RUNNING), (2, State.STAGING_OUT))]
    one.records.record_events([event.model_copy(update={"at": far[event.number]}) for event in said])
    end = one.event(3, State.SUCCEEDED, report=absurd).model_copy(update={"at": datetime(9998, 1, 1, tzinfo=UTC)})
    one.records.record_events([end])
    row = account(one.records)
    known = (datetime.now(UTC) - NOON).total_seconds()
    assert NOON <= row.ended <= datetime.now(UTC)
    assert all(0 <= seconds <= known for seconds in (row.waiting, row.staging_in, row.running, row.staging_out, row.releasing))
    assert (row.estimated, row.exit_code, row.peak_memory, row.bytes_in, row.bytes_out) == (True, None, MOST_BYTES, MOST_BYTES, MOST_BYTES)
    assert row.cpu_seconds <= 4096 * known
    assert len(row.launcher) == 500
    assert "\0" not in row.launcher
    frame = report(one.records, ("node",), period="month")
    assert (frame["bytes_out"][0], frame["estimated"][0]) == (MOST_BYTES, 1)


def test_a_node_whose_clock_differs_has_the_right_stages(one: Submitted) -> None:
    """Only the waiting crosses the two clocks."""
    behind = timedelta(minutes=10)
    said = [one.event(n, s) for n, s in ((2, State.STAGING_IN), (3, State.RUNNING), (63, State.STAGING_OUT), (64, State.SUCCEEDED))]
    one.records.record_events([event.model_copy(update={"at": event.at - behind}) for event in said])
    row = account(one.records)
    assert [row.waiting, row.staging_in, row.running, row.staging_out] == [0, 1, 60, 1]
    assert row.ended == row.issued


def test_other_events_cost_no_statement(one: Submitted) -> None:
    statements: list[str] = []
    engine = one.records.database._engine
    sql_event.listen(engine, "before_cursor_execute", lambda *words: statements.append(words[2]))
    one.records.record_events([one.event(1, State.RUNNING), one.event(2, lines=("x",))])
    one.records.record_events([one.event(3, State.STAGING_OUT)])
    assert [text for text in statements if "accounts" in text] == []
    one.records.record_events([one.event(4, State.SUCCEEDED)])
    assert len([text for text in statements if "INTO accounts" in text]) == 1


# Reports


@pytest.fixture
def year(records: Records) -> Records:
    """Attempts over some weeks, at the edges of days, weeks, months and years."""
    moments = {
        "2025-12-28T23:59:59": ("a", State.SUCCEEDED, 1), "2025-12-29T00:00:00": ("a", State.SUCCEEDED, 1),
        "2026-01-01T00:00:00": ("b", State.FAILED, 1), "2026-01-04T23:59:59.999999": ("b", State.SUCCEEDED, 2),
        "2026-01-05T00:00:00": ("b", State.LOST, 1), "2026-02-01T00:00:00": ("b", State.REJECTED, 1), "2026-02-01T00:00:01": ("b", State.CANCELLED, 1),
    }  # fmt: skip
    with records.database.write() as db:
        for number, (ended, (user, state, attempt)) in enumerate(moments.items()):
            at = datetime.fromisoformat(ended).replace(tzinfo=UTC)
            db.execute(
                accounts.insert().values(
                    run=f"{number:032x}", attempt=attempt, execution=f"{9:032x}", user=user, project="", tool="t", task="main",
                    node=f"site-{user}", state=state, cpu_seconds=1800.0, peak_memory=number, estimated=False, bytes_in=2**49, bytes_out=1,
                    issued=at - timedelta(hours=1), ended=at, waiting=1.0, staging_in=1.0, running=3600.0, staging_out=1.0, releasing=0.0,
                )
            )  # fmt: skip
    return records


def told(frame: pd.DataFrame, *columns: str) -> list[tuple[Any, ...]]:
    return [tuple(row) for row in frame[list(columns)].itertuples(index=False)]


def test_a_report_by_user(year: Records) -> None:
    frame = report(year)
    assert list(frame.columns) == ["user", *FIGURES]
    assert told(frame, "user", "attempts", "runs", "retried", "succeeded", "failed", "lost", "rejected", "cancelled") == [
        ("a", 2, 2, 0, 2, 0, 0, 0, 0), ("b", 5, 4, 1, 1, 1, 1, 1, 1),
    ]  # fmt: skip
    assert told(frame, "cpu_hours", "wall_hours", "peak_memory", "bytes_in", "bytes_out") == [
        (1, 2, 1, 2**50, 2),
        (2.5, 5, 6, 5 * 2**49, 5),
    ]
    assert total(frame)["attempts"] == 7
    assert total(frame)["peak_memory"] == 6


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        ("day", {"2025-12-28": 1, "2025-12-29": 1, "2026-01-01": 1, "2026-01-04": 1, "2026-01-05": 1, "2026-02-01": 2}),
        ("week", {"2025-12-22": 1, "2025-12-29": 3, "2026-01-05": 1, "2026-01-26": 2}),
        ("month", {"2025-12-01": 2, "2026-01-01": 3, "2026-02-01": 2}),
    ],
)
def test_a_report_by_period(year: Records, period: str, expected: dict[str, int]) -> None:
    frame = report(year, (), period=period)
    assert {f"{first:%Y-%m-%d}": attempts for first, attempts in told(frame, "period", "attempts")} == expected
    assert list(frame["period"]) == sorted(frame["period"])


def test_a_report_of_a_part(year: Records) -> None:
    new_year, february = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
    assert told(report(year, ("state",), since=new_year, until=february), "state", "attempts") == [
        ("FAILED", 1), ("LOST", 1), ("SUCCEEDED", 1)]  # fmt: skip
    assert told(report(year, ("node", "task"), where={"state": "succeeded", "user": "a"}), "node", "task", "runs") == [
        ("site-a", "main", 2)
    ]
    assert total(report(year, ()))["attempts"] == 7


def test_a_report_of_nothing(records: Records) -> None:
    for frame in (report(records), report(records, ()), report(records, ("state", "tool"), period="week")):
        assert len(frame) == 0
        assert total(frame)["attempts"] == 0


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"by": ("usr",)}, "report by 'usr': unknown (did you mean user?)"),
        ({"by": ("user", "x; DROP TABLE accounts")}, "known are: user, project, tool, node, task, state"),
        ({"period": "year"}, "period 'year': unknown (known are: day, week, month)"),
        ({"where": {"state": "suceeded"}}, "state 'SUCEEDED': unknown (did you mean SUCCEEDED?)"),
        ({"where": {"ended": "x"}}, "report by 'ended': unknown"),
    ],
)
def test_a_report_that_there_is_none_of(records: Records, asked: dict[str, Any], words: str) -> None:
    with pytest.raises(BadReport) as caught:
        report(records, **asked)
    assert words in str(caught.value)
