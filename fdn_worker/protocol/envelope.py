"""The envelope: {version, key_id, algorithm, signature, payload}; the payload is signed as exact bytes.

The payload travels as a JSON string, so its bytes survive any re-encoding of the envelope around it.
Ed25519 alone is admitted; `none` is read only by a keyring that was made for the embedded profile.
"""

from __future__ import annotations

import base64
import binascii
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

    def public_key(self) -> str:
        """The public key in base64, as a keyring takes it."""
        if self.key is None:
            raise SettingsError("an unsigned profile has no public key")
        return base64.b64encode(self.key.public_key().public_bytes_raw()).decode()

    def seal(self, payload: bytes) -> bytes:
        """The envelope around `payload`, as JSON bytes."""
        signature = self.key.sign(payload) if self.key else b""
        envelope = {
            "version": ENVELOPE_VERSION,
            "key_id": self.key_id,
            "algorithm": ALGORITHM if self.key else UNSIGNED,
            "signature": base64.b64encode(signature).decode(),
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
    """The public keys (key id -> base64) whose word is taken. `unsigned_ok` marks the embedded profile."""

    keys: Mapping[str, str] = field(default_factory=dict)
    unsigned_ok: bool = False

    def open(self, body: bytes) -> Opened:
        """Check and open an envelope; MessageError says why not."""
        try:
            envelope = json.loads(body)
            version, key_id = envelope["version"], envelope["key_id"]
            algorithm, signature = envelope["algorithm"], base64.b64decode(envelope["signature"], validate=True)
            payload = envelope["payload"].encode()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, binascii.Error) as error:
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
        if known is None:
            raise MessageError(f"signed with the unknown key {key_id!r}", code="signature", remedy="add it to the trusted keys")
        try:
            Ed25519PublicKey.from_public_bytes(base64.b64decode(known)).verify(signature, payload)
        except (InvalidSignature, ValueError) as error:
            raise MessageError(f"the signature by {key_id!r} does not fit the message", code="signature") from error
        return Opened(payload, key_id)


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
