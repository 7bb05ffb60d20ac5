"""The secure sum: the server learns the sum of the clients' vectors, and of no single one (Bonawitz 2017, against an honest but curious server).

1. Every client makes two X25519 key pairs, one for masks and one to seal shares, and publishes both public keys (`keys`).
2. It draws a seed of its own, splits that and its mask's private key into shares, one for each client (Shamir, `threshold` of them make the secret
   again), seals each share for its receiver, and hands them to the server, which passes them on (`shares`).
3. It sends its vector in fixed point modulo 2^64, plus a mask of its own seed, plus a mask shared with each other client that took step 2, which one of
   the two adds and the other subtracts (`masked`).
4. The server tells who has sent. Each of those opens its share of the own seed of who has sent, and of the mask key of who has dropped out since
   step 2, never both of one client (`reveal`). With `threshold` answers the server takes all masks off (`unmask`): what is left is the sum of
   those that have sent.

Assumptions: the public keys reach every client as their owners made them (sign them with the nodes' keys), and the server does not make clients up.
A threshold above half of the clients keeps a server that tells different clients different lists from collecting both secrets of one, as long as no
client helps it. Fewer than `threshold` clients that conspire with an honest but curious server learn the sum of the others, and no more. Nothing
keeps a client from sending nonsense: what is masked cannot be checked, so the sum is.
All keys are for one round. The sum is exact: fixed point wraps around without error as long as the true sum lies within 2^63 units.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from fdn_worker.errors import Fault, FdnError
from federation.learning.models import Array

Words = NDArray[np.uint64]
#: Shares are numbers modulo this prime; secrets have 256 bits and are smaller.
PRIME = 2**521 - 1
SECRET_BYTES = 32
#: Coordinates whose masks are made at once.
CHUNK = 1 << 16


class SecureSumFailed(FdnError):
    """The protocol cannot go on: too few are left, or a message is not what it should be."""

    code = "secure-sum"
    fault = Fault.USER


@dataclass(frozen=True)
class Keys:
    """What a client publishes."""

    masks: bytes
    seals: bytes


@dataclass(frozen=True)
class Revealed:
    """A client's shares: of own seeds of who has sent, and of mask keys of who has not. Client -> share."""

    seeds: Mapping[str, int]
    masks: Mapping[str, int]


def to_fixed(values: Array, bits: int, members: int) -> Words:
    """Numbers in units of 2^-bits, negative ones as their complement. Raises SecureSumFailed where the sum of so many might overflow."""
    scaled = np.rint(values * 2.0**bits)
    if not np.isfinite(scaled).all() or np.abs(scaled).max(initial=0.0) * members >= 2.0**62:
        raise SecureSumFailed(f"a value is not finite, or too large for the sum of {members} in units of 2^-{bits}", remedy="fewer bits")
    return scaled.astype(np.int64).view(np.uint64)


def from_fixed(words: Words, bits: int) -> Array:
    """The inverse, of a sum."""
    return words.view(np.int64).astype(np.float64) / 2.0**bits


