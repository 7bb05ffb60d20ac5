"""The site's audit log: what the journal has to tell stands there once, in order, whatever comes in between."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fdn_worker import audit as module
from fdn_worker import entries
from fdn_worker.audit import HEAD, Audit, AuditUnavailable, files, last_number, waiting
from fdn_worker.audit_text import lines_of
from fdn_worker.errors import Fault
from fdn_worker.journal import Journal, Phase
from fdn_worker.protocol import Reason, Report, Signer, State, pack
from fdn_worker.protocol.chain import KEYS, Head, Line, check, read
from fdn_worker.protocol.envelope import payload_of
from fdn_worker.settings import KeysSection
from tests.support.waiting import SOON, eventually
from tests.unit.helpers import an_order

SIGNER = Signer("site-a.1", Ed25519PrivateKey.from_private_bytes(bytes([1]) * 32))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db", SIGNER)
    yield journal
    journal.close()


def an_audit(journal: Journal, tmp_path: Path) -> Audit:
    """As a worker that starts makes it."""
    return Audit(tmp_path / "audit", journal, SIGNER)


def entries_of(tmp_path: Path) -> list[Line]:
    """All entries; the log must be whole, and signed to its end."""
    lines = list(lines_of(files(tmp_path / "audit")))
    checked = check(lines, {SIGNER.key_id: SIGNER.public_key()})
    assert checked.findings == []
    return [read(text) for _, text in lines]


def test_the_way_of_a_run(journal: Journal, tmp_path: Path) -> None:
    order = an_order(datasets=("census",), labels={"user": "ada", "tool": "count"}, image="python:3.11")
    journal.receive(order, payload_of(pack(order, SIGNER)), "centre")
    journal.receive(order, payload_of(pack(order, SIGNER)), "centre")  # again: no entry
    journal.record(order.name, phase=Phase.ACCEPTED, state=State.ACCEPTED)
    journal.record(order.name, state=State.STAGING_IN)
    journal.record(order.name, lines=["a line"])
    journal.record(order.name, phase=Phase.STARTED, state=State.RUNNING, image="sha256:0f")
    reason = Reason(code="exit-code", fault=Fault.USER, message="it ended with 3")
    journal.record(order.name, phase=Phase.DONE, state=State.FAILED, reason=reason, report=Report(exit_code=3, bytes_out=7))
    an_audit(journal, tmp_path).take()
    found = entries_of(tmp_path)
    assert [entry.kind for entry in found] == ["received", "accepted", "started", "ended"]
    assert {entry.what["run"] for entry in found} == {str(order.run)}
    received, _, started, ended = (entry.what for entry in found)
    assert (received["labels"], received["datasets"], received["key_id"]) == ({"user": "ada", "tool": "count"}, ["census"], "centre")
    assert started["image"] == "sha256:0f"
    assert (ended["state"], ended["code"], ended["exit_code"], ended["bytes_out"]) == ("FAILED", "exit-code", 3, 7)
    assert waiting(journal, 9) == []


def test_a_refusal_has_its_reason(journal: Journal, tmp_path: Path) -> None:
    order = an_order()
    journal.receive(order, payload_of(pack(order, SIGNER)))
    reason = Reason(code="resources", fault=Fault.POLICY, message="too much")
    journal.record(order.name, phase=Phase.DONE, state=State.REJECTED, reason=reason)
    an_audit(journal, tmp_path).take()
    assert (entries_of(tmp_path)[1].kind, entries_of(tmp_path)[1].what["why"]) == ("refused", "too much")


def test_what_fails_in_the_journal_has_no_entry(journal: Journal) -> None:
    def fail() -> None:
        with journal.transaction() as db:
            entries.note(db, "never")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    journal.audit("then")
    assert [(number, kind) for number, _, kind, _ in waiting(journal, 9)] == [(1, "then")]


def test_the_keys_are_told_when_they_change(journal: Journal, tmp_path: Path) -> None:
    keys = KeysSection(trusted={"centre": "k"})
    for trusted in (keys, keys, KeysSection(trusted={"centre": "k"}, revoked={"centre": "stolen"})):
        audit = an_audit(journal, tmp_path)
        audit.start(trusted)
        audit.stop(timeout=SOON)
    found = entries_of(tmp_path)
    assert [entry.kind for entry in found] == [KEYS, "up", "up", KEYS, "up"]
    assert found[0].what == {"signs": {SIGNER.key_id: SIGNER.public_key()}, "trusts": {"centre": "k"}}
    assert found[3].what["revoked"] == {"centre": "stolen"}


class Killed(BaseException):
    """No code catches it."""


@pytest.mark.parametrize("seed", range(8))
def test_a_crash_at_any_byte_of_a_write_loses_and_doubles_nothing(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """SIGKILL in the middle of a write leaves some of its bytes, and the journal as it was before."""
    draw = random.Random(seed)

    def kill(*_: object) -> None:
        raise Killed

    count = 0
    for _ in range(6):
        for _ in range(draw.randint(1, 5)):
            count += 1
            journal.audit("ended", n=count)
        before = sum(path.stat().st_size for path in files(tmp_path / "audit"))
        with monkeypatch.context() as patch:
            patch.setattr(module, "_taken", kill)
            with pytest.raises(Killed):
                an_audit(journal, tmp_path).take()
        (path,) = files(tmp_path / "audit")
        os.truncate(path, draw.randint(min(before, path.stat().st_size), path.stat().st_size))
    an_audit(journal, tmp_path).take()
    found = entries_of(tmp_path)
    assert [entry.what["n"] for entry in found if entry.kind == "ended"] == list(range(1, count + 1))
    assert [entry.number for entry in found] == list(range(1, len(found) + 1))
    assert all(entry.what["bytes"] > 0 for entry in found if entry.kind == "mended")


def test_the_log_goes_on_in_another_file_each_month_and_when_one_is_large(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 1000)
    moments = ["2030-01-31T23:59:59+00:00", "2030-01-31T23:59:59+00:00", "2030-02-01T00:00:00+00:00", "2030-01-31T23:59:00+00:00"]
    with journal.transaction() as db:
        db.executemany("INSERT INTO audit (at, kind, what) VALUES (?, 'ended', '{}')", [(at,) for at in moments])
    audit = an_audit(journal, tmp_path)
    audit.take()
    assert [path.name for path in files(tmp_path / "audit")] == [f"{first:012}.jsonl" for first in (1, 3, 4)]
    for _ in range(20):
        journal.audit("ended", x="y" * 100)
        audit.take()
    assert len(files(tmp_path / "audit")) > 5
    assert len(entries_of(tmp_path)) == 24


def test_a_disk_that_is_full_is_told_and_costs_no_entry(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = an_audit(journal, tmp_path)
    journal.audit("first")
    audit.take()
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, data[:40]) if len(data) > 100 else full())

    def full() -> int:
        raise OSError(28, "No space left on device")

    for _ in range(3):
        journal.audit("second", x="z" * 100)
    with pytest.raises(AuditUnavailable, match="No space left on device"):
        audit.take()
    assert len(waiting(journal, 9)) == 3
    monkeypatch.undo()
    audit.take()
    assert [entry.kind for entry in entries_of(tmp_path)] == ["first", *["second"] * 3, "mended"]


def test_the_thread_tries_again_and_says_what_hinders_it(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RETRY", 0.05)
    (tmp_path / "audit").write_text("no folder")
    audit = an_audit(journal, tmp_path)
    audit.start(KeysSection())
    audit.wake()
    assert "File exists" in eventually("it says so", lambda: audit.problem)
    (tmp_path / "audit").unlink()
    eventually("it is written", lambda: not audit.problem)
    audit.stop(timeout=SOON)
    assert audit.head == Head.parse(str(journal.flag(HEAD)))
    assert [entry.kind for entry in entries_of(tmp_path)] == [KEYS, "up"]


def test_a_journal_that_was_lost_goes_on_with_the_log(journal: Journal, tmp_path: Path) -> None:
    for _ in range(3):
        journal.audit("before")
    an_audit(journal, tmp_path).take()
    young = Journal(tmp_path / "young.db", SIGNER)
    young.audit("after")
    an_audit(young, tmp_path).take()
    assert [(entry.number, entry.kind) for entry in entries_of(tmp_path)][2:] == [(3, "before"), (4, "journal-new"), (5, "after")]
    assert last_number(young) == 5
    young.close()


def damage_last(lines: list[str]) -> list[str]:
    return [*lines[:-1], lines[-1].replace("ended", "ENDED")]


@pytest.mark.parametrize("damage", [damage_last, lambda lines: lines[:-2], lambda lines: []])
def test_what_was_done_to_the_log_stays_to_be_found_after_it_went_on(journal: Journal, tmp_path: Path, damage: Any) -> None:
    for _ in range(4):
        journal.audit("ended")
    an_audit(journal, tmp_path).take()
    (path,) = files(tmp_path / "audit")
    path.write_text("".join(f"{line}\n" for line in damage(path.read_text().splitlines())))
    journal.audit("ended")
    an_audit(journal, tmp_path).take()
    checked = check(lines_of(files(tmp_path / "audit")), {SIGNER.key_id: SIGNER.public_key()})
    assert len(checked.findings) == 1
    assert (checked.head.number, checked.signed) == (5, 5)
