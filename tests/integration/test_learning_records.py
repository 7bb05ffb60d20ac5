"""Federated learning in the records, on SQLite and PostgreSQL."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, select, update

from fdn_worker.protocol.chain import read
from storage.learning import Learning, MeasureRow, ModelRow, SessionRow
from storage.records import Records, RecordsRefused
from storage.schema import SCHEMA_VERSION, audit, measures, models, rounds, schema_version, sessions, updates

AT = datetime(2030, 1, 31, 12, tzinfo=UTC)


@pytest.fixture
def learning(records: Records) -> Learning:
    return records.learning


def begin(learning: Learning, **other: Any) -> SessionRow:
    given = {"name": "digits", "user": "ada", "project": "p", "key": "k", "configuration": '{"rounds": 3}', "package": "f" * 64}
    return learning.create_session(other.pop("id", None) or str(uuid4()), **given | other)


def add(learning: Learning, session: str, round_: int, parent: str | None = None, **other: Any) -> ModelRow:
    id_ = str(uuid4())
    row = ModelRow(id_, session, round_, parent, AT + timedelta(seconds=round_), f"models/{session}/{id_}", 8, "0" * 64, **other)
    return learning.add_model(row)


def kinds(records: Records) -> list[str]:
    return [read(text).kind for _, text in records.audit.lines()]


# Sessions


def test_a_session_is_begun_once(records: Records, learning: Learning) -> None:
    row = begin(learning)
    assert (row.state, row.wanted, row.round, row.ended) == ("CREATED", "run", 0, None)
    assert begin(learning, id=row.id, configuration='{ "rounds":3 }', name="again") == row
    assert learning.session(row.id) == row
    for other in ({"configuration": "{}"}, {"package": "e" * 64}):
        with pytest.raises(RecordsRefused, match="another configuration or package") as caught:
            begin(learning, id=row.id, **other)
        assert caught.value.code == "idempotency-conflict"
    assert kinds(records) == ["session"]


def test_sessions_newest_first(learning: Learning) -> None:
    first, second, third = begin(learning), begin(learning, user="bob"), begin(learning)
    assert [row.id for row in learning.sessions()] == [third.id, second.id, first.id]
    assert [row.id for row in learning.sessions(user="ada", limit=1)] == [third.id]
    assert [row.id for row in learning.sessions(before=third.created)] == [second.id, first.id]
    learning.set_state(second.id, "RUNNING", round=1, flow_run="flow")
    assert [(row.id, row.round, row.flow_run) for row in learning.sessions("RUNNING")] == [(second.id, 1, "flow")]


def test_what_a_person_wants(records: Records, learning: Learning) -> None:
    row = begin(learning)
    for _ in range(2):
        assert learning.want(row.id, "pause", "eve").wanted == "pause"
    assert learning.set_state(row.id, "PAUSED", "by eve").ended is None
    ended = learning.set_state(row.id, "STOPPED", "by eve", round=2)
    assert (ended.reason, ended.round, ended.ended) == ("by eve", 2, ended.changed)
    with pytest.raises(RecordsRefused, match="is STOPPED"):
        learning.want(row.id, "run", "eve")
    assert kinds(records) == ["session", "session-wanted"]
    [entry] = records.audit.of_kind("session-wanted")
    assert entry.what["person"] == "eve"


@pytest.mark.parametrize("call", ["set_state", "want", "open_round", "add_model"])
def test_a_session_that_is_not_there_is_named(learning: Learning, call: str) -> None:
    none = str(uuid4())
    calls: dict[str, Callable[[], object]] = {
        "set_state": lambda: learning.set_state(none, "RUNNING"),
        "want": lambda: learning.want(none, "stop", "eve"),
        "open_round": lambda: learning.open_round(none, 1, []),
        "add_model": lambda: add(learning, none, 0),
    }
    with pytest.raises(RecordsRefused, match=f"there is no session {none}"):
        calls[call]()


# Rounds and updates


def test_rounds(learning: Learning) -> None:
    session = begin(learning).id
    opened = learning.open_round(session, 1, ["site-b", "site-a"])
    assert (opened.state, opened.requested, opened.model) == ("OPEN", ["site-b", "site-a"], None)
    assert learning.open_round(session, 1, ["site-c"]) == opened
    model = add(learning, session, 1)
    done = learning.close_round(session, 1, "DONE", model.id)
    assert (done.state, done.model) == ("DONE", model.id)
    assert done.ended is not None
    assert learning.open_round(session, 1, ["site-c"]) == done
    learning.open_round(session, 2, ["site-a"])
    learning.close_round(session, 2, "FAILED", reason="nobody came")
    again = learning.open_round(session, 2, ["site-c"])
    assert (again.state, again.requested, again.ended, again.reason) == ("OPEN", ["site-c"], None, "")
    assert [row.number for row in learning.rounds(session)] == [1, 2]
    assert learning.round(session, 3) is None
    assert learning.round(session, 2) == again
    found = learning.session(session)
    assert found is not None
    assert found.round == 2
    with pytest.raises(RecordsRefused, match="has no round 3"):
        learning.close_round(session, 3, "DONE")


def test_updates_keep_what_is_not_written_again(learning: Learning) -> None:
    session = begin(learning).id
    with pytest.raises(RecordsRefused, match="has no round 1"):
        learning.put_update(session, 1, "site-a")
    learning.open_round(session, 1, ["site-a", "site-b"])
    asked = learning.put_update(session, 1, "site-a", run=str(uuid4()))
    assert (asked.outcome, asked.metrics, asked.combiner, asked.validated) == (None, {}, "", None)
    learning.put_update(session, 1, "site-a", outcome="COUNTED", examples=12.0, metrics={"loss": 0.5}, ended=AT)
    learning.put_update(session, 1, "site-a")
    known = learning.put_update(session, 1, "site-a", validated={"accuracy": 0.75})
    assert (known.run, known.began, known.outcome, known.examples, known.metrics, known.validated, known.ended) == (
        asked.run, asked.began, "COUNTED", 12.0, {"loss": 0.5}, {"accuracy": 0.75}, AT,
    )  # fmt: skip
    refused = learning.put_update(session, 1, "site-b", outcome="REFUSED", reason="NaN")
    assert learning.updates(session) == learning.updates(session, 1) == [known, refused]
    assert learning.updates(session, 2) == []


# Models


def test_the_trail(records: Records, learning: Learning) -> None:
    session = begin(learning).id
    seed = add(learning, session, 0)
    first = add(learning, session, 1, seed.id, metrics={"loss": 0.5}, examples=30.0, participants=3)
    second = add(learning, session, 2, first.id)
    other = begin(learning).id
    branch = add(learning, other, 1, first.id)
    tip = add(learning, other, 2, branch.id)
    assert learning.model(first.id) == first
    assert first.metrics == {"loss": 0.5}
    assert learning.add_model(first) == first
    with pytest.raises(RecordsRefused, match="is another one"):
        learning.add_model(ModelRow(**{**first.__dict__, "sha256": "1" * 64}))
    with pytest.raises(RecordsRefused, match="there is no model"):
        add(learning, session, 3, str(uuid4()))
    assert learning.ancestors(tip.id) == [branch, first, seed]
    assert learning.descendants(seed.id)[0] == first
    assert {row.id for row in learning.descendants(first.id)} == {second.id, branch.id, tip.id}
    assert (learning.ancestors(seed.id), learning.descendants(tip.id)) == ([], [])
    assert learning.models(session) == [second, first, seed]
    assert {row.id for row in learning.models(leaf=True)} == {second.id, tip.id}
    assert learning.models(session, leaf=False) == [first, seed]

    released = learning.release(first.id, "eve", "good")
    assert (released.released_by, released.note) == ("eve", "good")
    assert learning.release(first.id, "bob") == released
    assert learning.models(released=True) == [released]
    assert len(learning.models(released=False)) == 4
    assert [row.id for row in learning.mark_deleted([first.id, second.id])] == [second.id]
    assert learning.mark_deleted([second.id]) == learning.mark_deleted([]) == []
    with pytest.raises(RecordsRefused, match="was deleted on"):
        learning.release(second.id, "eve")
    assert learning.ancestors(second.id) == [released, seed]
    assert learning.tell_metrics(tip.id, {"accuracy": 0.5}).metrics == {"accuracy": 0.5}
    assert learning.tell_metrics(first.id, {"accuracy": 0.5}).metrics == {"loss": 0.5, "accuracy": 0.5}
    assert kinds(records) == ["session", "session", "model-released", "models-deleted"]


def test_ids_by_their_beginning(learning: Learning) -> None:
    ids = [f"{digit}{'0' * 7}-0000-4000-8000-{'0' * 12}" for digit in ("a", "b")]
    for id_ in ids:
        begin(learning, id=id_)
        learning.add_model(ModelRow(id_, id_, 0, None, AT, "models/x", 8, "0" * 64))
    assert learning.find_session("A0").id == learning.find_model(ids[0]).id == ids[0]
    begin(learning, id=ids[0][:-1] + "1")
    for prefix, what in (("a0", "begins the ids of a0.*, a0"), ("c", "no session's id begins with 'c'"), ("x", "'x' is no session's id")):
        with pytest.raises(RecordsRefused, match=what):
            learning.find_session(prefix)


# Measures


def test_measures(learning: Learning) -> None:
    session = begin(learning).id

    def row(step: int, value: float, **other: Any) -> MeasureRow:
        return MeasureRow(**{"session": session, "round": 1, "client": "site-a", "phase": "train", "name": "loss", "at": AT, **other},
                          step=step, value=value)  # fmt: skip

    learning.add_measures([])
    learning.add_measures([row(0, 1.0), row(1, 0.5), row(1, 0.25), row(2**40, math.nan), row(0, 3.0, client="site-b", round=2)])
    learning.add_measures([row(0, 2.0), row(0, 0.125, phase="validate"), row(0, 0.5, name="accuracy")])
    found = learning.measures(session, "loss", round=1)
    assert [(one.phase, one.step, one.value) for one in found[:2]] == [("train", 0, 2.0), ("train", 1, 0.25)]
    assert math.isnan(found[2].value)
    assert [(one.phase, one.value) for one in found[3:]] == [("validate", 0.125)]
    assert learning.measures(session, client="site-b") == [row(0, 3.0, client="site-b", round=2)]
    assert len(learning.measures(session)) == 6


# Upgrade


def test_records_of_version_3_learn_as_well(url: str) -> None:
    Records.open(url).close()
    engine = create_engine(url)
    with engine.begin() as db:
        for table in (measures, updates, rounds, models, sessions):
            table.drop(db)
        db.execute(update(schema_version).values(version=3))
    opened = Records.open(url)
    begin(opened.learning)
    opened.close()
    with engine.begin() as db:
        assert db.scalars(select(schema_version.c.version)).all() == [SCHEMA_VERSION]
        assert db.scalars(select(audit.c.kind)).all() == ["session"]
    engine.dispose()
