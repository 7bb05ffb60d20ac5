"""What only RabbitMQ shows: lost connections and channels, refusals, TLS, alarms, a broker that is killed."""

from __future__ import annotations

import base64
import datetime
import json
import os
import queue
import signal
import socket
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fdn_worker.brokers import Delivery, Queue, _amqp_address
from fdn_worker.brokers._amqp_subscription import AmqpSubscription
from fdn_worker.brokers.amqp import AmqpBroker
from fdn_worker.errors import BrokerUnavailable, SettingsError, Unroutable
from tests.conftest import Services
from tests.support.waiting import SOON, eventually

SERVER = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")


@pytest.fixture
def broker(services: Services, unique: str) -> Iterator[AmqpBroker]:
    broker = AmqpBroker(services.amqp_url, name=unique)
    yield broker
    broker.close()


@pytest.fixture
def q(services: Services, unique: str) -> Iterator[str]:
    """A queue, replicated."""
    owner = AmqpBroker(services.amqp_url)
    owner.declare(Queue(unique))
    yield unique
    owner.delete(Queue(unique))
    owner.close()


def ask(services: Services, path: str, method: str = "GET") -> Any:
    """The answer of the management interface."""
    address = urllib.parse.urlsplit(services.amqp_management_url)
    login = base64.b64encode(f"{address.username}:{address.password}".encode()).decode()
    request = urllib.request.Request(f"http://{address.hostname}:{address.port}/api/{path}", method=method)
    request.add_header("Authorization", f"Basic {login}")
    with urllib.request.urlopen(request, timeout=SOON) as answer:
        return json.loads(answer.read() or b"null")


def test_a_replicated_queue_is_a_quorum_queue(services: Services, broker: AmqpBroker, q: str) -> None:
    found = ask(services, f"queues/%2F/{q}")
    assert (found["type"], found["durable"]) == ("quorum", True)


def test_dead_letters_move_at_least_once(services: Services, broker: AmqpBroker, q: str) -> None:
    broker.declare(Queue(f"{q}.live", dead_letter=q))
    arguments = ask(services, f"queues/%2F/{q}.live")["arguments"]
    broker.delete(Queue(f"{q}.live"))
    assert arguments["x-dead-letter-strategy"] == "at-least-once"
    assert arguments["x-overflow"] == "reject-publish"


def test_nothing_is_lost_when_the_connections_are_closed_by_force(services: Services, broker: AmqpBroker, q: str, unique: str) -> None:
    got: set[str] = set()

    def handler(delivery: Delivery) -> None:
        got.add(delivery.message_id)
        delivery.ack()

    broker.consume(q, handler)
    stop = threading.Event()
    sent: list[str] = []

    def publish() -> None:
        while not stop.is_set():
            message_id = str(len(sent))
            broker.publish(b"", key=q, message_id=message_id)
            sent.append(message_id)

    publisher = threading.Thread(target=publish)
    publisher.start()
    closed: set[str] = set()

    def close_all() -> bool:
        for connection in ask(services, "connections"):
            if connection.get("user_provided_name") == unique and connection["name"] not in closed:
                closed.add(connection["name"])
                ask(services, f"connections/{urllib.parse.quote(connection['name'])}", "DELETE")
        return len(closed) >= 2

    eventually("both are closed", close_all)
    before = len(sent)
    eventually("publishing goes on", lambda: len(sent) > before + 50)
    stop.set()
    publisher.join(SOON)
    eventually("all have come", lambda: got >= set(sent))


