"""The certificate authority: what it gives, what it refuses, and that its word holds in a real handshake."""

from __future__ import annotations

import json
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from typer.testing import CliRunner

import fdn_worker.cli
import flows.cli
from fdn_worker import certificates
from fdn_worker.certificates import common_name
from fdn_worker.errors import FdnError, SettingsError
from fdn_worker.protocol import now
from fdn_worker.protocol.names import NameRefused
from federation.authority import Authority, RequestRefused

PEM = serialization.Encoding.PEM


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path / "ca")


def request(name: str, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey | None = None) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(common_name(name))
    # What a site might like to have, and must not get.
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("centre.example")]), critical=False)
    key = key or ec.generate_private_key(ec.SECP256R1())
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()).public_bytes(PEM)


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def site(authority: Authority, node: str, folder: Path) -> Path:
    """A folder as the site has it: its own key, and what the centre sent back."""
    asked = certificates.request(node, f"amqps://h/?keyfile={folder}/client.key")
    sent = authority.sign(asked.read_bytes(), node)
    for name in ("ca.pem", "client.pem"):
        (folder / name).write_bytes((sent / name).read_bytes())
    return folder


def contexts(server: Path, client: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    there = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    there.load_cert_chain(server / "server.pem", server / "server.key")
    there.load_verify_locations(server / "ca.pem")
    there.verify_mode = ssl.CERT_REQUIRED
    here = ssl.create_default_context(cafile=str(client / "ca.pem"))
    here.load_cert_chain(client / "client.pem", client / "client.key")
    return there, here


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> object:
    """In memory; the client's subject as the server sees it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    there = server.wrap_bio(to_server, to_client, server_side=True)
    here = client.wrap_bio(to_client, to_server, server_hostname=host)
    waiting = [here, there]
    while waiting:
        side = waiting.pop(0)
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            waiting.append(side)
    certificate = there.getpeercert()
    assert certificate is not None
    return certificate["subject"]


# What it gives


def test_broker_and_sites_know_each_other_by_it(authority: Authority, tmp_path: Path) -> None:
    broker = authority.server(["centre.example", "rabbitmq", "10.0.0.7"])
    there, here = contexts(broker, site(authority, "site-b", tmp_path / "site-b"))
    for host in ("centre.example", "rabbitmq", "10.0.0.7"):
        assert handshake(there, here, host) == ((("commonName", "site-b"),),)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(there, here, "elsewhere.example")
    there, here = contexts(broker, authority.centre())
    assert handshake(there, here, "centre.example") == ((("commonName", "centre"),),)


def test_a_certificate_is_good_for_one_use(authority: Authority, tmp_path: Path) -> None:
    """A site cannot stand as the broker, nor a server log in as a client."""
    broker, mine = authority.server(["centre.example"]), site(authority, "site-a", tmp_path / "site-a")
    as_server = tmp_path / "as-server"
    as_server.mkdir()
    for name in ("key", "pem"):
        (as_server / f"server.{name}").write_bytes((mine / f"client.{name}").read_bytes())
        (broker / f"client.{name}").write_bytes((broker / f"server.{name}").read_bytes())
    (as_server / "ca.pem").write_bytes((mine / "ca.pem").read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError, match=r"unsuitable|purpose"):
        handshake(*contexts(as_server, mine), "centre.example")
    with pytest.raises(ssl.SSLError, match=r"unsuitable|purpose|verify failed"):
        handshake(*contexts(broker, broker), "centre.example")


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)], ids=["EC", "RSA"])
def test_of_a_request_only_name_and_key_count(authority: Authority, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> None:
    """A site may make key and request by its own means."""
    made = read(authority.sign(request("site-a", key), "site-a") / "client.pem")
    assert made.subject == common_name("site-a")
    assert made.public_key() == key.public_key()
    extensions = {type(extension.value): extension.value for extension in made.extensions}
    assert extensions[x509.BasicConstraints] == x509.BasicConstraints(ca=False, path_length=None)
    assert extensions[x509.ExtendedKeyUsage] == x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    assert x509.SubjectAlternativeName not in extensions


def test_validity(authority: Authority) -> None:
    made = read(authority.server(["a"], days=10) / "server.pem")
    assert timedelta(days=9, hours=23) < made.not_valid_after_utc - now() <= timedelta(days=10)
    assert made.not_valid_before_utc <= now() - timedelta(minutes=59), "a clock may run behind"
    longest = read(authority.server(["a"], days=100_000) / "server.pem")
    assert longest.not_valid_after_utc == read(authority.folder / "ca.pem").not_valid_after_utc


def test_keys_are_kept_and_for_their_owner_alone(authority: Authority) -> None:
    keys = [authority.folder / "ca.key", authority.server(["a"]) / "server.key", authority.centre() / "client.key"]
    before = [key.read_bytes() for key in keys]
    old = read(authority.folder / "broker/server.pem")
    with pytest.raises(SettingsError, match="holds an authority already"):
        Authority.create(authority.folder)
    again = Authority.open(authority.folder)
    again.server(["a", "b"])
    again.centre()
    assert [key.read_bytes() for key in keys] == before
    assert [key.stat().st_mode & 0o777 for key in keys] == [0o600] * 3
    new = read(authority.folder / "broker/server.pem")
    assert (new.serial_number, new.public_key()) != (old.serial_number, old.public_key())
    assert new.public_key() == old.public_key()


def test_no_private_key_of_a_site_is_kept(authority: Authority, tmp_path: Path) -> None:
    site(authority, "site-a", tmp_path / "site-a")
    assert sorted(path.name for path in (authority.folder / "sites/site-a").iterdir()) == ["ca.pem", "client.csr", "client.pem"]
    renewed = authority.sign((authority.folder / "sites/site-a/client.csr").read_bytes(), "site-a")
    assert read(renewed / "client.pem").public_key() == read(tmp_path / "site-a/client.pem").public_key()


def test_an_authority_that_was_cut_off_is_finished_with_its_key(authority: Authority) -> None:
    key = (authority.folder / "ca.key").read_bytes()
    (authority.folder / "ca.pem").unlink()
    with pytest.raises(SettingsError, match=r"ca\.pem"):
        Authority.open(authority.folder)
    Authority.create(authority.folder)
    assert (authority.folder / "ca.key").read_bytes() == key


# What it refuses


@pytest.mark.parametrize(
    ("asked", "node", "says"),
    [
        (request("site-b"), "site-a", "names site-b, not site-a"),
        (b"-----BEGIN NOTHING-----", "site-a", "no certificate request"),
        (request("site-a", rsa.generate_private_key(65537, 1024)), "site-a", "of a kind that is not taken"),
        (request("site-a", ec.generate_private_key(ec.SECP192R1())), "site-a", "of a kind that is not taken"),
        (request("site-a", ed25519.Ed25519PrivateKey.generate()), "site-a", "of a kind that is not taken"),
        (request("centre"), "centre", "more rights"),
        (request("guest"), "guest", "more rights"),
    ],
)
def test_a_request_that_is_refused(authority: Authority, asked: bytes, node: str, says: str) -> None:
    authority.centre()
    before = authority.issued()
    with pytest.raises(RequestRefused, match=says):
        authority.sign(asked, node)
    assert authority.issued() == before


def test_a_request_that_its_key_did_not_sign(authority: Authority) -> None:
    """Somebody else's public key under one's own name."""
    der = bytearray(x509.load_pem_x509_csr(request("site-a")).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    with pytest.raises(RequestRefused, match=r"not signed by its own key|no certificate request"):
        authority.sign(x509.load_der_x509_csr(bytes(der)).public_bytes(PEM), "site-a")


def test_names_that_are_refused(authority: Authority) -> None:
    with pytest.raises(NameRefused):
        authority.sign(request("Site A"), "Site A")
    for host in ("https://centre.example", "centre.example:5671", "", "a b", "-a"):
        with pytest.raises(RequestRefused, match="neither a host's name nor an address"):
            authority.server([host])
    with pytest.raises(RequestRefused, match="folder of clients"):
        authority.server(["a"], service="centre")
    with pytest.raises(SettingsError, match="cannot be the name in a certificate"):
        authority.centre(name="c" * 65)
    authority.sign(request("hub"), "hub")
    with pytest.raises(RequestRefused, match="a site's name"):
        authority.centre(name="hub")


def test_a_folder_without_or_with_damaged_files(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="fem ca init"):
        Authority.open(tmp_path / "nowhere")
    authority.server(["a"])
    with (authority.folder / "ledger.jsonl").open("a") as ledger:
        ledger.write("{}\n")
    with pytest.raises(SettingsError, match=r"ledger\.jsonl:2 "):
        authority.issued()
    (authority.folder / "ca.pem").write_text("")
    with pytest.raises(SettingsError, match="holds no certificate"):
        Authority.open(authority.folder)
    (authority.folder / "ca.key").write_text("")
    with pytest.raises(SettingsError, match="holds no private key"):
        Authority.open(authority.folder)


# Revocation


def test_what_is_revoked_is_refused_by_whoever_reads_the_list(authority: Authority, tmp_path: Path) -> None:
    broker, mine = authority.server(["centre.example"]), site(authority, "site-a", tmp_path / "site-a")
    other = site(authority, "site-b", tmp_path / "site-b")
    authority.sign((mine / "client.csr").read_bytes(), "site-a")
    assert len(authority.revoke("site-a")) == 2, "all that are still good"

    def meet(client: Path) -> object:
        there, here = contexts(broker, client)
        there.load_verify_locations(authority.folder / "crl.pem")
        there.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        return handshake(there, here, "centre.example")

    assert meet(other) == ((("commonName", "site-b"),),)
    with pytest.raises(ssl.SSLError, match=r"revoked|verify failed"):
        meet(mine)
    with pytest.raises(RequestRefused, match="no good certificate"):
        authority.revoke("site-a")
    with pytest.raises(RequestRefused, match="no good certificate"):
        authority.revoke("never-issued")
    [left] = [one for one in authority.issued() if one.name == "site-b"]
    assert authority.revoke(left.serial)[0].name == "site-b"
    with pytest.raises(ssl.SSLError, match=r"revoked|verify failed"):
        meet(other)


# The command line


def fem(*words: str | Path) -> str:
    done = CliRunner().invoke(flows.cli.app, ["ca", *map(str, words)])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.output


def test_the_commands_from_nothing_to_a_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEM_HOME", str(tmp_path / "home"))
    assert "keep its ca.key off the centre's host" in fem("init")
    fem("server", "centre.example", "rabbitmq")
    fem("server", "s3.example", "--service", "store")
    fem("centre")
    settings = tmp_path / "site/fdn-worker.toml"
    init = ["init", "site-a", "--tls", "--settings", str(settings), "--broker", "amqps://u:p@centre.example/vh"]
    said = CliRunner().invoke(fdn_worker.cli.app, init).output
    assert "client.csr: send it to the centre" in said
    folder = settings.parent / "tls"
    text = settings.read_text()
    assert f"amqps://centre.example/vh?cacertfile={folder}/ca.pem&certfile={folder}/client.pem&keyfile={folder}/client.key" in text
    fem("sign", folder / "client.csr", "--node", "site-a")
    key = (folder / "client.key").read_bytes()
    assert "client.csr" in CliRunner().invoke(fdn_worker.cli.app, init).output, "asked again, for the same key"
    assert (folder / "client.key").read_bytes() == key
    fem("revoke", "site-a")
    fem("crl")
    listed = json.loads(fem("list", "--json"))
    assert [(one["name"], one["use"], one["revoked"] is not None) for one in listed] == [
        ("broker", "server", False), ("store", "server", False), ("centre", "centre", False), ("site-a", "site", True)
    ]  # fmt: skip
    assert "revoked" in fem("list")


def test_what_goes_wrong_is_told(tmp_path: Path) -> None:
    Authority.create(tmp_path / "ca")
    with pytest.raises(SettingsError, match="name the request that the site sent"):
        fem("sign", tmp_path / "none", "--node", "a", "--folder", tmp_path / "ca")
    with pytest.raises(SettingsError, match="--tls does not go with"):
        certificates.broker_address("sqlite:///x", tmp_path)
    with pytest.raises(SettingsError, match="names no keyfile"):
        certificates.request("a", "amqps://host/")
    (tmp_path / "file").write_text("")
    with pytest.raises(FdnError, match="make the folder"):
        certificates.request("a", f"amqps://host/?keyfile={tmp_path}/file/client.key")
    with pytest.raises(FdnError, match="ca init"):
        fem("list", "--folder", tmp_path / "elsewhere")