@dataclass
class SecureClient:
    """One client's side of one round. `threshold` clients have to stay to the end; more than half of them, at least two."""

    name: str
    threshold: int
    #: Names the round: masks of two rounds are unlike even with the same keys.
    round: bytes
    _mask_key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate, repr=False)
    _seal_key: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate, repr=False)
    _seed: bytes = field(default_factory=lambda: secrets.token_bytes(SECRET_BYTES), repr=False)
    _peers: dict[str, Keys] = field(default_factory=dict, repr=False)
    _sealed: dict[str, bytes] = field(default_factory=dict, repr=False)
    _revealed: bool = field(default=False, repr=False)

    def state(self) -> str:
        """All of it, its secrets too, as JSON: for the client's own disk, between two steps."""
        return json.dumps({
            "name": self.name, "threshold": self.threshold, "round": self.round.hex(), "mask_key": self._mask_key.private_bytes_raw().hex(),
            "seal_key": self._seal_key.private_bytes_raw().hex(), "seed": self._seed.hex(), "revealed": self._revealed,
            "peers": {name: [keys.masks.hex(), keys.seals.hex()] for name, keys in self._peers.items()},
            "sealed": {name: share.hex() for name, share in self._sealed.items()},
        })  # fmt: skip

    @classmethod
    def restore(cls, state: str) -> SecureClient:
        """The inverse of `state`."""
        of = json.loads(state)
        private = X25519PrivateKey.from_private_bytes
        return cls(
            of["name"], of["threshold"], bytes.fromhex(of["round"]), private(bytes.fromhex(of["mask_key"])), private(bytes.fromhex(of["seal_key"])),
            bytes.fromhex(of["seed"]), {name: Keys(bytes.fromhex(masks), bytes.fromhex(seals)) for name, (masks, seals) in of["peers"].items()},
            {name: bytes.fromhex(share) for name, share in of["sealed"].items()}, of["revealed"],
        )  # fmt: skip

    def keys(self) -> Keys:
        """Step 1."""
        return Keys(self._mask_key.public_key().public_bytes_raw(), self._seal_key.public_key().public_bytes_raw())

    def shares(self, peers: Mapping[str, Keys]) -> dict[str, bytes]:
        """Step 2: receiver -> sealed share, of all that published keys, this one among them."""
        check_threshold(self.threshold, len(peers))
        if peers.get(self.name) != self.keys():
            raise SecureSumFailed(f"client {self.name} is not among the peers with its own keys")
        if len({keys.masks for keys in peers.values()}) != len(peers):
            raise SecureSumFailed("two clients have the same key")
        self._peers = dict(peers)
        receivers = sorted(peers)
        seed = split(self._seed, len(receivers), self.threshold)
        mask = split(self._mask_key.private_bytes_raw(), len(receivers), self.threshold)
        return {receiver: self._seal(receiver, json.dumps([seed[place], mask[place]]).encode()) for place, receiver in enumerate(receivers)}

    def masked(self, words: Words, sealed: Mapping[str, bytes]) -> Words:
        """Step 3: the vector under all its masks. `sealed`: sender -> its share for this one, of all that took step 2, this one among them."""
        if self._sealed:
            raise SecureSumFailed(f"client {self.name} has sent its vector already")
        if len(sealed) < self.threshold or self.name not in sealed or not sealed.keys() <= self._peers.keys():
            raise SecureSumFailed(
                f"{len(sealed)} clients have shared their secrets, and {self.threshold} must", remedy="begin the round again"
            )
        self._sealed = dict(sealed)
        found = words.copy()
        add_mask(found, self._seed, self.round, 1)
        for peer in sealed:
            if peer != self.name:
                add_mask(found, agreed(self._mask_key, self._peers[peer].masks), self.round, sign(self.name, peer))
        return found

    def reveal(self, sent: Iterable[str]) -> Revealed:
        """Step 4, of those that have `sent` a vector. Answers once: a second list could ask for the other secret."""
        here = set(sent)
        if self._revealed:
            raise SecureSumFailed(f"client {self.name} has revealed its shares already")
        if len(here) < self.threshold or not here <= self._sealed.keys():
            raise SecureSumFailed(f"{len(here)} clients have sent their vector, and {self.threshold} must", remedy="begin the round again")
        self._revealed = True
        opened = {sender: self._open(sender, share) for sender, share in self._sealed.items()}
        return Revealed(
            seeds={sender: seed for sender, (seed, _) in opened.items() if sender in here},
            masks={sender: mask for sender, (_, mask) in opened.items() if sender not in here},
        )

    def _sealing(self, peer: str) -> ChaCha20Poly1305:
        return ChaCha20Poly1305(derived(agreed(self._seal_key, self._peers[peer].seals), b"seal" + self.round))

    def _seal(self, receiver: str, text: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._sealing(receiver).encrypt(nonce, text, f"{self.name}>{receiver}".encode())

    def _open(self, sender: str, sealed: bytes) -> tuple[int, int]:
        try:
            text = self._sealing(sender).decrypt(sealed[:12], sealed[12:], f"{sender}>{self.name}".encode())
        except InvalidTag as error:
            raise SecureSumFailed(f"the share from {sender} for {self.name} has been changed on its way") from error
        seed, mask = json.loads(text)
        return seed, mask


def unmask(
    total: Words,
    peers: Mapping[str, Keys],
    shared: Iterable[str],
    sent: Iterable[str],
    answers: Mapping[str, Revealed],
    threshold: int,
    round: bytes,
) -> Words:
    """Step 4, the server's: the sum of the vectors of `sent`, from the sum `total` of what they sent. `shared`: who took step 2."""
    found, here = total.copy(), set(sent)
    if len(answers) < threshold:
        raise SecureSumFailed(f"{len(answers)} clients have revealed their shares, and {threshold} must", remedy="begin the round again")
    places = {name: place for place, name in enumerate(sorted(peers), start=1)}
    for name in sorted(here):
        seed = combine(
            {places[answer]: revealed.seeds[name] for answer, revealed in answers.items() if name in revealed.seeds}, threshold, name
        )
        add_mask(found, seed, round, -1)
    for name in sorted(set(shared) - here):
        private = combine(
            {places[answer]: revealed.masks[name] for answer, revealed in answers.items() if name in revealed.masks}, threshold, name
        )
        key = X25519PrivateKey.from_private_bytes(private)
        if key.public_key().public_bytes_raw() != peers[name].masks:
            raise SecureSumFailed(f"the shares of {name} do not make its key", remedy="begin the round again without who gave a false one")
        for peer in here:
            # The peer has added this one's mask with its own sign, and nobody has taken it off.
            add_mask(found, agreed(key, peers[peer].masks), round, -sign(peer, name))
    return found


def check_threshold(threshold: int, count: int) -> None:
    """Of so many clients."""
    if not max(2, count // 2 + 1) <= threshold <= count:
        raise SecureSumFailed(f"a threshold of {threshold} of {count} clients", remedy="more than half of them, at least two, at most all")


def sign(name: str, peer: str) -> int:
    """Whether `name` adds the mask it shares with `peer`, or subtracts it."""
    return 1 if name < peer else -1


def agreed(own: X25519PrivateKey, public: bytes) -> bytes:
    """The secret that two clients share."""
    return own.exchange(X25519PublicKey.from_public_bytes(public))


def derived(secret: bytes, purpose: bytes) -> bytes:
    """A key for one purpose."""
    return HKDF(SHA256(), SECRET_BYTES, salt=None, info=b"fem secure sum " + purpose).derive(secret)


def add_mask(words: Words, secret: bytes, round: bytes, sign: int) -> None:
    """Add the stream of that secret to the words, or subtract it, in place."""
    # The key is used for this one stream, so that the nonce may be fixed.
    stream = Cipher(ChaCha20(derived(secret, b"mask" + round), bytes(16)), mode=None).encryptor()
    for start in range(0, len(words), CHUNK):
        part = words[start : start + CHUNK]
        mask = np.frombuffer(stream.update(bytes(part.nbytes)), "<u8")
        if sign > 0:
            part += mask
        else:
            part -= mask


def split(secret: bytes, count: int, threshold: int) -> list[int]:
    """Shares of a secret (Shamir 1979): values at 1, 2, ... of a random polynomial whose value at 0 is the secret."""
    polynomial = [int.from_bytes(secret), *(secrets.randbelow(PRIME) for _ in range(threshold - 1))]
    shares = []
    for place in range(1, count + 1):
        value = 0
        for coefficient in reversed(polynomial):
            value = (value * place + coefficient) % PRIME
        shares.append(value)
    return shares


def combine(shares: Mapping[int, int], threshold: int, name: str) -> bytes:
    """The secret of client `name`, from shares by their place. Raises SecureSumFailed for too few, or false ones as far as that shows."""
    if len(shares) < threshold:
        raise SecureSumFailed(f"{len(shares)} shares of {name} were revealed, and {threshold} are needed", remedy="begin the round again")
    chosen: Sequence[int] = sorted(shares)[:threshold]
    secret = 0
    for place in chosen:
        above, below = 1, 1
        for other in chosen:
            if other != place:
                above = above * other % PRIME
                below = below * (other - place) % PRIME
        secret = (secret + shares[place] * above * pow(below, -1, PRIME)) % PRIME
    if secret >> 8 * SECRET_BYTES:
        raise SecureSumFailed(f"the shares of {name} do not fit together", remedy="begin the round again without who gave a false one")
    return secret.to_bytes(SECRET_BYTES)
