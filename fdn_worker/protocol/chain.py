"""The hash chain of an audit log: JSON lines, each with the hash of the one before it.

    {"number":7,"at":"2030-01-31T12:00:00+00:00","kind":"accepted","what":{...},"previous":"...","hash":"...","key_id":"...","signature":"..."}

`previous` is the SHA-256 of the line before as it stands, without its end; `hash` that of this line's own bytes before
`,"hash":`, closed by a brace. The last two fields are not in each line: `signature` (Ed25519, over "audit " and the hash)
vouches for its line and, by the chain, for all before it. Here and not at the site, since the centre keeps such a log
too, and checks those of its sites.
"""

from __future__ import annotations

import hashlib
import json
import os
import pwd
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field, ValidationError

from fdn_worker.errors import MessageError
from fdn_worker.protocol.base import Moment, Part, Sha256
from fdn_worker.protocol.envelope import Signer, verify

_HASH = ',"hash":"'
#: Kind of the entry that names the keys by which a log is signed from then on: `what["signs"]` is key id -> public key.
KEYS = "keys"


class Head(Part):
    """Where a log ends: number and SHA-256 of its last line."""

    number: Annotated[int, Field(ge=0)]
    hash: Sha256

    def __str__(self) -> str:
        return f"{self.number}:{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Head:
        """The inverse of `str`."""
        number, _, digest = text.partition(":")
        try:
            return cls(number=int(number), hash=digest)
        except ValueError as error:
            raise MessageError(f"{text!r} is no head of a log", remedy="write it as `audit verify` does: NUMBER:HASH") from error


#: Before the first line.
BEGIN = Head(number=0, hash="0" * 64)


class Line(Part):
    """A line, read."""

    number: Annotated[int, Field(ge=1)]
    at: Moment
    kind: str
    what: dict[str, Any]
    previous: Sha256
    hash: Sha256
    key_id: str = ""
    signature: str = ""

    def said(self) -> str:
        """What it tells, on one line."""
        return " ".join(f"{name}={value if isinstance(value, str | int) else _json(value)}" for name, value in self.what.items())


def write(head: Head, number: int, at: str, kind: str, what: Mapping[str, Any], signer: Signer | None = None) -> tuple[str, Head]:
    """The line that follows `head`, without its end, and the new head. Signed, if there is a signer that has a key."""
    body = _json({"number": number, "at": at, "kind": kind, "what": what, "previous": head.hash})
    digest = hashlib.sha256(body.encode()).hexdigest()
    line = _closed(body, digest, *((signer.key_id, signer.sign(_signed(digest))) if signer and signer.key else ("", "")))
    return line, head_of(number, line)


def head_of(number: int, line: str) -> Head:
    """Of a log whose last line this is."""
    return Head(number=number, hash=hashlib.sha256(line.encode()).hexdigest())


def read(line: str) -> Line:
    """A line that is as it was written; MessageError says what is wrong. Its signature and its place are `check`'s."""
    try:
        found = Line.model_validate_json(line)
    except ValidationError as error:
        raise MessageError(f"no line of an audit log: {error.errors()[0]['msg']}") from error
    body = line.rpartition(_HASH)[0] + "}"
    digest = hashlib.sha256(body.encode()).hexdigest()
    if line != _closed(body, digest, found.key_id, found.signature):
        raise MessageError("the line was changed: its hash does not fit it")
    return found


@dataclass
class Checked:
    """What a check found. `signed` is the number up to which a key that was given vouches for the log."""

    head: Head = BEGIN
    lines: int = 0
    signed: int = 0
    #: Plain sentences, each with its place; none for a log that is whole.
    findings: list[str] = field(default_factory=list)


def check(
    lines: Iterable[tuple[str, str]], keys: Mapping[str, str], *, from_begin: bool = True, heads: Iterable[tuple[str, Head]] = ()
) -> Checked:  # fmt: skip
    """Check (place, line) pairs in their order; without `from_begin` they may be the later part of a log.

    `keys` are key id -> public key; none for a log of the embedded profile, which is not signed. `heads` are known from
    elsewhere, each with who knows it: the log must have had them.
    """
    checked, known, wanted = Checked(), dict(keys), list(heads)
    before: Head | None = BEGIN if from_begin else None
    for place, text in lines:
        checked.lines += 1
        try:
            line = read(text)
        except MessageError as error:
            checked.findings.append(f"{place}: {error.message}")
            # One wrong line is one finding.
            checked.head, before = Head(number=checked.head.number + 1, hash=BEGIN.hash), None
            continue
        findings = list(_misplaced(line, checked.head, before))
        checked.head = before = head_of(line.number, text)
        findings += [f"{who} knows another entry {line.number}" for who, head in wanted if head.number == line.number and head != before]
        if line.kind == KEYS and isinstance(named := line.what.get("signs"), dict):
            # Not to be trusted by itself: a given key that signs later vouches for it.
            known |= {str(key_id): str(key) for key_id, key in named.items() if key_id not in keys}
        if line.key_id:
            if line.key_id not in known:
                findings.append(f"signed by {line.key_id}, a key that is not known")
            elif not verify(known[line.key_id], line.signature, _signed(line.hash)):
                findings.append(f"the signature by {line.key_id} does not fit")
            elif line.key_id in keys:
                checked.signed = line.number
        checked.findings += [f"{place}: {finding}" for finding in findings]
    end = checked.head.number
    if keys and checked.signed < end:
        checked.findings.append(f"no key that is trusted here vouches for what comes after entry {checked.signed}")
    checked.findings += [f"the end is missing: {who} knows of entry {head.number}" for who, head in wanted if head.number > end]
    return checked


def login() -> str:
    """The name of who runs this process, whatever the environment says: for entries about what a person did."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return f"uid {os.getuid()}"  # as in a container without a user of that number


def _misplaced(line: Line, last: Head, before: Head | None) -> Iterator[str]:
    """`before` is None where the line before is not there, or not as it was."""
    if (before is not None or last != BEGIN) and line.number != last.number + 1:
        yield f"entry {line.number} comes after {last.number}: lines are missing, or stand in another order"
    elif before is not None and line.previous != before.hash:
        yield f"entry {line.number} was written after another entry {last.number} than the one that stands there"


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _closed(body: str, digest: str, key_id: str, signature: str) -> str:
    """The body with its hash and signature."""
    end = {"hash": digest} | ({"key_id": key_id, "signature": signature} if key_id or signature else {})
    return f"{body[:-1]},{_json(end)[1:]}"


def _signed(digest: str) -> bytes:
    # No message is ever such bytes: a signature of one sort is never taken for the other.
    return b"audit " + digest.encode()
