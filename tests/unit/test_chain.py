"""The chain of an audit log: whatever is done to one line is found, and where."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fdn_worker.errors import MessageError
from fdn_worker.protocol import Signer
from fdn_worker.protocol.chain import BEGIN, KEYS, Checked, Head, check, head_of, read, write
from tests.unit.helpers import MOMENT

SIGNER, OTHER = (Signer(f"site-a.{number}", Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)) for number in (1, 2))
TRUSTED = {SIGNER.key_id: SIGNER.public_key()}
COUNT = 9


def a_log(count: int = COUNT, *, signer: Signer | None = SIGNER, every: int = 3, head: Head = BEGIN) -> list[str]:
    """Lines with what people write into them; every third is signed."""
    lines = []
    for number in range(head.number + 1, head.number + count + 1):
        what = {"n": number, "why": 'as "hash":"0" says, é\u2028\n'}
        line, head = write(head, number, MOMENT.isoformat(), "ended", what, signer if number % every == 0 else None)
        lines.append(line)
    return lines


LOG = a_log()


def checked(lines: Sequence[str], keys: dict[str, str] = TRUSTED, **given: object) -> Checked:
    return check(((f"line {number}", line) for number, line in enumerate(lines, 1)), keys, **given)  # type: ignore[arg-type]


def test_a_whole_log() -> None:
    found = checked(LOG)
    assert (found.findings, found.lines, found.signed, found.head) == ([], COUNT, COUNT, head_of(COUNT, LOG[-1]))
    assert [read(line).what["n"] for line in LOG] == list(range(1, COUNT + 1))


def test_other_tools_can_check_it() -> None:
    """The rule as docs/reference/audit.md has it."""
    before = "0" * 64
    for line in LOG:
        fields = json.loads(line)
        assert fields["previous"] == before
        assert hashlib.sha256((line.rpartition(',"hash":')[0] + "}").encode()).hexdigest() == fields["hash"]
        before = hashlib.sha256(line.encode()).hexdigest()


@given(st.integers(0, COUNT - 1), st.data())
def test_any_flipped_bit_is_found_at_its_line(number: int, data: st.DataObject) -> None:
    raw = bytearray(LOG[number].encode())
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    lines = [*LOG]
    lines[number] = raw.decode(errors="replace")
    found = checked(lines).findings
    assert found
    # A number that was changed is missed at its own line, others there or, for what is signed alone, at the next.
    assert any(finding.startswith((f"line {number + 1}:", f"line {number + 2}:")) or number == COUNT - 1 for finding in found)


@given(st.permutations(range(COUNT)).filter(lambda order: list(order) != sorted(order)))
def test_any_other_order_is_found(order: list[int]) -> None:
    assert checked([LOG[number] for number in order]).findings


@given(st.sets(st.integers(0, COUNT - 1), min_size=1, max_size=COUNT - 1))
def test_any_lines_that_are_left_out_are_found(gone: set[int]) -> None:
    kept = [line for number, line in enumerate(LOG) if number not in gone]
    assert checked(kept, heads=[("the journal", head_of(COUNT, LOG[-1]))]).findings


@pytest.mark.parametrize("number", range(COUNT))
def test_a_line_that_comes_twice_is_found(number: int) -> None:
    assert checked([*LOG[:number], LOG[number], *LOG[number:]]).findings


def rewritten(number: int, signer: Signer | None) -> list[str]:
    """Line `number` says something else, and all after it are made to follow."""
    before, after = LOG[: number - 1], LOG[number - 1 :]
    head = head_of(number - 1, before[-1]) if before else BEGIN
    lines = []
    for line in after:
        entry = read(line)
        text, head = write(head, entry.number, MOMENT.isoformat(), "refused", entry.what, signer if entry.key_id else None)
        lines.append(text)
    return [*before, *lines]


@pytest.mark.parametrize(
    ("signer", "says"),
    [(None, "no key that is trusted here vouches for what comes after entry 3"), (OTHER, "signed by site-a.2, a key that is not known")],
)
def test_who_has_no_key_cannot_write_it_anew(signer: Signer | None, says: str) -> None:
    assert any(says in finding for finding in checked(rewritten(5, signer)).findings)


def test_who_has_the_key_is_found_by_a_head_that_others_know() -> None:
    forged = rewritten(5, SIGNER)
    assert checked(forged).findings == []
    assert checked(forged, heads=[("the centre", head_of(4, LOG[3]))]).findings == []
    assert checked(forged, heads=[("the centre", head_of(7, LOG[6]))]).findings == ["line 7: the centre knows another entry 7"]


def test_an_end_that_was_cut_off() -> None:
    head = head_of(COUNT, LOG[-1])
    assert checked(LOG[:7], heads=[("the journal", head)]).findings == [
        "no key that is trusted here vouches for what comes after entry 6", "the end is missing: the journal knows of entry 9"
    ]  # fmt: skip
    # Cut at a signed line, it is a log of an earlier day: the head alone tells.
    assert checked(LOG[:6]).findings == []
    assert checked([], heads=[("the journal", head)]).findings == ["the end is missing: the journal knows of entry 9"]


def test_one_wrong_line_is_one_finding() -> None:
    lines = [*LOG]
    lines[4] = lines[4].replace('"n":5', '"n":6')
    assert checked(lines).findings == ["line 5: the line was changed: its hash does not fit it"]
    lines[4] = "not even JSON"
    (finding,) = checked(lines).findings
    assert finding.startswith("line 5: no line of an audit log")
    assert checked(LOG[:4] + LOG[5:]).findings == ["line 5: entry 6 comes after 4: lines are missing, or stand in another order"]


def test_a_part_of_a_log_may_begin_anywhere() -> None:
    assert checked(LOG[4:], from_begin=False).findings == []
    assert checked(LOG[4:]).findings == ["line 1: entry 5 comes after 0: lines are missing, or stand in another order"]
    assert checked(LOG[4:6] + LOG[7:], from_begin=False).findings


def with_keys(*lines: Callable[[Head], tuple[str, Head]]) -> list[str]:
    head, made = BEGIN, []
    for line in lines:
        text, head = line(head)
        made.append(text)
    return made


def line(kind: str, what: dict[str, object], signer: Signer) -> Callable[[Head], tuple[str, Head]]:
    return lambda head: write(head, head.number + 1, MOMENT.isoformat(), kind, what, signer)


def test_a_key_that_was_changed() -> None:
    """The log names its earlier keys, and the present one vouches for that."""
    lines = with_keys(
        line(KEYS, {"signs": {OTHER.key_id: OTHER.public_key()}}, OTHER),
        line("ended", {}, OTHER),
        line(KEYS, {"signs": TRUSTED}, SIGNER),
    )
    assert checked(lines).findings == []
    assert checked(lines[:2]).findings == ["no key that is trusted here vouches for what comes after entry 0"]


def test_a_log_of_the_embedded_profile_is_not_signed() -> None:
    lines = a_log(signer=Signer())
    found = checked(lines, {})
    assert (found.findings, found.signed) == ([], 0)
    assert "signature" not in json.loads(lines[2])
    assert checked([*lines[:2], *lines[3:]], {}).findings


def test_a_signature_of_a_message_is_none_of_a_line() -> None:
    sealed = json.loads(SIGNER.seal(b"audit x"))
    forged = json.loads(LOG[2]) | {"signature": sealed["signature"]}
    text = json.dumps(forged, separators=(",", ":"))
    assert "line 3: the signature by site-a.1 does not fit" in checked([*LOG[:2], text]).findings


def test_heads_are_written_and_read() -> None:
    head = head_of(COUNT, LOG[-1])
    assert Head.parse(str(head)) == head
    for wrong in ("", "7", "x:" + "0" * 64, "7:xyz", "-1:" + "0" * 64):
        with pytest.raises(MessageError, match="no head of a log"):
            Head.parse(wrong)
