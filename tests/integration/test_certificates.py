"""Certificates as the only logins of the real RabbitMQ, and a worker that has one."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pika
import pytest
from pika.exceptions import AMQPConnectionError, ProbableAuthenticationError

from fdn_worker.brokers._amqp_address import Address
from fdn_worker.brokers.amqp import AmqpBroker
from fdn_worker.errors import BrokerUnavailable
from fdn_worker.protocol import Signer, State
from fdn_worker.protocol.envelope import make_key
from fdn_worker.protocol.names import command_queue
from federation.authority import Authority
from federation.local import LocalFederation
from federation.management import Management
from tests.conftest import Services
from tests.support.rig import SOON, eventually, rig
from tests.support.tls_broker import CENTRE, PASSWORD, TlsBroker, client, publish_revoked

NODE = "certified"


@pytest.fixture(scope="module")
def site(tls_broker: TlsBroker) -> Iterator[Path]:
    """The folder of a site that may log in, so that each refusal has the certificate as its one reason."""
    management = tls_broker.management()
    management.admit(NODE)
    folder = tls_broker.site(NODE)
    broker = AmqpBroker(tls_broker.url(folder))
    assert broker.depth("no-such-queue") is None
    broker.close()
    yield folder
    management.expel(NODE)


def own(folder: Path, *files: Path) -> Path:
    """A folder with copies of the files; `server.*` become `client.*`."""
    folder.mkdir()
    for file in files:
        shutil.copy(file, folder / file.name.replace("server.", "client."))
    return folder


def expired(tls_broker: TlsBroker, site: Path, folder: Path) -> Path:
    place = own(folder, site / "client.key", site / "ca.pem")
    request = (site / "client.csr").read_bytes()
    made = tls_broker.authority.sign(request, NODE, days=-0.02)  # valid from an hour ago until half an hour ago
    shutil.copy(made / "client.pem", place)
    tls_broker.authority.sign(request, NODE)
    return place


def rogue(tls_broker: TlsBroker, site: Path, folder: Path) -> Path:
    """An authority of somebody else's, with the same names."""
    made = client(Authority.create(folder), NODE)
    shutil.copy(site / "ca.pem", made)
    return made


def signed_by_a_site(tls_broker: TlsBroker, site: Path, folder: Path) -> Path:
    """A site uses its own certificate as an authority's, and names the centre."""
    authority = Authority.create(folder)
    for mine, theirs in (("ca.key", "client.key"), ("ca.pem", "client.pem")):
        shutil.copy(site / theirs, folder / mine)
    made = Authority.open(authority.folder).centre()
    chain = (made / "client.pem").read_text() + (site / "client.pem").read_text()
    (made / "client.pem").write_text(chain)
    shutil.copy(site / "ca.pem", made)
    return made


def of_a_server(tls_broker: TlsBroker, site: Path, folder: Path) -> Path:
    """Of the right authority and name, but to be a server with."""
    made = tls_broker.authority.server(["localhost"], service=NODE)
    return own(folder, *made.glob("*.*"))


@pytest.mark.parametrize("make", [expired, rogue, signed_by_a_site, of_a_server])
def test_a_certificate_that_is_refused(
    tls_broker: TlsBroker, site: Path, tmp_path: Path, make: Callable[[TlsBroker, Path, Path], Path]
) -> None:
    broker = AmqpBroker(tls_broker.url(make(tls_broker, site, tmp_path / "made")))
    with pytest.raises(BrokerUnavailable, match="check the client certificate"):
        broker.depth("q")
    broker.close()


def test_none_at_all_is_refused(tls_broker: TlsBroker, site: Path) -> None:
    broker = AmqpBroker(f"amqps://{NODE}:password@localhost:{tls_broker.port}/?cacertfile={site}/ca.pem")
    with pytest.raises(BrokerUnavailable, match="check the client certificate"):
        broker.depth("q")
    broker.close()


def test_a_good_one_without_a_user_is_refused(tls_broker: TlsBroker) -> None:
    broker = AmqpBroker(tls_broker.url(tls_broker.site("not-enrolled")))
    with pytest.raises(BrokerUnavailable, match="refuses the client certificate"):
        broker.depth("q")
    broker.close()


def test_a_revoked_one_is_refused(tls_broker: TlsBroker, unique: str) -> None:
    """Even though its user stands: a site whose key was stolen is enrolled again, with another key."""
    management, authority = tls_broker.management(), tls_broker.authority
    management.admit(unique)
    stolen = client(authority, unique)
    broker = AmqpBroker(tls_broker.url(stolen))
    assert broker.depth("q") is None
    broker.close()
    authority.revoke(unique)
    publish_revoked(authority)
    broker = AmqpBroker(tls_broker.url(stolen))
    with pytest.raises(BrokerUnavailable, match="check the client certificate"):
        broker.depth("q")
    broker.close()
    again = AmqpBroker(tls_broker.url(client(authority, unique)))
    assert again.depth("q") is None
    again.close()
    management.expel(unique)


def test_the_broker_itself_must_be_the_one_that_was_asked_for(tls_broker: TlsBroker, site: Path, tmp_path: Path) -> None:
    """By another name it may be anybody's; and so it may with a certificate that we have no reason to trust."""
    elsewhere = AmqpBroker(tls_broker.url(site, host="127.0.0.1"))
    with pytest.raises(BrokerUnavailable, match="not trusted: IP address mismatch"):
        elsewhere.depth("q")
    elsewhere.close()
    Authority.create(tmp_path / "another")
    place = own(tmp_path / "mine", site / "client.key", site / "client.pem", tmp_path / "another/ca.pem")
    stranger = AmqpBroker(tls_broker.url(place))
    with pytest.raises(BrokerUnavailable, match="not trusted"):
        stranger.depth("q")
    stranger.close()


