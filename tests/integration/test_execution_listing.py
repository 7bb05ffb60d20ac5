"""Lists of executions, on SQLite and PostgreSQL: pages, filters, whose they are, what runs now, and how far logs go."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

from fdn_worker.protocol import State, now
from storage import listing
from storage.listing import Filter, Head, Owner, Place, listed
from storage.records import Records
from tests.support.submitted import NOON, Submitted


def add(records: Records, **of: str) -> str:
    """An execution with a run at site-a."""
    id_, given = str(uuid4()), {"user": "ada", "project": "", "tool": "mean", "node": "site-a"} | of
    node = given.pop("node")
    records.create_execution(id_, **given, key=id_, request_json="{}", runs=[(str(uuid4()), "main", node)])
    return id_


def ids(records: Records, of: Owner | None = None, wanted: Filter | None = None, **more: object) -> set[str]:
    return {one.id for one in listed(records.database, of, wanted or Filter(**more), 100)}  # type: ignore[arg-type]


def test_pages_hold_each_execution_once(records: Records) -> None:
    made = {add(records) for _ in range(7)}
    place: Place | None = None
    seen: list[str] = []
    while page := listed(records.database, None, Filter(), 3, place):
        seen += [one.id for one in page]
        place = Place(page[-1].created, page[-1].id)
    assert (len(seen), set(seen)) == (7, made)


def test_one_sees_ones_own_and_those_of_ones_projects(records: Records) -> None:
    mine, shared, others, nobodys = (
        add(records), add(records, user="bob", project="heart"), add(records, user="bob", project="lung"), add(records, user="bob"),
    )  # fmt: skip
    assert ids(records, Owner("ada", frozenset({"heart", ""}))) == {mine, shared}
    assert ids(records, Owner("bob", frozenset())) == {shared, others, nobodys}
    assert ids(records) == {mine, shared, others, nobodys}


def test_filters(records: Records) -> None:
    plain, odd = add(records), add(records, tool="a_b%", project="heart", node="site-b")
    records.close_execution(odd, "FAILED")
    for wanted in ({"tool": "a_b%"}, {"project": "heart"}, {"node": "site-b"}, {"state": "FAILED"}, {"text": "B%"}, {"text": odd[:13]}):
        assert ids(records, **wanted) == {odd}, wanted
    # No pattern: what is typed is looked for as it is.
    assert ids(records, text="a%b") == set()
    assert ids(records, since=now() - timedelta(hours=1)) == {plain, odd}
    assert ids(records, since=now() + timedelta(hours=1)) == set()


def test_what_runs_now_and_what_ran(records: Records) -> None:
    one = Submitted(records, "site-a", "site-b")
    records.record_events([one.event(1, State.RUNNING), one.event(1, State.RUNNING, node="site-b"), one.event(2, State.SUCCEEDED)])
    assert [(run.node, run.state, run.execution) for run in listing.running(records.database)] == [("site-b", State.RUNNING, str(one.id))]
    assert listing.running(records.database, "site-a") == []
    (found,) = listing.at_node(records.database, "site-a", None, 10)
    assert found.runs == {"SUCCEEDED": 1, "RUNNING": 1}


def test_the_story_and_the_lines_are_those_of_the_current_attempt(records: Records) -> None:
    one = Submitted(records)
    records.record_events([one.event(1, State.RUNNING, lines=("first",)), one.event(2, State.FAILED)])
    one.add(2)
    records.record_events(
        [one.event(number, State.RUNNING if number == 1 else None, attempt=2, lines=(f"line {number}",)) for number in (1, 2, 3)]
    )
    assert [(step.state, step.at) for step in listing.story(records.database, str(one.id))] == [
        (State.RUNNING, NOON + timedelta(seconds=1))
    ]
    assert listing.heads(records.database, str(one.id)) == [Head(one.run, "mean", "site-a", 2, 3)]
    assert [event.lines for event in listing.lines_after(records.database, one.run, 2, 1, 1)] == [("line 2",)]