def test_a_channel_that_is_closed_alone_is_opened_again(broker: AmqpBroker, q: str) -> None:
    got: queue.Queue[Delivery] = queue.Queue()
    subscription = broker.consume(q, got.put)
    assert isinstance(subscription, AmqpSubscription)
    broker.publish(b"", key=q, message_id="before")
    before = got.get(timeout=SOON)
    channel = subscription._channel
    assert channel is not None
    subscription._link.run(lambda: channel.basic_ack(4711))  # a tag that was never given: the broker closes the channel
    again = got.get(timeout=SOON)
    assert (again.message_id, again.redelivered) == ("before", True)
    before.ack()  # of the closed channel: must not settle what has the same tag now
    broker.publish(b"", key=q, message_id="after")
    assert got.get(timeout=SOON).message_id == "after"
    subscription.cancel()
    again.ack()
    eventually("the queue stands so", lambda: (depth := broker.depth(q)) and depth.messages == 0)


def test_a_queue_that_is_deleted_and_declared_anew_is_consumed_again(broker: AmqpBroker, q: str, caplog: pytest.LogCaptureFixture) -> None:
    got: queue.Queue[Delivery] = queue.Queue()
    broker.consume(q, got.put)
    broker.delete(Queue(q))
    eventually("it is told", lambda: "is the queue gone?" in caplog.text)
    broker.declare(Queue(q))
    broker.publish(b"", key=q, message_id="anew")
    assert got.get(timeout=SOON).message_id == "anew"


def test_one_bad_exchange_does_not_fail_the_others(broker: AmqpBroker, q: str) -> None:
    def good(thread: int) -> None:
        for number in range(100):
            broker.publish(b"", key=q, message_id=f"{thread}.{number}")
            sent.append(f"{thread}.{number}")

    sent: list[str] = []
    threads = [threading.Thread(target=good, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        with pytest.raises(Unroutable, match="no exchange 'nowhere'"):
            broker.publish(b"", exchange="nowhere", message_id="bad")
    for thread in threads:
        thread.join(SOON)
    assert len(sent) == 400
    got: set[str] = set()
    broker.consume(q, lambda delivery: (got.add(delivery.message_id), delivery.ack())[0])
    eventually("all have come", lambda: got == set(sent))


def test_a_user_may_be_known_by_the_message(services: Services, broker: AmqpBroker, q: str) -> None:
    broker.publish(b"x", key=q, message_id="m")
    address = urllib.parse.urlsplit(services.amqp_management_url)
    body = json.dumps({"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}).encode()
    request = urllib.request.Request(f"http://{address.hostname}:{address.port}/api/queues/%2F/{q}/get", body, method="POST")
    request.add_header("Authorization", "Basic " + base64.b64encode(f"{address.username}:{address.password}".encode()).decode())
    with urllib.request.urlopen(request, timeout=SOON) as answer:
        (message,) = json.loads(answer.read())
    assert message["properties"]["user_id"] == "guest"
    assert message["properties"]["delivery_mode"] == 2


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp://guest:s3cret@127.0.0.1:{port}/", "refuses the login of user 'guest'"),
        ("amqp://guest:guest@127.0.0.1:{port}/nowhere", "refuses user 'guest' its virtual host"),
        ("amqp://guest:s3cret@no-such-host.invalid:{port}/", "has an unknown host name"),
        ("amqp://guest:s3cret@127.0.0.1:1/", "cannot be reached: Connection refused"),
        ("amqps://guest:s3cret@127.0.0.1:{port}/", "fails in TLS"),
    ],
)
def test_what_keeps_us_out_is_said_in_one_line(
    services: Services, url: str, says: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    broker = AmqpBroker(url.format(port=urllib.parse.urlsplit(services.amqp_url).port))
    for call in (
        lambda: broker.publish(b"", key="q", message_id="m"),
        lambda: broker.declare(Queue("q")),
        lambda: broker.consume("q", print),
    ):
        begin = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=says) as caught:
            call()
        assert time.monotonic() - begin < 30
        assert caught.value.remedy
        assert "\n" not in str(caught.value)
        assert "s3cret" not in str(caught.value)
    broker.close()
    assert caplog.text + "".join(capfd.readouterr()) == ""


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("amqp:///", "names no host"),
        ("amqp://guest:s3cret@host:port/", "cannot be read"),
        ("amqp://guest:s3cret@host/?cacertfile=x", "unknown option 'cacertfile'"),
        ("amqps://guest:s3cret@host/?cafile=x", "unknown option 'cafile'"),
        ("amqps://guest:s3cret@host/?cacertfile=/no/such/file", "cacertfile /no/such/file"),
    ],
)
def test_an_address_that_is_wrong(url: str, says: str) -> None:
    with pytest.raises(SettingsError, match=says) as caught:
        AmqpBroker(url)
    assert "s3cret" not in str(caught.value)


