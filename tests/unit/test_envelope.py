"""The envelope: exact bytes under a signature, and each way in which it can be wrong."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fdn_worker.errors import MessageError, SettingsError
from fdn_worker.protocol.envelope import Keyring, Signer, make_key, payload_of

SIGNER = Signer("site-a", Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
OTHER = Signer("site-a", Ed25519PrivateKey.from_private_bytes(bytes(32)))
RING = Keyring({"site-a": SIGNER.public_key()})


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_the_payloads_bytes_survive(text: str) -> None:
    for signer, ring in ((SIGNER, RING), (Signer(), Keyring(unsigned_ok=True))):
        opened = ring.open(signer.seal(text.encode()))
        assert (opened.payload, opened.key_id) == (text.encode(), signer.key_id)
        assert payload_of(signer.seal(text.encode())) == text.encode()


def test_they_survive_a_re_encoding_of_the_envelope() -> None:
    body = json.dumps(json.loads(SIGNER.seal('{"ü":  1}'.encode())), indent=3, ensure_ascii=False, sort_keys=True).encode("utf-16")
    assert RING.open(body).payload == '{"ü":  1}'.encode()


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        ({"version": 2}, "message", "envelope version 2 is unknown (this side reads version 1)"),
        ({"version": "1"}, "message", "envelope version '1' is unknown"),
        ({"version": ...}, "message", "not an envelope"),
        ({"payload": {"a": 1}}, "message", "not an envelope"),
        ({"payload": "\ud800"}, "message", "not an envelope"),
        ({"payload": "{}"}, "signature", "the signature by 'site-a' does not fit the message"),
        ({"signature": ""}, "signature", "does not fit"),
        ({"signature": "a b"}, "signature", "does not fit"),
        ({"signature": 7}, "signature", "does not fit"),
        ({"algorithm": "HS256"}, "signature", "algorithm 'HS256' is not admitted"),
        ({"algorithm": ["Ed25519"]}, "signature", "is not admitted"),
        ({"algorithm": "none"}, "unsigned", "the message is unsigned (only the embedded profile takes it)"),
        ({"algorithm": "none", "signature": ""}, "unsigned", "unsigned"),
        ({"key_id": "site-b"}, "signature", "unknown key 'site-b' (add it to the trusted keys)"),
        ({"key_id": ""}, "signature", "unknown key ''"),
        ({"key_id": ["site-a"]}, "signature", "unknown key"),
    ],
)
def test_what_is_wrong_is_named(changes: dict[str, Any], code: str, words: str) -> None:
    envelope = json.loads(SIGNER.seal(b'{"a": 1}')) | changes
    body = json.dumps({name: value for name, value in envelope.items() if value is not ...}).encode()
    with pytest.raises(MessageError) as caught:
        RING.open(body)
    assert caught.value.code == code
    assert words in str(caught.value)


def test_anothers_signature_under_our_key_id_is_refused() -> None:
    with pytest.raises(MessageError, match="does not fit"):
        RING.open(OTHER.seal(b"{}"))


@pytest.mark.parametrize("public", ["", "not base64!", base64.b64encode(b"short").decode()])
def test_a_keyring_with_a_broken_key_trusts_nobody(public: str) -> None:
    with pytest.raises(MessageError, match="does not fit"):
        Keyring({"site-a": public}).open(SIGNER.seal(b"{}"))


def test_keys_are_made_once_for_the_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "site-a.key"
    make_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    signer = Signer.load("site-a", path)
    assert Keyring({"site-a": signer.public_key()}).open(signer.seal(b"x")).key_id == "site-a"
    kept = path.read_bytes()
    with pytest.raises(SettingsError, match="exists already"):
        make_key(path)
    assert path.read_bytes() == kept
    assert kept.decode().strip() not in repr(signer)


@pytest.mark.parametrize("content", [None, b"", b"AAAA", b"not base64!", b"\xff\xfe"])
def test_a_key_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "site-a.key"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        Signer.load("site-a", path)
    assert f"signing key {path}" in str(caught.value)
    assert "fdn-worker init" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unsigned_profile_has_no_public_key() -> None:
    with pytest.raises(SettingsError, match="no public key"):
        Signer().public_key()