class Insistent(pika.PlainCredentials):
    """Sends a password although the broker offers no mechanism for one."""

    def response_for(self, start: Any) -> tuple[str, bytes]:
        return "PLAIN", f"\0{self.username}\0{self.password}".encode()


def test_no_password_is_taken_not_even_the_right_one(tls_broker: TlsBroker, site: Path) -> None:
    """With PLAIN beside EXTERNAL, a site's certificate would open the door to whoever has the centre's password."""
    context = ssl.create_default_context(cafile=str(site / "ca.pem"))
    context.load_cert_chain(site / "client.pem", site / "client.key")
    login = Insistent(CENTRE, PASSWORD)
    options = pika.SSLOptions(context, "localhost")
    with pytest.raises(ProbableAuthenticationError):
        pika.BlockingConnection(pika.ConnectionParameters("localhost", tls_broker.port, credentials=login, ssl_options=options))
    with pytest.raises(AMQPConnectionError):  # without TLS
        pika.BlockingConnection(pika.ConnectionParameters("127.0.0.1", tls_broker.port, credentials=login, socket_timeout=2))


def command(*words: str) -> str:
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, timeout=SOON, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_worker_with_its_certificate_runs_a_task(tls_broker: TlsBroker, tmp_path: Path, unique: str) -> None:
    """From the two commands that make the certificate to the task's end, over amqps, with no password anywhere."""
    ours = f"amqps://localhost:{tls_broker.port}/{unique}"
    settings = tmp_path / "site/fdn-worker.toml"
    said = command("fdn_worker", "init", unique, "--tls", "--settings", str(settings), "--broker", ours)
    request = tmp_path / "site/tls/client.csr"
    assert str(request) in said
    assert request.with_name("client.key").stat().st_mode & 0o077 == 0
    command("flows.cli", "ca", "sign", str(request), "--node", unique, "--folder", str(tls_broker.authority.folder))
    for name in ("ca.pem", "client.pem"):
        shutil.copy(tls_broker.authority.folder / "sites" / unique / name, request.parent)
    management = tls_broker.management(unique)
    management.admit(unique)
    federation = LocalFederation(
        tmp_path / "fem", (unique,), broker_url=tls_broker.url(tls_broker.centre, unique),
        options={"broker": {"url": tls_broker.url(request.parent, unique)}},
    )  # fmt: skip
    with rig(federation) as made:
        made.start(unique)
        sent = made.send(unique, sys.executable, "-c", "open('out.txt', 'w').write('certified')", outputs=("out.txt",))
        result = made.result(sent)
        assert result.state is State.SUCCEEDED
        assert made.output(result, "outputs/out.txt") == b"certified"

        def logins() -> set[tuple[str, bool]]:
            """The management interface hears of a connection some seconds late."""
            return {(one["auth_mechanism"], one["ssl"]) for one in tls_broker.api("GET", "connections") if one["user"] == unique}

        assert eventually("the broker shows its connections", logins) == {("EXTERNAL", True)}
        assert made.centre.broker.depth(command_queue(unique)) is not None
        management.expel(unique)
        eventually("the worker knows that it is out", lambda: "refuses the client certificate" in made.log(unique))


def test_the_command_makes_and_deletes_the_user(
    tls_broker: TlsBroker, tmp_path: Path, unique: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_key(tmp_path / "centre.key")
    settings = {
        "HOME": str(tmp_path), "KEY": str(tmp_path / "centre.key"), "BROKER_MANAGEMENT_URL": tls_broker.management_url,
        "BROKER_URL": tls_broker.url(tls_broker.centre, unique),
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(f"FEM_{name}", value)
    command("flows.cli", "nodes", "enrol", unique, "--key", Signer.load("centre", tmp_path / "centre.key").public_key())
    broker = AmqpBroker(tls_broker.url(tls_broker.site(unique), unique))
    assert broker.depth(command_queue(unique)) is not None
    assert "enrolled" not in command("flows.cli", "nodes", "retire", unique)
    eventually("its connection is closed", lambda: broker._publishing._connection is None)
    broker.close()


# Where certificates are not used


def test_a_password_of_a_sites_own(services: Services, unique: str) -> None:
    """On the tests' ordinary broker, which takes passwords."""
    management = Management(services.amqp_management_url, passwords=True)
    try:
        password = management.admit(unique)
        assert len(password) >= 32
        assert management.admit(unique) == "", "the one that it has stands"
        place = services.amqp_url.rpartition("@")[2]
        connection = pika.BlockingConnection(Address.parse(f"amqp://{unique}:{password}@{place}", "").parameters)
        connection.close()
        for wrong in ("", "x"):
            with pytest.raises(AMQPConnectionError):
                pika.BlockingConnection(Address.parse(f"amqp://{unique}:{wrong}@{place}", "").parameters)
    finally:
        management.expel(unique)
    with pytest.raises(AMQPConnectionError):
        pika.BlockingConnection(Address.parse(f"amqp://{unique}:{password}@{place}", "").parameters)
