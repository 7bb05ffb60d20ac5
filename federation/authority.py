"""A small certificate authority: who may open a connection to the broker, and which server is the federation's.

    ca.key ca.pem         the root, valid for ten years; whoever holds its key can be any site
    ledger.jsonl          all that was issued and revoked; a serial's last line counts
    crl.pem               the list of what is revoked
    broker/ store/ ...    server.pem, server.key and ca.pem of a server
    centre/               client.pem, client.key and ca.pem of the centre
    sites/NODE/           client.pem, ca.pem and the request; a site's private key is never here

A certificate is renewed by issuing it again; keys stay, and none is ever replaced.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import BaseModel, ConfigDict, ValidationError

from fdn_worker.certificates import AUTHORITY, CERTIFICATE, KEY, REQUEST, common_name, private_key
from fdn_worker.errors import Fault, FdnError, SettingsError
from fdn_worker.protocol import now
from fdn_worker.protocol.names import check_id

#: Days for which root, leaf certificates and the list of revoked ones are valid.
ROOT_DAYS, LEAF_DAYS, CRL_DAYS = 3650, 825, 30
#: A site's clock may run behind by this much.
SKEW = timedelta(hours=1)
#: RabbitMQ's built-in user, who may do everything.
BUILT_IN = "guest"
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*")


class RequestRefused(FdnError):
    """A certificate is asked for that this authority does not give."""

    code = "certificate-request"
    fault = Fault.USER


class Issued(BaseModel):
    """A line of the ledger."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    #: Hexadecimal.
    serial: str
    #: The common name: a node's id, the centre's user at the broker, or a service.
    name: str
    use: Literal["server", "centre", "site"]
    hosts: tuple[str, ...] = ()
    issued: datetime
    expires: datetime
    revoked: datetime | None = None


