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
from fdn_worker.protocol import Message, pack
from fdn_worker.protocol.envelope import Keyring, Signer, is_public_key, key_id_of, make_key, node_of_key, payload_of, verify
from tests.unit.strategies import messages

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


@given(messages, st.data())
def test_an_envelope_with_any_flipped_bit_is_refused(message: Message, data: st.DataObject) -> None:
    body = bytearray(pack(message, SIGNER))
    assert RING.open(bytes(body)).key_id == "site-a"
    body[data.draw(st.integers(0, len(body) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(MessageError):
        RING.open(bytes(body))


def test_every_bit_of_one_envelope() -> None:
    sealed = SIGNER.seal(b'{"a": "\\u00e9"}')
    for number in range(8 * len(sealed)):
        body = bytearray(sealed)
        body[number // 8] ^= 1 << number % 8
        with pytest.raises(MessageError):
            RING.open(bytes(body))


@given(st.lists(st.binary(max_size=40), min_size=2, max_size=2, unique=True))
def test_a_signature_is_of_its_bytes_alone(data: list[bytes]) -> None:
    one, other = data
    assert verify(SIGNER.public_key(), SIGNER.sign(one), one)
    assert not verify(SIGNER.public_key(), SIGNER.sign(one), other)
    assert not verify(OTHER.public_key(), SIGNER.sign(one), one)


def test_a_signature_has_one_spelling() -> None:
    """The last character before the padding has bits that no decoder looks at."""
    signature = SIGNER.sign(b"x")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    twin = signature[:-3] + alphabet[alphabet.index(signature[-3]) ^ 1] + "=="
    assert base64.b64decode(twin) == base64.b64decode(signature)
    assert not verify(SIGNER.public_key(), twin, b"x")
    assert not verify(SIGNER.public_key(), signature + "\n", b"x")


def test_a_revoked_key_is_refused_by_name_though_it_is_trusted() -> None:
    ring = Keyring(RING.keys, revoked={"site-a": "stolen"})
    with pytest.raises(MessageError, match="key 'site-a', which was revoked: stolen") as caught:
        ring.open(SIGNER.seal(b"{}"))
    assert caught.value.code == "key-revoked"


def test_a_nodes_keys_have_names_of_their_own(tmp_path: Path) -> None:
    names = set()
    for number in range(3):
        make_key(tmp_path / str(number))
        signer = Signer.of_node("site-a", tmp_path / str(number))
        assert signer.key_id == key_id_of("site-a", signer.public_key())
        assert node_of_key(signer.key_id) == "site-a"
        assert is_public_key(signer.public_key())
        names.add(signer.key_id)
    assert len(names) == 3
    assert not any(map(is_public_key, ("", "AAAA", "no base64!", signer.public_key() + "A")))
