"""The envelope: {version, key_id, algorithm, signature, payload}; the payload is signed as exact bytes.

The payload travels as a JSON string, so its bytes survive any re-encoding of the envelope around it.
Ed25519 alone is admitted; `none` is read only by a keyring that was made for the embedded profile.

A centre's keys are named by its settings (`centre`, `centre-2`). A node's key is named by the node and the beginning of the
key's own hash (`site-a.1f2e3d4c5b6a7988`), so that no two have one name; the node's id alone names the key of its enrolment.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from fdn_worker.errors import MessageError, SettingsError

#: Version of the envelope itself; a reader refuses any other.
ENVELOPE_VERSION = 1
ALGORITHM = "Ed25519"
UNSIGNED = "none"


@dataclass(frozen=True)
class Signer:
    """Seals payloads. Without a key it writes unsigned envelopes, for the embedded profile only."""

    key_id: str = ""
    key: Ed25519PrivateKey | None = field(default=None, repr=False)

    @classmethod
    def load(cls, key_id: str, path: Path) -> Signer:
        """Read a private key of 32 raw bytes, in base64."""
        try:
            raw = base64.b64decode(path.read_text().strip(), validate=True)
            return cls(key_id, Ed25519PrivateKey.from_private_bytes(raw))
        except (OSError, ValueError) as error:
            raise SettingsError(f"signing key {path}: {error}", remedy="make one with `fem keys` or `fdn-worker init`") from error

    @classmethod
    def of_node(cls, node: str, path: Path) -> Signer:
        """A node's private key, under its own name."""
        signer = cls.load(node, path)
        return cls(key_id_of(node, signer.public_key()), signer.key)

    def public_key(self) -> str:
        """The public key in base64, as a keyring takes it."""
        if self.key is None:
            raise SettingsError("an unsigned profile has no public key")
        return base64.b64encode(self.key.public_key().public_bytes_raw()).decode()

    def sign(self, data: bytes) -> str:
        """The signature over exact bytes, in base64; "" without a key."""
        return base64.b64encode(self.key.sign(data)).decode() if self.key else ""

    def seal(self, payload: bytes) -> bytes:
        """The envelope around `payload`, as JSON bytes."""
        envelope = {
            "version": ENVELOPE_VERSION,
            "key_id": self.key_id,
            "algorithm": ALGORITHM if self.key else UNSIGNED,
            "signature": self.sign(payload),
            "payload": payload.decode(),
        }
        return json.dumps(envelope).encode()


@dataclass(frozen=True)
class Opened:
    """What an envelope held: the payload's exact bytes, and the key that vouches for it ("" when unsigned)."""

    payload: bytes
    key_id: str


@dataclass(frozen=True)
class Keyring:
    """The public keys (key id -> base64) whose word is taken. `unsigned_ok` marks the embedded profile.

    `revoked` (key id -> why) are refused even where they stand among the keys.
    """

    keys: Mapping[str, str] = field(default_factory=dict)
    unsigned_ok: bool = False
    revoked: Mapping[str, str] = field(default_factory=dict)

    def open(self, body: bytes) -> Opened:
        """Check and open an envelope; MessageError says why not."""
        try:
            envelope = json.loads(body)
            version, key_id = envelope["version"], envelope["key_id"]
            algorithm, signature = envelope["algorithm"], envelope["signature"]
            payload = envelope["payload"].encode()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise MessageError(f"not an envelope: {error!r}") from error
        if version != ENVELOPE_VERSION:
            raise MessageError(f"envelope version {version!r} is unknown", remedy=f"this side reads version {ENVELOPE_VERSION}")
        if algorithm == UNSIGNED:
            if not self.unsigned_ok:
                raise MessageError("the message is unsigned", code="unsigned", remedy="only the embedded profile takes it")
            return Opened(payload, "")
        if algorithm != ALGORITHM:
            raise MessageError(f"signature algorithm {algorithm!r} is not admitted", code="signature")
        known = self.keys.get(key_id) if isinstance(key_id, str) else None
        if isinstance(key_id, str) and key_id in self.revoked:
            raise MessageError(f"signed with the key {key_id!r}, which was revoked: {self.revoked[key_id]}", code="key-revoked")
        if known is None:
            raise MessageError(f"signed with the unknown key {key_id!r}", code="signature", remedy="add it to the trusted keys")
        if not verify(known, signature, payload):
            raise MessageError(f"the signature by {key_id!r} does not fit the message", code="signature")
        return Opened(payload, key_id)


def verify(public_key: str, signature: str, data: bytes) -> bool:
    """Whether the signature, in base64, is that key's over exactly these bytes."""
    try:
        raw = base64.b64decode(signature, validate=True)
        # A decoder passes over the last character's spare bits; then there would be several spellings of one signature.
        if base64.b64encode(raw).decode() != signature:
            return False
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public_key)).verify(raw, data)
    except (InvalidSignature, ValueError, TypeError):
        return False
    return True


def is_public_key(text: str) -> bool:
    """Whether it can be one: 32 bytes in base64."""
    try:
        return len(base64.b64decode(text, validate=True)) == 32
    except ValueError:
        return False


def key_id_of(node: str, public_key: str) -> str:
    """The name of a node's key."""
    return f"{node}.{hashlib.sha256(public_key.encode()).hexdigest()[:16]}"


def node_of_key(key_id: str) -> str:
    """Whose a node's key is, by its name: ids hold no dot."""
    return key_id.partition(".")[0]


def payload_of(envelope: bytes) -> bytes:
    """The payload of an envelope of our own keeping, unchecked."""
    payload: str = json.loads(envelope)["payload"]
    return payload.encode()


def make_key(path: Path) -> None:
    """Write a new private key to `path`, readable by its owner alone; refuses to replace one."""
    raw = Ed25519PrivateKey.generate().private_bytes_raw()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            file.write(base64.b64encode(raw).decode() + "\n")
    except FileExistsError as error:
        raise SettingsError(f"{path} exists already", remedy="keep it, or move it away first") from error