class Authority:
    """Open one with `create` or `open`. What its files cannot give is told as SettingsError."""

    def __init__(self, folder: Path, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self.folder, self._key, self._certificate = folder, key, certificate

    @classmethod
    def create(cls, folder: Path, *, name: str = "federation", days: float = ROOT_DAYS) -> Authority:
        """Make the root in `folder`; refuses to replace one."""
        with _files(folder):
            if (folder / AUTHORITY).exists():
                raise SettingsError(f"{folder} holds an authority already", remedy="keep it: what it signed is worth nothing without it")
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            key, begin = private_key(folder / "ca.key"), now()
            subject = common_name(name)
            builder = x509.CertificateBuilder(
                subject, subject, key.public_key(), x509.random_serial_number(), begin - SKEW, begin + timedelta(days=days)
            )
            builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            builder = builder.add_extension(_usage(signs=True), critical=True)
            builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            certificate = builder.sign(key, hashes.SHA256())
            _write(folder / AUTHORITY, certificate.public_bytes(serialization.Encoding.PEM))
            return cls(folder, key, certificate)

    @classmethod
    def open(cls, folder: Path) -> Authority:
        """The root that stands in `folder`."""
        if not (folder / "ca.key").exists():
            raise SettingsError(
                f"{folder} holds no authority", remedy=f"make one with `fem ca init {folder}`, or name its folder with --folder"
            )
        with _files(folder):
            key, pem = private_key(folder / "ca.key"), (folder / AUTHORITY).read_bytes()
        try:
            return cls(folder, key, x509.load_pem_x509_certificate(pem))
        except ValueError as error:
            raise SettingsError(f"{folder / AUTHORITY} holds no certificate in PEM", remedy="take it from a backup") from error

    def server(self, hosts: Sequence[str], *, service: str = "broker", days: float = LEAF_DAYS) -> Path:
        """A server's key and certificate for `hosts` (names or addresses, as its clients call it); their folder."""
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        place = self.folder / check_id(service, "service")
        if service in ("centre", "sites"):
            raise RequestRefused(f"{place} is a folder of clients", remedy="name the service otherwise")
        with _files(place):
            key = private_key(place / "server.key")
            self._issue(place / "server.pem", key.public_key(), service, "server", days, names)
        return place

    def centre(self, *, name: str = "centre", days: float = LEAF_DAYS) -> Path:
        """The centre's key and certificate, its login at the broker as user `name`; their folder."""
        if any(one.use == "site" and one.name == name for one in self.issued()):
            raise RequestRefused(f"{name} is a site's name: its certificate would log in as the centre", remedy="name the centre otherwise")
        place = self.folder / "centre"
        with _files(place):
            key = private_key(place / KEY)
            self._issue(place / CERTIFICATE, key.public_key(), name, "centre", days)
        return place

    def sign(self, request: bytes, node: str, *, days: float = LEAF_DAYS) -> Path:
        """A site's certificate for the key of its request; the folder of what is sent back.

        Of the request only name and key count: what else it asks for (other names, other uses) is not given.
        """
        check_id(node, "node")
        if node == BUILT_IN or any(one.use == "centre" and one.name == node for one in self.issued()):
            raise RequestRefused(f"a site called {node} would log in as a user with more rights", remedy="choose another id for it")
        public_key = _asked(request, node)
        place = self.folder / "sites" / node
        with _files(place):
            self._issue(place / CERTIFICATE, public_key, node, "site", days)
            _write(place / REQUEST, request)
        return place

    def issued(self) -> list[Issued]:
        """All certificates, oldest first."""
        path = self.folder / "ledger.jsonl"
        if not path.exists():
            return []
        found: dict[str, Issued] = {}
        with _files(path):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                try:
                    entry = Issued.model_validate_json(line)
                except ValidationError as error:
                    raise SettingsError(
                        f"{path}:{number} cannot be read", remedy="mend the line, or take the file from a backup"
                    ) from error
                found[entry.serial] = entry
        return list(found.values())

    def revoke(self, which: str) -> list[Issued]:
        """Revoke by serial or by name (then all of that name that are still good), and write the list anew."""
        good = [one for one in self.issued() if which in (one.serial, one.name) and one.revoked is None and one.expires > now()]
        if not good:
            raise RequestRefused(f"no good certificate has the name or serial {which!r}", remedy="see `fem ca list`")
        revoked = [one.model_copy(update={"revoked": now()}) for one in good]
        for one in revoked:
            self._record(one)
        self.crl()
        return revoked

    def crl(self, *, days: float = CRL_DAYS) -> Path:
        """Write the signed list of what is revoked; its path."""
        begin = now()
        builder = x509.CertificateRevocationListBuilder(self._certificate.subject, begin - SKEW, begin + timedelta(days=days))
        builder = builder.add_extension(x509.CRLNumber(int(begin.timestamp() * 1000)), critical=False)
        builder = builder.add_extension(self._key_identifier(), critical=False)
        for one in self.issued():
            if one.revoked is not None:
                builder = builder.add_revoked_certificate(x509.RevokedCertificateBuilder(int(one.serial, 16), one.revoked).build())
        path = self.folder / "crl.pem"
        with _files(path):
            _write(path, builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path

    def _issue(
        self, path: Path, key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey, name: str, use: Literal["server", "centre", "site"], days: float,
        names: x509.SubjectAlternativeName | None = None,
    ) -> None:  # fmt: skip
        begin, serial = now(), x509.random_serial_number()
        end = min(begin + timedelta(days=days), self._certificate.not_valid_after_utc)
        builder = x509.CertificateBuilder(self._certificate.subject, common_name(name), key, serial, begin - SKEW, end)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs=False), critical=True)
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if use == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        builder = builder.add_extension(self._key_identifier(), critical=False)
        if names is not None:
            builder = builder.add_extension(names, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        hosts = tuple(str(one.value) for one in names) if names else ()
        # Recorded first: a certificate that nobody knows of could not be revoked.
        self._record(Issued(serial=f"{serial:x}", name=name, use=use, hosts=hosts, issued=begin, expires=end))
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(path, certificate.public_bytes(serialization.Encoding.PEM))
        _write(path.parent / AUTHORITY, self._certificate.public_bytes(serialization.Encoding.PEM))

    def _record(self, entry: Issued) -> None:
        with _files(self.folder), (self.folder / "ledger.jsonl").open("a") as ledger:
            ledger.write(entry.model_dump_json(exclude_defaults=True) + "\n")
            ledger.flush()
            os.fsync(ledger.fileno())

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())


def _asked(request: bytes, node: str) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    """The key of a request that names `node`, and whose sender holds its private half."""
    try:
        found = x509.load_pem_x509_csr(request)
        names = [attribute.value for attribute in found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
        sound = found.is_signature_valid
        key = found.public_key()
    except (ValueError, InvalidSignature, x509.InvalidVersion) as error:
        raise RequestRefused("this is no certificate request in PEM", remedy="`fdn-worker init --tls` makes one at the site") from error
    if names != [node]:
        raise RequestRefused(
            f"the request names {', '.join(map(str, names)) or 'nobody'}, not {node}", remedy="sign it for the site that made it"
        )
    if not sound:
        raise RequestRefused(f"the request of {node} is not signed by its own key", remedy="have the site make it anew")
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size >= 256:
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= 2048:
        return key
    raise RequestRefused(
        f"the key of {node}'s request is of a kind that is not taken", remedy="use EC with 256 bits or RSA with 2048, or more"
    )


def _host(value: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(value))
    except ValueError:
        if not _HOST.fullmatch(value):
            raise RequestRefused(f"{value!r} is neither a host's name nor an address", remedy="leave out scheme and port") from None
        return x509.DNSName(value)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs, key_cert_sign=signs, crl_sign=signs, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: a broker may read it meanwhile."""
    half = path.with_name(path.name + ".part")
    half.write_bytes(content)
    half.replace(path)


@contextmanager
def _files(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(f"{error.filename or place}: {error.strerror}", remedy="see that you may read and write there") from error
