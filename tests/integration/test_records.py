"""Records: every write may be repeated, from several threads and processes. On SQLite, and on PostgreSQL where it is installed."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from dataclasses import FrozenInstanceError
from datetime import UTC, timedelta, timezone
from pathlib import Path

import pytest

from fdn_worker.errors import Fault, SettingsError
from fdn_worker.protocol import Heartbeat, Reason, Report, State, now
from storage import database
from storage.database import RecordsUnavailable
from storage.records import OPEN, Records, RecordsRefused
from storage.schema import SCHEMA_VERSION
from tests.support.submitted import NOON, Submitted

REASON = Reason(code="lost", fault=Fault.INFRASTRUCTURE, message="silent")


# Executions


def test_an_execution_is_written_once(records: Records) -> None:
    one = Submitted(records, "site-a", "site-b", attempt=False)
    row = records.execution(str(one.id))
    assert row
    assert (row.user, row.project, row.tool, row.key, row.state, row.closed) == ("ada", "p", "t", one.key, OPEN, None)
    assert abs(row.created - now()) < timedelta(minutes=1)
    assert one.create() is False
    assert one.create('{"cpus":1,   "argv":["mean"]}') is False  # the same, spelt otherwise
    assert records.execution(str(one.id)) == row
    assert [(run.node, run.task, run.attempt, run.state) for run in records.runs_of(str(one.id))] == [
        ("site-a", "mean", 0, State.QUEUED), ("site-b", "mean", 0, State.QUEUED),
    ]  # fmt: skip
    with pytest.raises(FrozenInstanceError):
        row.state = "x"  # type: ignore[misc]


def test_another_request_under_the_same_key_is_refused(one: Submitted) -> None:
    with pytest.raises(RecordsRefused, match="was used before, for another request") as told:
        one.create('{"argv": ["median"], "cpus": 1}')
    assert told.value.code == "idempotency-conflict"
    row = one.records.execution(str(one.id))
    assert row
    assert json.loads(row.request)["argv"] == ["mean"]


def test_what_is_not_there(records: Records) -> None:
    nothing = str(uuid.uuid4())
    assert [records.execution(nothing), records.run(nothing), records.attempt(nothing, 1), records.node("site-a")] == [None] * 4
    assert [*records.executions(), *records.runs_of(nothing), *records.attempts_of(nothing), *records.nodes()] == []
    assert [*records.events_of(nothing, 1), *records.log_lines(nothing)] == []
    assert records.is_current(nothing, 1) is False
    assert records.attempt(nothing, 2**70) is None
    for call, code in (
        (lambda: records.add_attempt(nothing, 1, order_body=b"", issued=NOON, deadline=NOON), "unknown-run"),
        (lambda: records.mark_lost(nothing, 1, REASON), "unknown-attempt"),
        (lambda: records.retire_node("site-a"), "unknown-node"),
    ):
        with pytest.raises(RecordsRefused) as told:
            call()
        assert told.value.code == code


def test_executions_newest_first(records: Records) -> None:
    all_ = [Submitted(records, attempt=False) for _ in range(3)]
    ids = [str(one.id) for one in reversed(all_)]
    assert [row.id for row in records.executions()] == ids
    assert [row.id for row in records.executions(2)] == ids[:2]
    records.close_execution(ids[1], "SUCCEEDED")
    assert [row.id for row in records.executions(user="ada", state="SUCCEEDED")] == [ids[1]]
    assert [row.id for row in records.executions(state=OPEN)] == [ids[0], ids[2]]
    assert records.executions(user="bob") == []


def test_an_execution_is_closed_and_opened_again(one: Submitted) -> None:
    records, execution = one.records, str(one.id)
    records.close_execution(execution, "FAILED")
    closed = records.execution(execution)
    assert closed
    assert closed.closed
    records.close_execution(execution, "FAILED")
    assert records.execution(execution) == closed
    one.add(1)
    assert records.execution(execution) == closed
    one.add(2)
    opened = records.execution(execution)
    assert opened
    assert (opened.state, opened.closed) == (OPEN, None)
    records.close_execution(execution, "SUCCEEDED")
    assert [row.state for row in records.executions()] == ["SUCCEEDED"]


def test_an_execution_is_found_by_the_beginning_of_its_id(records: Records) -> None:
    ids = ["abcd0000-0000-4000-8000-000000000001", "abcdef00-0000-4000-8000-000000000002", "b0000000-0000-4000-8000-000000000003"]
    for each in ids:
        records.create_execution(each, user="ada", project="", tool="", key=each, request_json="{}", runs=[])
    for given, found in (("b", 2), ("abcdef", 1), ("ABCD0", 0), ("abcd0000-0000-4", 0), (ids[1], 1), (ids[1].replace("-", ""), 1)):
        assert records.find_execution(given).id == ids[found]
    with pytest.raises(RecordsRefused, match=f"{ids[1]}, {ids[0]}") as told:
        records.find_execution("abc")
    assert told.value.code == "ambiguous-execution"
    for given in ("c", "abcde0", "xyz", "", "a%", "_", "0" * 33, "abcd0000-0000-4000-8000-000000000009"):
        with pytest.raises(RecordsRefused) as told:
            records.find_execution(given)
        assert told.value.code == "unknown-execution"


# Attempts


def test_an_attempt_is_written_once_and_fences_the_older(one: Submitted) -> None:
    records = one.records
    assert one.add(1, body=b"another sealing of it") == b"order"  # what may have been sent stays the order
    assert records.is_current(one.run, 1)
    records.record_events([one.event(1, State.FAILED)])
    assert one.add(3, body=b"third") == b"third"
    assert (records.is_current(one.run, 1), records.is_current(one.run, 3)) == (False, True)
    assert one.states(attempt=3) == (State.QUEUED, State.QUEUED)
    assert one.states(attempt=1) == (State.QUEUED, State.FAILED)
    assert one.add(1) == b"order"
    with pytest.raises(RecordsRefused, match="is at attempt 3, too late for 2") as told:
        one.add(2)
    assert told.value.code == "stale-attempt"
    assert [row.attempt for row in records.attempts_of(one.run)] == [1, 3]


def test_the_first_moment_of_a_mark_stands(one: Submitted) -> None:
    later = NOON + timedelta(seconds=5)
    for mark, field in ((one.records.mark_dispatched, "dispatched"), (one.records.mark_cancel_requested, "cancel_requested")):
        assert getattr(one.records.attempt(one.run, 1), field) is None
        mark(one.run, 1, NOON)
        mark(one.run, 1, later)
        assert getattr(one.records.attempt(one.run, 1), field) == NOON


def test_times_and_bytes_come_back_as_they_were(one: Submitted) -> None:
    body = bytes(range(256))
    elsewhere = NOON.astimezone(timezone(timedelta(hours=5, minutes=30)))
    row = one.records.add_attempt(one.run, 2, order_body=body, issued=elsewhere, deadline=NOON)
    assert (row.order_body, row.issued, row.deadline) == (body, NOON, NOON)
    assert row.issued.tzinfo is UTC
    assert row.issued.microsecond == 123456
    with pytest.raises(RecordsUnavailable, match="has no zone"):
        one.records.mark_dispatched(one.run, 2, NOON.replace(tzinfo=None))


def test_an_attempt_that_was_never_sent_is_ended_here(one: Submitted) -> None:
    assert one.records.end_undispatched(one.run, 1, State.CANCELLED).state is State.CANCELLED
    assert one.states() == (State.CANCELLED, State.CANCELLED)
    one.add(2)
    one.records.mark_dispatched(one.run, 2, NOON)
    assert one.records.end_undispatched(one.run, 2, State.CANCELLED).state is State.QUEUED


# Events


def test_events_change_the_state_and_their_end_tells_why(one: Submitted) -> None:
    report = Report(launcher="docker", exit_code=3, lines_dropped=7)
    reason = Reason(code="exit", fault=Fault.USER, message="exit code 3\0")
    said = [
        one.event(1, State.ACCEPTED), one.event(2, State.RUNNING), one.event(3, lines=("ä", "b")),
        one.event(4, State.FAILED, reason=reason, report=report),
    ]  # fmt: skip
    for event in said:
        assert one.records.record_events([event]) == ([event], [])
    row = one.records.attempt(one.run, 1)
    assert row
    assert (one.states(), row.state_at, row.last_number) == ((State.FAILED, State.FAILED), said[-1].at, 4)
    assert row.reason == reason.model_copy(update={"message": "exit code 3\N{REPLACEMENT CHARACTER}"})
    assert Report.model_validate_json(row.report or "") == report
    assert one.records.events_of(one.run, 1) == said
    assert one.records.events_of(one.run, 1, after=2) == said[2:]


def test_a_duplicate_is_dropped(one: Submitted) -> None:
    first, second = one.event(1, State.ACCEPTED), one.event(2, State.RUNNING)
    changed = one.event(2, State.FAILED)
    assert one.records.record_events([second, first, second, changed]) == ([second, first], [])
    assert one.records.record_events([first, changed]) == ([], [])
    assert one.records.events_of(one.run, 1) == [first, second]
    assert one.states() == (State.RUNNING, State.RUNNING)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("order", [(1, 2, 3, 4), (4, 3, 2, 1), (3, 1, 4, 2), (2, 4, 1, 3)])
def test_the_order_of_arrival_does_not_matter(one: Submitted, order: Sequence[int], together: bool) -> None:
    states = {1: State.ACCEPTED, 2: State.RUNNING, 3: None, 4: State.SUCCEEDED}
    said = [one.event(number, states[number], report=Report(exit_code=0) if number == 4 else None) for number in order]
    for batch in [said] if together else [[event] for event in said]:
        assert one.records.record_events(batch) == (batch, [])
    row = one.records.attempt(one.run, 1)
    assert row
    assert (one.states(), row.last_number, row.state_at) == ((State.SUCCEEDED, State.SUCCEEDED), 4, NOON + timedelta(seconds=4))
    assert row.report
    assert [event.number for event in one.records.events_of(one.run, 1)] == [1, 2, 3, 4]


def test_what_cannot_follow_is_kept_and_changes_nothing(one: Submitted, caplog: pytest.LogCaptureFixture) -> None:
    end, other = one.event(1, State.SUCCEEDED), one.event(2, State.FAILED, reason=REASON)
    one.records.record_events([end])
    with caplog.at_level(logging.WARNING):
        assert one.records.record_events([other]) == ([other], [])
    assert "changes nothing" in caplog.text
    row = one.records.attempt(one.run, 1)
    assert row
    assert (one.states(), row.reason, row.last_number) == ((State.SUCCEEDED, State.SUCCEEDED), None, 2)
    assert one.records.events_of(one.run, 1) == [end, other]


def test_events_of_what_is_not_known_are_told_apart(records: Records) -> None:
    one, other = Submitted(records, "site-a", "site-b"), Submitted(records, attempt=False)
    good = one.event(1, State.ACCEPTED)
    strange = [
        one.event(1, State.RUNNING, attempt=2),  # never issued
        other.event(1, State.RUNNING),  # no attempt yet
        one.event(1, State.RUNNING, run=uuid.uuid4()),
        one.event(1, State.RUNNING, node="site-b", run=uuid.UUID(one.runs["site-a"])),  # of another site's run
        one.event(1, State.RUNNING, execution=other.id),
        one.event(2**31, State.RUNNING),  # no column takes such a number
    ]
    assert records.record_events([*strange[:3], good, *strange[3:]]) == ([good], strange)
    assert records.record_events([]) == ([], [])
    assert one.states() == (State.ACCEPTED, State.ACCEPTED)
    assert records.events_of(one.run, 1) == [good]


def test_lost_is_superseded_until_a_newer_attempt_is_issued(one: Submitted) -> None:
    records = one.records
    records.record_events([one.event(1, State.RUNNING)])
    lost = records.mark_lost(one.run, 1, REASON)
    assert (lost.state, lost.reason, one.states()) == (State.LOST, REASON, (State.LOST, State.LOST))
    assert records.mark_lost(one.run, 1, Reason(code="x", fault=Fault.USER, message="again")).reason == REASON

    records.record_events([one.event(2, State.STAGING_OUT)])
    row = records.attempt(one.run, 1)
    assert row
    assert (row.reason, one.states()) == (None, (State.STAGING_OUT, State.STAGING_OUT))

    records.mark_lost(one.run, 1, REASON)
    one.add(2)
    late = one.event(3, State.SUCCEEDED)
    assert records.record_events([late]) == ([late], [])
    assert one.states(attempt=1) == (State.QUEUED, State.LOST)
    assert one.states(attempt=2) == (State.QUEUED, State.QUEUED)


def test_what_has_ended_is_not_lost(one: Submitted) -> None:
    one.records.record_events([one.event(1, State.SUCCEEDED)])
    assert one.records.mark_lost(one.run, 1, REASON).state is State.SUCCEEDED
    assert one.states() == (State.SUCCEEDED, State.SUCCEEDED)


def test_an_older_attempt_does_not_speak_for_the_run(one: Submitted) -> None:
    one.add(2)
    both = [one.event(1, State.RUNNING), one.event(1, State.ACCEPTED, attempt=2)]
    assert one.records.record_events(both) == (both, [])
    assert one.states(attempt=1) == (State.ACCEPTED, State.RUNNING)
    assert one.states(attempt=2) == (State.ACCEPTED, State.ACCEPTED)


def test_log_lines(records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.records.PAGE", 2)
    two = Submitted(records, "site-a", "site-b")
    records.record_events([two.event(n, lines=(f"a{n}", f"a{n}'")) for n in (4, 3, 2, 1)])
    records.record_events([two.event(1, State.RUNNING, node="site-b"), two.event(2, node="site-b", lines=("b2",))])
    lines = [(line.node, line.number, line.line) for line in records.log_lines(str(two.id))]
    assert lines == [("site-a", n, f"a{n}{tick}") for n in (1, 2, 3, 4) for tick in ("", "'")] + [("site-b", 2, "b2")]
    assert [tuple(line) for line in records.log_lines(str(two.id), node="site-b")] == [("site-b", 2, NOON + timedelta(seconds=2), "b2")]
    assert [line.line for line in records.log_lines(str(two.id), node="site-a", after=3)] == ["a4", "a4'"]
    two.add(2, run=two.runs["site-a"])
    assert list(records.log_lines(str(two.id), node="site-a")) == []


# Nodes


def beat(node: str, number: int) -> Heartbeat:
    return Heartbeat(
        node=node, session=uuid.UUID(int=7), number=number, at=NOON, interval=10, worker_version="1", slots=4, slots_free=2
    )  # fmt: skip


def test_nodes_are_enrolled_heard_and_retired(records: Records) -> None:
    first = records.enrol_node("site-a", public_key="k1", display_name="SITE A")
    assert (first.display_name, first.public_key, first.retired, first.last_seen) == ("SITE A", "k1", None, None)
    assert records.enrol_node("site-b", public_key="").display_name == "site-b"
    records.heard([beat("site-a", 1), beat("stranger", 1), beat("site-b", 1), beat("site-a", 2)], NOON)
    records.heard([], NOON)
    heard = records.node("site-a")
    assert heard
    assert heard.last_seen == NOON
    assert Heartbeat.model_validate_json(heard.heartbeat or "") == beat("site-a", 2)
    assert [node.name for node in records.nodes()] == ["site-a", "site-b"]

    records.retire_node("site-a")
    retired = records.node("site-a")
    assert retired
    assert retired.retired
    records.retire_node("site-a")
    records.heard([beat("site-a", 3)], NOON + timedelta(seconds=10))
    assert records.node("site-a") == retired

    again = records.enrol_node("site-a", public_key="k2", display_name="SITE A")
    assert (again.retired, again.public_key, again.enrolled) == (None, "k2", first.enrolled)


# Beside one another


def test_two_records_on_one_database(url: str, records: Records) -> None:
    one, second = Submitted(records), Records.open(url)
    mine = one.event(1, State.RUNNING)
    assert second.record_events([mine]) == ([mine], [])
    assert records.record_events([mine]) == ([], [])
    assert one.states() == (State.RUNNING, State.RUNNING)
    second.close()


OPENS_AND_RECORDS = """
import sys
from fdn_worker.protocol import TaskEvent
from storage.records import Records
records = Records.open(sys.argv[1])
events = [TaskEvent.model_validate_json(line) for line in sys.stdin]
print(sum(len(records.record_events(events[i:i + 7])[0]) for i in range(0, len(events), 7)))
records.close()
"""


def test_four_processes_record_the_same_events(url: str) -> None:
    """Each event is stored once, and is new to one of them alone, in whatever order they come."""
    records = Records.open(url)
    one = Submitted(records, "site-a", "site-b", "site-c")
    said = [one.event(n, State.SUCCEEDED if n == 60 else State.RUNNING, node=node, lines=("x",)) for n in range(1, 61) for node in one.runs]
    processes = []
    for shift in range(4):
        process = subprocess.Popen([sys.executable, "-c", OPENS_AND_RECORDS, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        mixed = said[shift * 40 :] + said[: shift * 40]
        processes.append((process, "".join(event.model_dump_json() + "\n" for event in mixed)))
    told: list[str] = []
    threads = [threading.Thread(target=lambda p=process, i=lines: told.append(p.communicate(i)[0])) for process, lines in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.returncode for process, _ in processes] == [0, 0, 0, 0]
    assert sum(map(int, told)) == len(said)
    for node, run in one.runs.items():
        assert [event.number for event in records.events_of(run, 1)] == list(range(1, 61))
        row = records.run(run)
        assert row
        assert (node, row.state) == (row.node, State.SUCCEEDED)
    records.close()


def test_many_open_at_once(url: str) -> None:
    """None of them finds the schema half made."""
    start, opened, failed = threading.Barrier(8), [], []

    def open_it() -> None:
        start.wait()
        try:
            opened.append(Records.open(url))
        except RecordsUnavailable as error:
            failed.append(str(error))

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(opened), failed) == (8, [])
    for records in opened:
        records.close()


def test_threads_of_one_process_submit_the_same(records: Records) -> None:
    created: list[bool] = []
    one = Submitted(records, attempt=False)
    rows = [f"{uuid.uuid4()}" for _ in range(5)]

    def submit() -> None:
        for each in rows:
            created.append(records.create_execution(each, user="u", project="", tool="", key=each, request_json="{}", runs=[])[1])
        one.add(1, body=threading.current_thread().name.encode())

    threads = [threading.Thread(target=submit) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (created.count(True), created.count(False)) == (5, 25)
    assert len(records.attempts_of(one.run)) == 1


# Faults


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "folder").mkdir()
    (tmp_path / "garbage.db").write_bytes(b"this is no database" * 100)
    for path in ("file/records.db", "folder", "garbage.db"):
        with pytest.raises(RecordsUnavailable, match=path.partition("/")[0]) as told:
            Records.open(f"sqlite:///{tmp_path}/{path}")
        assert str(tmp_path) in str(told.value)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    "address", ["", "hush", "sqlite://", "sqlite:///:memory:", "mysql://me:hush@host/x", "postgresql://me:hush@host:port/x"]
)
def test_an_address_that_cannot_be_read(address: str) -> None:
    with pytest.raises(SettingsError) as told:
        Records.open(address)
    assert "hush" not in str(told.value)
    assert told.value.remedy


def test_a_server_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(RecordsUnavailable, match=r"postgresql\+psycopg://me:\*\*\*@127.0.0.1:1/x") as told:
        Records.open("postgresql://me:hushhush@127.0.0.1:1/x")
    assert "hushhush" not in str(told.value)
    assert "\n" not in str(told.value)


def test_records_of_a_later_schema_are_refused(url: str, records: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "SCHEMA_VERSION", 0)
    with pytest.raises(SettingsError, match=f"have schema version {SCHEMA_VERSION}, this program has 0"):
        Records.open(url)
