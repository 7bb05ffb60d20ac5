"""Certificates as logins: a private key that stays where it was made, and the request that an authority signs.

EC P-256, which every TLS library and RabbitMQ take.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fdn_worker.errors import SettingsError
from fdn_worker.protocol.names import check_id

#: The files of a client: its key, the request for its certificate, and what the authority sends back.
KEY, REQUEST, CERTIFICATE, AUTHORITY = "client.key", "client.csr", "client.pem", "ca.pem"


def common_name(value: str) -> x509.Name:
    """A subject that is nothing but this common name, by which the broker knows a client."""
    try:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, value)])
    except ValueError as error:
        raise SettingsError(f"{value!r} cannot be the name in a certificate", remedy="use 1 to 64 characters") from error


def private_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """The key in `path`; a new one, readable by its owner alone, if there is none. Never replaces one."""
    if path.exists():
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError) as error:
            raise SettingsError(f"{path} holds no private key without a password", remedy="move it away, and start again") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise SettingsError(f"{path} holds a key of another kind than EC", remedy="move it away, and start again")
        return key
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(path, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(pem)
    return key


def request(node: str, broker: str) -> Path:
    """Make the key that the broker's address names (`keyfile=`), and beside it the request for a certificate; the request's path.

    A key that is there is kept.
    """
    key = dict(parse_qsl(urlsplit(broker).query)).get("keyfile")
    if key is None:
        raise SettingsError("broker.url names no keyfile", remedy="set it to amqps://HOST/?cacertfile=...&certfile=...&keyfile=...")
    path = Path(key).with_name(REQUEST)
    subject = common_name(check_id(node, "node"))
    try:
        made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(private_key(Path(key)), hashes.SHA256())
        path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    except OSError as error:
        raise SettingsError(f"{path.parent}: {error.strerror}", remedy="make the folder, writable for you") from error
    return path


def broker_address(address: str, folder: Path) -> str:
    """`address` with the certificate in `folder` as the login, and so without a user."""
    parts = urlsplit(address)
    host = parts.netloc.rpartition("@")[2]
    if parts.scheme != "amqps" or parts.query:
        raise SettingsError(
            f"--tls does not go with the broker address {parts.scheme}://{host}",
            remedy="give amqps://HOST/VHOST alone: the certificate's files are added",
        )
    files = {"cacertfile": AUTHORITY, "certfile": CERTIFICATE, "keyfile": KEY}
    query = "&".join(f"{key}={quote(str(folder / name))}" for key, name in files.items())
    return f"amqps://{host}{parts.path or '/'}?{query}"