def test_a_broker_that_never_answers_does_not_hold_up_closing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_amqp_address, "OPEN_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker = AmqpBroker(f"amqp://127.0.0.1:{silent.getsockname()[1]}/")
        with pytest.raises(BrokerUnavailable, match="does not answer as RabbitMQ"):
            broker.depth("q")
        begin = time.monotonic()
        threading.Timer(0.2, broker.close).start()
        with pytest.raises(BrokerUnavailable, match="closed on this side"):
            broker.depth("q")
        assert time.monotonic() - begin < 30


class OwnBroker:
    """A RabbitMQ of this module's own, which may be killed; with TLS, and client certificates as logins."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port, self.tls_port, distribution, mapper = _free_ports(4)
        self.url = f"amqp://guest:guest@127.0.0.1:{self.port}/"
        (folder / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.port}\nlisteners.ssl.1 = 127.0.0.1:{self.tls_port}\n"
            f"ssl_options.cacertfile = {folder}/ca.pem\nssl_options.certfile = {folder}/server.pem\nssl_options.keyfile = {folder}/server.key\n"
            "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\nssl_cert_login_from = common_name\n"
            "auth_mechanisms.1 = EXTERNAL\nauth_mechanisms.2 = PLAIN\ndisk_free_limit.absolute = 50MB\n"
        )
        (folder / "enabled_plugins").write_text("[rabbitmq_auth_mechanism_ssl].\n")
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper),
            "RABBITMQ_NODENAME": f"own{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(distribution),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONF_ENV_FILE": "/dev/null",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
        }
        # One of our own, or Erlang would start a port mapper that nobody ends.
        self._mapper = self._spawn("epmd", "-address", "127.0.0.1", "-port", str(mapper))
        self.start()

    def start(self) -> None:
        self._server = self._spawn(str(SERVER))
        eventually("it listens", lambda: _accepts(self.port) and _accepts(self.tls_port))

    def kill(self) -> None:
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()
        eventually("it is down", lambda: not _accepts(self.port))

    def control(self, *arguments: str) -> None:
        command = [str(SERVER.with_name("rabbitmqctl")), *arguments]
        subprocess.run(command, env=self._environment, check=True, capture_output=True, timeout=SOON)

    def end(self) -> None:
        self.kill()
        self._mapper.kill()
        self._mapper.wait()

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._folder / "out.log").open("ab") as out:
            return subprocess.Popen(command, env=self._environment, stdout=out, stderr=out, start_new_session=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _certificate(folder: Path, name: str, common_name: str, issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None) -> Any:
    """Write NAME.pem and NAME.key; what signs others with it."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    signer, signing_key = issuer or (subject, key)
    builder = x509.CertificateBuilder(signer, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(hours=1))
    builder = builder.add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    (folder / f"{name}.pem").write_bytes(builder.sign(signing_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / f"{name}.key").write_bytes(pem)
    return subject, key


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnBroker]:
    if not SERVER.exists():
        if os.environ.get("CI"):
            pytest.fail(f"{SERVER} is missing")
        pytest.skip(f"{SERVER} is missing (Debian package rabbitmq-server)")
    folder = tmp_path_factory.mktemp("rabbitmq")
    authority = _certificate(folder, "ca", "test authority", None)
    _certificate(folder, "server", "localhost", authority)
    _certificate(folder, "client", "guest", authority)
    _certificate(folder, "stranger", "guest", None)
    (folder / "secret").mkdir()
    own = OwnBroker(folder)
    yield own
    own.end()


