"""The heads of the sites' logs at the centre: kept each hour, and told of when one goes back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import update

from fdn_worker.protocol import Heartbeat, now
from fdn_worker.protocol.chain import Head
from federation import heads as module
from federation.centre import Centre
from federation.heads import BACK, HEADS, Heads, known_heads
from storage.schema import audit
from tests.unit.helpers import an_id


def a_beat(number: int, head: tuple[int, str] | None, *, node: str = "site-a", session: int = 1) -> Heartbeat:
    audit = Head(number=head[0], hash=head[1] * 64) if head else None
    return Heartbeat(
        node=node, session=an_id(session), number=number, at=now(), interval=2.0, worker_version="1", slots=1, slots_free=1, audit=audit
    )


def kept(centre: Centre, kind: str = HEADS) -> list[dict[str, Any]]:
    return [line.what for line in centre.records.audit.of_kind(kind)][::-1]


def test_they_are_kept_each_hour_and_only_when_they_changed(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    begin = now()
    heads = Heads(centre.records)
    heads.heard([a_beat(1, (1, "a")), a_beat(1, (7, "b"), node="site-b"), a_beat(2, (2, "c"))])
    heads.heard([a_beat(3, (3, "d"))])
    monkeypatch.setattr(module, "now", lambda: begin + timedelta(hours=1, seconds=1))
    heads.heard([a_beat(4, (3, "d"))])
    heads.heard([a_beat(5, (3, "d"))])
    assert [what["heads"] for what in kept(centre)] == [
        {"site-a": "2:" + "c" * 64, "site-b": "7:" + "b" * 64}, {"site-a": "3:" + "d" * 64}
    ]  # fmt: skip
    assert [(head.number, head.hash[0]) for _, head in known_heads(centre.records, "site-a")] == [(3, "d"), (2, "c")]


def test_a_relay_that_starts_goes_on_where_the_last_one_was(centre: Centre) -> None:
    first = a_beat(9, (5, "a"))
    Heads(centre.records).heard([first])
    centre.records.heard([first], now())
    assert [who for who, _ in known_heads(centre.records, "site-a")][-1] == "the centre, by the last heartbeat,"
    # Within the hour nothing is kept again, and what goes back is found all the same.
    Heads(centre.records).heard([a_beat(1, (4, "b"), session=2)])
    assert len(kept(centre)) == 1
    assert [(what["node"], what["was"][:2], what["now"][:2]) for what in kept(centre, BACK)] == [("site-a", "5:", "4:")]


@pytest.mark.parametrize(
    ("beats", "told"),
    [
        ([a_beat(1, (5, "a")), a_beat(2, (5, "a")), a_beat(3, (6, "b"))], 0),
        ([a_beat(1, (5, "a")), a_beat(2, (5, "b"))], 1),
        ([a_beat(1, (5, "a")), a_beat(2, (4, "b"))], 1),
        ([a_beat(2, (5, "a")), a_beat(1, (4, "b"))], 0),  # it came late
        ([a_beat(1, (5, "a")), a_beat(1, None, session=2), a_beat(1, (6, "b"), session=3)], 0),
        ([a_beat(1, (5, "a"), node="site-b"), a_beat(1, (4, "a"))], 0),
    ],
)
def test_a_head_that_goes_back_is_told(centre: Centre, caplog: pytest.LogCaptureFixture, beats: list[Heartbeat], told: int) -> None:
    Heads(centre.records).heard(beats)
    assert len(kept(centre, BACK)) == told
    assert sum("the audit log of site-a went from 5:" in record.getMessage() for record in caplog.records) == told


def test_an_entry_that_was_tampered_with_stops_no_relay(centre: Centre, caplog: pytest.LogCaptureFixture) -> None:
    Heads(centre.records).heard([a_beat(1, (1, "a"))])
    with centre.records.database.write() as db:
        db.execute(update(audit).where(audit.c.kind == HEADS).values(line="x"))
    assert list(known_heads(centre.records, "site-a")) == []
    Heads(centre.records).heard([a_beat(2, (2, "b"))])
    assert "no line of an audit log" in caplog.text
    assert [what["heads"] for what in kept(centre)] == [{"site-a": "2:" + "b" * 64}]
