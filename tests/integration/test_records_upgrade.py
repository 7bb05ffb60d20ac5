"""Records of the first schema are brought up when they are opened, all or nothing, and by one process alone."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from sqlalchemy import create_engine, inspect, select

from fdn_worker.errors import SettingsError
from fdn_worker.protocol import State
from storage import accounts as accounting
from storage import database
from storage.database import RecordsUnavailable
from storage.records import Records
from storage.schema import SCHEMA_VERSION, accounts, metadata, schema_version

SQL = Path(__file__).parent.parent / "compat/records-1.sql"
EXECUTION, RUN = "0b0e4a70-7d3c-5f0a-9a51-3f1c52d2a001", "1b0e4a70-7d3c-5f0a-9a51-3f1c52d2a001"


@pytest.fixture
def first(url: str) -> str:
    """The address of records that version 1 wrote."""
    sqlite = url.startswith("sqlite")
    if sqlite:
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True)
    types = {"{id}": "CHAR(32)", "{moment}": "DATETIME", "{blob}": "BLOB"}
    if not sqlite:
        types = {"{id}": "UUID", "{moment}": "TIMESTAMP WITH TIME ZONE", "{blob}": "BYTEA"}
    script = SQL.read_text()
    for name, kind in types.items():
        script = script.replace(name, kind)
    engine = create_engine(url)
    with engine.begin() as db:
        if not sqlite:
            db.exec_driver_sql("SET TIME ZONE 'UTC'")
        for statement in script.split(";\n"):
            if statement.strip():
                db.exec_driver_sql(statement)
    engine.dispose()
    return url


def version(url: str) -> int | None:
    engine = create_engine(url)
    with engine.connect() as db:
        found = db.scalar(select(schema_version.c.version))
    engine.dispose()
    return found


def test_everything_is_there_afterwards(first: str) -> None:
    records = Records.open(first)
    assert version(first) == SCHEMA_VERSION
    [row] = records.executions()
    assert (row.id, row.user, row.state, row.outcome, row.cleaned) == (EXECUTION, "ada", "SUCCEEDED", None, None)
    assert [node.name for node in records.nodes()] == ["site-a"]
    assert [attempt.state for attempt in records.attempts_of(RUN)] == [State.LOST, State.SUCCEEDED]
    records.close_execution(EXECUTION, "FAILED", "1/2")
    records.close()

    engine = create_engine(first)
    there = inspect(engine)
    for table in metadata.sorted_tables:
        assert {column["name"] for column in there.get_columns(table.name)} == {column.name for column in table.columns}
    engine.dispose()
    again = Records.open(first)
    assert [row.outcome for row in again.executions()] == ["1/2"]
    again.close()


def test_what_ended_before_has_its_accounts(first: str) -> None:
    records = Records.open(first)
    with records.database.read() as db:
        lost, succeeded = db.execute(select(accounts).order_by(accounts.c.attempt)).all()
    records.close()
    assert (lost.run, lost.attempt, lost.state, lost.reason_code, lost.reason_fault) == (RUN, 1, State.LOST, "lost", "infrastructure")
    assert (lost.waiting, lost.running, lost.cpu_seconds) == (120.0, 0.0, 0.0)
    assert (succeeded.user, succeeded.project, succeeded.tool, succeeded.task, succeeded.node) == ("ada", "ages", "mean", "main", "site-a")
    assert (succeeded.cpu_seconds, succeeded.peak_memory, succeeded.bytes_in, succeeded.bytes_out) == (12.5, 1000, 7, 9)
    assert [succeeded.waiting, succeeded.staging_in, succeeded.running, succeeded.staging_out, succeeded.releasing] == [10, 5, 240, 45, 0]


def test_an_upgrade_that_fails_leaves_all_as_it_was(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setitem(database.UPGRADES, 1, (*database.UPGRADES[1], "ALTER TABLE no_such_table ADD COLUMN x TEXT"))
        with pytest.raises(RecordsUnavailable):
            Records.open(first)
    assert version(first) == 1
    Records.open(first).close()
    assert version(first) == SCHEMA_VERSION


def test_many_that_open_at_once_upgrade_once(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fills, opened, start = [], [], threading.Barrier(6)
    fill = accounting.fill
    monkeypatch.setattr(accounting, "fill", lambda db: (fills.append(1), fill(db)))

    def open_it() -> None:
        start.wait()
        opened.append(Records.open(first))

    threads = [threading.Thread(target=open_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(opened), len(fills)) == (6, 1)
    for records in opened:
        records.close()


def test_the_release_before_refuses_them(first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Records.open(first).close()
    monkeypatch.setattr(database, "SCHEMA_VERSION", 1)
    with pytest.raises(SettingsError, match=f"have schema version {SCHEMA_VERSION}, this program has 1"):
        Records.open(first)