def test_a_killed_broker_loses_nothing_that_it_confirmed(own: OwnBroker) -> None:
    broker = AmqpBroker(own.url)
    got: set[str] = set()

    def handler(delivery: Delivery) -> None:
        got.add(delivery.message_id)
        delivery.ack()

    broker.declare(Queue("cmd"))
    broker.consume("cmd", handler)
    for number in range(100):
        broker.publish(b"", key="cmd", message_id=f"before {number}")
    time.sleep(3)  # RabbitMQ 3.10 finds no leader for a quorum queue if it is killed within two seconds of its creation
    own.kill()
    begin = time.monotonic()
    with pytest.raises(BrokerUnavailable, match="cannot be reached"):
        broker.publish(b"", key="cmd", message_id="down")
    assert time.monotonic() - begin < 30
    own.start()

    def publish() -> bool:
        try:
            broker.publish(b"", key="cmd", message_id="after")
        except (BrokerUnavailable, Unroutable):  # it takes connections before its queues are back
            return False
        return True

    eventually("it takes messages again", publish)
    eventually("all have come", lambda: got >= {"after", *(f"before {number}" for number in range(100))})
    broker.close()


def test_an_alarm_holds_publishing_back_but_not_consuming(own: OwnBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_amqp_address, "BLOCKED_SECONDS", 1.0)
    broker = AmqpBroker(own.url)
    got: queue.Queue[str] = queue.Queue()
    broker.declare(Queue("alarmed", replicated=False))
    for number in range(3):
        broker.publish(b"", key="alarmed", message_id=str(number))
    own.control("set_vm_memory_high_watermark", "absolute", "1MB")
    try:
        broker.consume("alarmed", lambda delivery: (got.put(delivery.message_id), delivery.ack())[0])
        assert [got.get(timeout=SOON) for _ in range(3)] == ["0", "1", "2"]
        begin = time.monotonic()
        broker.publish(b"", key="alarmed", message_id="taken")  # by it the broker learns that this connection publishes
        with pytest.raises(BrokerUnavailable, match="alarm"):
            broker.publish(b"", key="alarmed", message_id="held back")
        assert time.monotonic() - begin < 30
    finally:
        own.control("set_vm_memory_high_watermark", "0.6")
        broker.close()


def test_a_client_certificate_is_a_login(own: OwnBroker) -> None:
    folder = own._folder
    url = f"amqps://localhost:{own.tls_port}/?cacertfile={folder}/ca.pem&certfile={folder}/client.pem&keyfile={folder}/client.key"
    broker = AmqpBroker(url)
    got: queue.Queue[Delivery] = queue.Queue()
    broker.declare(Queue("tls"))
    broker.consume("tls", got.put)
    broker.publish(b"over TLS", key="tls", message_id="m")
    assert got.get(timeout=SOON).body == b"over TLS"
    broker.close()


@pytest.mark.parametrize(
    ("host", "options", "says"),
    [
        ("localhost", "certfile={folder}/client.pem&keyfile={folder}/client.key", "certificate that is not trusted"),
        (
            "127.0.0.1",
            "cacertfile={folder}/ca.pem&certfile={folder}/client.pem&keyfile={folder}/client.key",
            "not trusted: IP address mismatch",
        ),
        ("localhost", "cacertfile={folder}/ca.pem", "check the client certificate"),
        (
            "localhost",
            "cacertfile={folder}/ca.pem&certfile={folder}/stranger.pem&keyfile={folder}/stranger.key",
            "check the client certificate",
        ),
    ],
)
def test_certificates_that_are_refused(own: OwnBroker, host: str, options: str, says: str) -> None:
    broker = AmqpBroker(f"amqps://{host}:{own.tls_port}/?{options.format(folder=own._folder)}")
    with pytest.raises(BrokerUnavailable, match=says) as caught:
        broker.publish(b"", key="tls", message_id="m")
    assert "\n" not in str(caught.value)
    broker.close()
