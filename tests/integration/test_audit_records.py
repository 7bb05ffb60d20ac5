"""The centre's audit log, and the keys of nodes, on each database."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, update

from fdn_worker.errors import MessageError
from fdn_worker.protocol import Signer, now
from fdn_worker.protocol.chain import Checked, check, read
from fdn_worker.protocol.envelope import key_id_of
from storage.key_rows import KeyRefused
from storage.records import Records
from storage.schema import audit, audit_head

SIGNER = Signer("centre", Ed25519PrivateKey.from_private_bytes(bytes([9]) * 32))
KEYS = [base64.b64encode(bytes([number]) * 32).decode() for number in range(3)]


@pytest.fixture
def signed(url: str) -> Any:
    opened = Records.open(url, SIGNER)
    yield opened
    opened.close()


def checked(records: Records) -> Checked:
    heads = [("the table audit_head", records.audit.head())]
    return check(records.audit.lines(), {SIGNER.key_id: SIGNER.public_key()}, heads=heads)


def kinds(records: Records) -> list[str]:
    return [read(text).kind for _, text in records.audit.lines()]


def test_what_changes_the_federation_is_there(signed: Records) -> None:
    for _ in range(2):
        signed.enrol_node("site-a", public_key=KEYS[0])
        signed.create_execution(
            "0b0e4a70-7d3c-5f0a-9a51-3f1c52d2a001", user="ada", project="p", tool="count", key="k", request_json="{}",
            runs=[("1b0e4a70-7d3c-5f0a-9a51-3f1c52d2a001", "main", "site-a")],
        )  # fmt: skip
        signed.catalogue.put_tool("count", "{}")
        signed.catalogue.put_node("site-a", "{}")
        signed.mark_paused("site-a", now())
        signed.mark_paused("site-a", None)
        signed.catalogue.withdraw_tool("count")
        signed.retire_node("site-a")
    assert kinds(signed) == [
        "enrolled", "submitted", "tool", "node-entry", "paused", "resumed", "tool-withdrawn", "retired",
        "enrolled", "tool", "paused", "resumed", "tool-withdrawn", "retired",
    ]  # fmt: skip
    assert checked(signed).findings == []
    submitted = [read(text).what for _, text in signed.audit.lines() if read(text).kind == "submitted"]
    assert [(what["user"], what["tool"], what["nodes"], bool(what["by"])) for what in submitted] == [("ada", "count", ["site-a"], True)]


def test_further_attempts_are_there(signed: Records) -> None:
    run = "1b0e4a70-7d3c-5f0a-9a51-3f1c52d2a001"
    signed.create_execution(
        "0b0e4a70-7d3c-5f0a-9a51-3f1c52d2a001", user="", project="", tool="", key="k", request_json="{}", runs=[(run, "main", "site-a")]
    )
    for attempt in (1, 2, 2):
        signed.add_attempt(run, attempt, order_body=b"", issued=now(), deadline=now())
    assert kinds(signed) == ["submitted", "again"]


def test_what_is_undone_is_not_there(signed: Records) -> None:
    def fail() -> None:
        with signed.database.write() as db:
            signed.audit.append(db, "never")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    signed.audit.write("then")
    assert kinds(signed) == ["then"]


def test_many_writers_make_one_chain(url: str, signed: Records) -> None:
    others = [Records.open(url, SIGNER) for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: [signed, *others][number % 4].audit.write("x", n=number), range(80)))
    for other in others:
        other.close()
    found = checked(signed)
    assert (found.findings, found.lines, found.signed) == ([], 80, 80)
    assert sorted(read(text).what.get("n", 0) for _, text in signed.audit.lines()) == list(range(80))


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize("how", ["edit", "drop", "swap"])
def test_one_row_that_was_touched_is_found(signed: Records, number: int, how: str) -> None:
    for count in range(5):
        signed.audit.write("x", count=f"c{count}")
    assert checked(signed).findings == []
    rows = {read(text).number: text for _, text in signed.audit.lines()}
    other = number % 5 + 1
    with signed.database.write() as db:
        if how == "drop":
            db.execute(delete(audit).where(audit.c.number == number))
        elif how == "edit":
            db.execute(update(audit).where(audit.c.number == number).values(line=rows[number].replace('"c', '"d')))
        else:
            for one, text in ((number, rows[other]), (other, rows[number])):
                db.execute(update(audit).where(audit.c.number == one).values(line=text))
    assert checked(signed).findings


def test_a_new_end_made_without_the_key_is_found(signed: Records) -> None:
    for _ in range(3):
        signed.audit.write("x")
    with signed.database.write() as db:
        db.execute(delete(audit).where(audit.c.number == 3))
        head = read(next(text for _, text in signed.audit.lines(after=1)))
        db.execute(update(audit_head).values(number=2, hash=head.previous))
    Records(signed.database).audit.write("forged")
    assert any("vouches" in finding for finding in checked(signed).findings)


def test_lines_go_on_after_a_number(signed: Records, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.audit.PAGE", 2)
    for _ in range(5):
        signed.audit.write("x")
    assert [read(text).number for _, text in signed.audit.lines(after=2)] == [3, 4, 5]
    assert len(list(signed.audit.lines())) == 5


# Keys


def opens(records: Records, key_id: str) -> str:
    ring = records.keys.ring()
    if key_id in ring.revoked:
        return "revoked"
    return "good" if key_id in ring.keys else "unknown"


def test_two_keys_are_good_until_one_is_revoked(signed: Records) -> None:
    first, second = (key_id_of("site-a", key) for key in KEYS[:2])
    signed.enrol_node("site-a", public_key=KEYS[0])
    signed.enrol_node("site-b", public_key=KEYS[2])
    assert signed.keys.add("site-a", KEYS[1]).key_id == second
    signed.keys.add("site-a", KEYS[1])
    assert [opens(signed, name) for name in ("site-a", first, second)] == ["good"] * 3
    # Nothing of it changes when the node is enrolled again with a key that it has.
    signed.enrol_node("site-a", public_key=KEYS[0])
    for _ in range(2):
        assert signed.keys.revoke("site-a", first, "replaced").why == "replaced"
    assert [opens(signed, name) for name in ("site-a", first, second)] == ["revoked", "revoked", "good"]
    assert signed.keys.ring().revoked[first] == f"replaced, {now():%Y-%m-%d}"
    assert [row.revoked is None for row in signed.keys.of("site-a")] == [False, True]
    assert set(signed.keys.ring(of="site-a").keys) == {"site-a", first, second}
    assert signed.keys.ring(of="site-a").revoked == {}
    assert [kind for kind in kinds(signed) if kind.startswith("key")] == ["key-added", "key-revoked"]
    with pytest.raises(KeyRefused, match=r"was revoked .have the site make another one"):
        signed.keys.add("site-a", KEYS[0])
    with pytest.raises(KeyRefused, match="was revoked"):
        signed.enrol_node("site-a", public_key=KEYS[0])


def test_enrolling_with_another_key_replaces_all(signed: Records) -> None:
    signed.enrol_node("site-a", public_key=KEYS[0])
    signed.enrol_node("site-a", public_key=KEYS[1])
    assert [opens(signed, key_id_of("site-a", key)) for key in KEYS] == ["revoked", "good", "unknown"]
    assert opens(signed, "site-a") == "good"
    signed.retire_node("site-a")
    assert opens(signed, key_id_of("site-a", KEYS[1])) == "unknown"
    with pytest.raises(KeyRefused, match="not enrolled"):
        signed.keys.add("site-a", KEYS[2])


def test_what_is_not_there_is_told(signed: Records) -> None:
    signed.enrol_node("site-a", public_key="")
    with pytest.raises(KeyRefused, match=r"no key 'x' .see `fem nodes keys site-a`"):
        signed.keys.revoke("site-a", "x", "")
    with pytest.raises(KeyRefused, match="'site-x' is not enrolled"):
        signed.keys.add("site-x", KEYS[0])
    with pytest.raises(MessageError, match="unsigned"):
        signed.keys.ring().open(Signer().seal(b"{}"))
