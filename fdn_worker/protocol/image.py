"""Signatures of images: Ed25519 over the digest alone, so that whoever has the key vouches for these bytes under any name."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from pydantic import AfterValidator, StringConstraints

#: Stands before the digest, so that a signature of anything else is none of an image.
CONTEXT = b"fdn image 1\n"

#: A signature in base64.
ImageSignature = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{86}==$")]


def _a_key(value: str) -> str:
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(value, validate=True))
    except (ValueError, binascii.Error) as error:
        raise ValueError("must be an Ed25519 public key, 32 bytes in base64") from error
    return value


#: An Ed25519 public key in base64.
PublicKey = Annotated[str, AfterValidator(_a_key)]


def signed_part(digest: str) -> bytes:
    """What is signed of an image."""
    return CONTEXT + digest.encode()


def vouches(public: str, digest: str, signature: str) -> bool:
    """Whether the signature over the digest was made with the private half of `public`."""
    try:
        Ed25519PublicKey.from_public_bytes(base64.b64decode(public)).verify(base64.b64decode(signature), signed_part(digest))
    except (InvalidSignature, ValueError):
        return False
    return True
