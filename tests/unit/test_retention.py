"""Retention: what is old goes, what is not stays, and an interruption is mended by the next call."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

import pytest

from fdn_worker.errors import StoreUnavailable
from fdn_worker.protocol import State, now
from federation.centre import Centre, Submission
from federation.request import TaskRequest
from federation.results import describe
from storage.keys import execution_prefix
from storage.objects import ObjectInfo
from storage.reports import report
from storage.retention import delete_objects, delete_records, old
from tests.unit.ended import DATA, ended, leave


def objects(centre: Centre, one: Submission) -> list[str]:
    return [info.key.rpartition("/")[2] for info in centre.store.list(execution_prefix(one.execution))]


def test_only_what_closed_before_is_old(centre: Centre) -> None:
    first, second = ended(centre, "1", "ages"), ended(centre, "2", "heights")
    still_open = centre.stage_in(TaskRequest(node="site-a", argv=("true",)), "3")
    assert list(old(centre.records, centre.store, now() - timedelta(days=1))) == []
    found = list(old(centre.records, centre.store, now()))
    assert [one.id for one in found] == [str(first.execution), str(second.execution)]
    assert str(still_open.execution) not in {one.id for one in found}
    assert (found[0].objects, found[0].events, found[0].project) == (2, 2, "ages")
    assert found[0].bytes == sum(info.size for info in centre.store.list(execution_prefix(first.execution))) > len(DATA)
    assert [one.id for one in old(centre.records, centre.store, now(), project="heights")] == [str(second.execution)]
    assert delete_objects(centre.records, centre.store, str(still_open.execution), now()) is False
    assert delete_objects(centre.records, centre.store, str(first.execution), now() - timedelta(days=1)) is False
    assert objects(centre, first) == ["manifest.json", "a.csv"]


def test_pages_lose_none_and_tell_none_twice(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.retention.PAGE", 2)
    made = {str(ended(centre, str(number)).execution) for number in range(5)}
    found = []
    for one in old(centre.records, centre.store, now()):
        found.append(one.id)
        delete_objects(centre.records, centre.store, one.id, now())
    assert (len(found), set(found)) == (5, made)
    assert list(old(centre.records, centre.store, now())) == []


def test_outputs_that_were_deleted_are_said_to_be(centre: Centre) -> None:
    one, kept = ended(centre, "1"), ended(centre, "2")
    assert describe(centre, one).cleaned is None
    assert delete_objects(centre.records, centre.store, str(one.execution), now())
    result = describe(centre, one)
    assert (objects(centre, one), result.files, result.state) == ([], (), State.SUCCEEDED)
    assert result.cleaned is not None
    assert abs(result.cleaned - now()) < timedelta(minutes=1)
    assert result.tail == ("x",)
    assert [file.path for file in describe(centre, kept).files] == ["outputs/a.csv"]


class Failing:
    """A store whose delete stops half way, and what the records say at that moment."""

    def __init__(self, centre: Centre, one: Submission) -> None:
        self.centre, self.one, self.store = centre, one, centre.store

    def list(self, prefix: str) -> Iterable[ObjectInfo]:
        return self.store.list(prefix)

    def delete(self, keys: Iterable[str]) -> None:
        assert describe(self.centre, self.one).cleaned is not None
        self.store.delete(list(keys)[:1])
        raise StoreUnavailable("the store went away")


def test_an_interrupted_call_is_taken_up(centre: Centre) -> None:
    one = ended(centre, "1")
    with pytest.raises(StoreUnavailable):
        delete_objects(centre.records, Failing(centre, one), str(one.execution), now())  # type: ignore[arg-type]
    assert len(objects(centre, one)) == 1
    assert describe(centre, one).files == ()
    assert delete_records(centre.records, str(one.execution), now()) is False  # nothing would know of the object left
    [again] = old(centre.records, centre.store, now())
    assert (again.id, again.objects) == (str(one.execution), 1)
    assert delete_objects(centre.records, centre.store, again.id, now())
    assert (objects(centre, one), list(old(centre.records, centre.store, now()))) == ([], [])


def test_what_was_opened_again_keeps_its_new_outputs(centre: Centre) -> None:
    """A new attempt after the cleaning counts as any other, and is old only by its own end."""
    one = ended(centre, "1", state=State.FAILED)
    long_ago = now()
    assert delete_objects(centre.records, centre.store, str(one.execution), long_ago)
    again = centre.stage_in(TaskRequest(node="site-a", argv=("true",)), "1", new_attempt=True)
    assert again.attempt == 2
    assert delete_objects(centre.records, centre.store, str(one.execution), now()) is False
    leave(centre, again)
    assert [file.path for file in describe(centre, again).files] == ["outputs/a.csv"]
    assert list(old(centre.records, centre.store, long_ago)) == []
    assert delete_records(centre.records, str(one.execution), now()) is False
    assert [found.objects for found in old(centre.records, centre.store, now())] == [2]
    assert delete_objects(centre.records, centre.store, str(one.execution), now())
    assert describe(centre, again).files == ()


def test_records_go_and_accounts_stay(centre: Centre) -> None:
    one, kept = ended(centre, "1"), ended(centre, "2")
    before = report(centre.records, ("project",))
    moment = now()
    assert [found.events for found in old(centre.records, centre.store, moment, whole=True)] == [2, 2]
    assert delete_objects(centre.records, centre.store, str(one.execution), moment)
    assert len(list(old(centre.records, centre.store, moment, whole=True))) == 2
    assert delete_records(centre.records, str(one.execution), moment)
    assert centre.records.execution(str(one.execution)) is None
    assert (centre.records.runs_of(str(one.execution)), centre.records.events_of(str(one.run), 1)) == ([], [])
    assert delete_records(centre.records, str(one.execution), moment) is False
    assert report(centre.records, ("project",)).equals(before)
    assert len(centre.records.events_of(str(kept.run), 1)) == 2
