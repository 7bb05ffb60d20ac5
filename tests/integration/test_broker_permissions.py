"""What a site's user may not do at the real RabbitMQ: docs/reference/broker-permissions.md names each of these tests."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker, ConnectionClosedByBroker, StreamLostError

from fdn_worker.brokers import Delivery
from fdn_worker.brokers._amqp_address import Address
from fdn_worker.brokers.amqp import AmqpBroker
from fdn_worker.errors import BrokerUnavailable, SettingsError
from fdn_worker.protocol.names import (
    BEATS,
    DEAD_INBOX,
    EVENT_KEY,
    EXECUTIONS,
    INBOX,
    command_queue,
    control_queue,
    dead_letter_queue,
    down_queue,
    event_exchange,
    up_queue,
)
from federation.enrol import enrol, retire
from federation.management import LIMITS, TAG
from storage.records import Records
from tests.support.rig import SOON, eventually
from tests.support.tls_broker import TlsBroker


@dataclass
class Federation:
    """A virtual host with three enrolled sites: `b` is `a` and one letter more, and `c` is somebody else."""

    broker: TlsBroker
    virtual_host: str
    centre: AmqpBroker
    records: Records
    a: str
    b: str
    c: str

    @property
    def others(self) -> tuple[str, str]:
        return self.b, self.c

    def url(self, node: str) -> str:
        return self.broker.url(self.broker.site(node), self.virtual_host)

    def as_site(self, node: str) -> pika.BlockingConnection:
        """A bare connection with the site's certificate: what somebody could do who has taken over its worker."""
        return pika.BlockingConnection(Address.parse(self.url(node), "intruder").parameters)

    def enrol(self, node: str) -> None:
        enrol(self.centre, self.records, node, management=self.broker.management(self.virtual_host), public_key="k")

    def retire(self, node: str) -> None:
        retire(self.centre, self.records, node, management=self.broker.management(self.virtual_host))


@pytest.fixture(scope="module")
def federation(tls_broker: TlsBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    home = tmp_path_factory.mktemp("permissions")
    records = Records.open(f"sqlite:///{home}/records.db")
    centre = AmqpBroker(tls_broker.url(tls_broker.centre, "permissions"))
    made = Federation(tls_broker, "permissions", centre, records, "site-a", "site-ab", "other")
    for node in (made.a, *made.others):
        made.enrol(node)  # the virtual host comes with the first
    yield made
    centre.close()
    records.close()


@pytest.fixture
def site(federation: Federation) -> Iterator[pika.BlockingConnection]:
    """Site `a`, as an intruder."""
    connection = federation.as_site(federation.a)
    yield connection
    connection.close()


def refused(site: pika.BlockingConnection, act: Callable[[BlockingChannel], object], *, code: int = 403) -> None:
    channel = site.channel()
    channel.confirm_delivery()
    with pytest.raises(ChannelClosedByBroker) as caught:
        act(channel)
    assert caught.value.reply_code == code, caught.value.reply_text


# What it may


def test_a_site_reads_its_queues_and_publishes_to_its_exchange(federation: Federation) -> None:
    site = AmqpBroker(federation.url(federation.a))
    got: queue.Queue[Delivery] = queue.Queue()
    for name in (command_queue(federation.a), control_queue(federation.a), down_queue(federation.a)):
        site.consume(name, got.put)
        federation.centre.publish(b"", key=name, message_id=name)
        delivery = got.get(timeout=SOON)
        assert delivery.message_id == name
        delivery.ack()
    inbox = federation.centre.consume(INBOX, got.put)
    site.publish(b"event", exchange=event_exchange(federation.a), key=EVENT_KEY, message_id="event")
    delivery = got.get(timeout=SOON)
    assert (delivery.body, delivery.exchange) == (b"event", event_exchange(federation.a))
    delivery.ack()
    inbox.cancel()
    site.close()


# What it may not


@pytest.mark.parametrize("name", [command_queue, control_queue, down_queue, up_queue, dead_letter_queue])
@pytest.mark.parametrize("whose", ["b", "c"])
def test_it_cannot_read_the_queues_of_others(
    federation: Federation, site: pika.BlockingConnection, name: Callable[[str], str], whose: str
) -> None:
    """Site `b` is called as `a` is, and then goes on: an expression without its anchors would let it pass."""
    theirs = name(getattr(federation, whose))
    refused(site, lambda channel: channel.basic_consume(theirs, print))
    refused(site, lambda channel: channel.basic_get(theirs))


@pytest.mark.parametrize("theirs", [INBOX, BEATS, DEAD_INBOX, up_queue("site-a"), dead_letter_queue("site-a")])
def test_it_cannot_read_what_is_the_centres(site: pika.BlockingConnection, theirs: str) -> None:
    refused(site, lambda channel: channel.basic_consume(theirs, print))
    refused(site, lambda channel: channel.basic_get(theirs))


def _command(queue: str, channel: BlockingChannel) -> None:
    channel.basic_publish("", queue, b"", mandatory=True)


def test_it_cannot_publish_commands(federation: Federation, site: pika.BlockingConnection) -> None:
    """Not to itself either: the default exchange, which leads to every queue by its name, is closed to it."""
    for node in (federation.a, *federation.others):
        for name in (command_queue(node), control_queue(node)):
            refused(site, partial(_command, name))
            depth = federation.centre.depth(name)
            assert depth is not None
            assert depth.messages == 0


@pytest.mark.parametrize(
    "exchange", [event_exchange("site-ab"), event_exchange("other"), EXECUTIONS, "amq.topic", "amq.direct", "amq.fanout"]
)
def test_it_cannot_publish_events_of_others(site: pika.BlockingConnection, exchange: str) -> None:
    refused(site, lambda channel: channel.basic_publish(exchange, EVENT_KEY, b"", mandatory=True))


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda channel: channel.queue_declare("mine", durable=True), id="a queue"),
        pytest.param(lambda channel: channel.queue_declare("", exclusive=True), id="a queue with a name from the broker"),
        pytest.param(lambda channel: channel.queue_declare(command_queue("site-a"), durable=True), id="its own queue"),
        pytest.param(lambda channel: channel.queue_declare("cmd.site-z", durable=True), id="the queue of a site to come"),
        pytest.param(lambda channel: channel.exchange_declare("mine", "fanout"), id="an exchange"),
        pytest.param(lambda channel: channel.exchange_declare(event_exchange("site-a"), "direct", durable=True), id="its own exchange"),
    ],
)
def test_it_cannot_declare(site: pika.BlockingConnection, act: Callable[[BlockingChannel], object]) -> None:
    refused(site, act)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda channel: channel.queue_bind(command_queue("site-a"), event_exchange("other"), EVENT_KEY), id="another's events to its queue"),
        pytest.param(lambda channel: channel.queue_bind(command_queue("other"), event_exchange("site-a"), "x"), id="another's queue to its exchange"),
        pytest.param(lambda channel: channel.queue_bind(INBOX, event_exchange("site-a"), "x"), id="the inbox by another key"),
        pytest.param(lambda channel: channel.queue_unbind(INBOX, event_exchange("other"), EVENT_KEY), id="another's events off the inbox"),
        pytest.param(lambda channel: channel.exchange_bind(event_exchange("site-a"), event_exchange("other"), EVENT_KEY), id="exchange to exchange"),
    ],
)  # fmt: skip
def test_it_cannot_bind(site: pika.BlockingConnection, act: Callable[[BlockingChannel], object]) -> None:
    refused(site, act)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda channel: channel.queue_delete(command_queue("site-a")), id="its own queue"),
        pytest.param(lambda channel: channel.queue_delete(command_queue("other")), id="another's queue"),
        pytest.param(lambda channel: channel.queue_delete(INBOX), id="the inbox"),
        pytest.param(lambda channel: channel.exchange_delete(event_exchange("site-a")), id="its own exchange"),
        pytest.param(lambda channel: channel.exchange_delete(event_exchange("other")), id="another's exchange"),
        pytest.param(lambda channel: channel.queue_purge(command_queue("other")), id="another's messages"),
    ],
)
def test_it_cannot_delete(site: pika.BlockingConnection, act: Callable[[BlockingChannel], object]) -> None:
    refused(site, act)


@pytest.mark.parametrize("user", ["other", "centre"])
def test_it_cannot_bear_the_user_id_of_another(site: pika.BlockingConnection, user: str) -> None:
    properties = pika.BasicProperties(user_id=user)  # type: ignore[no-untyped-call]
    refused(site, lambda channel: channel.basic_publish(event_exchange("site-a"), EVENT_KEY, b"", properties, mandatory=True), code=406)


def test_it_cannot_enter_another_virtual_host(federation: Federation, tls_broker: TlsBroker) -> None:
    elsewhere = AmqpBroker(tls_broker.url(tls_broker.site(federation.a), "/"))
    with pytest.raises(BrokerUnavailable, match="virtual host"):
        elsewhere.depth(INBOX)
    elsewhere.close()


def test_it_cannot_use_the_management_interface(federation: Federation, tls_broker: TlsBroker) -> None:
    """Its user has no password, and its tag means nothing there."""
    import urllib3

    place = tls_broker.management_url.rpartition("@")[2]
    for password in ("", federation.a, "null"):
        headers = urllib3.make_headers(basic_auth=f"{federation.a}:{password}")
        assert urllib3.request("GET", f"http://{place}/api/queues", headers=headers, retries=False).status == 401


def test_it_can_count_what_waits_for_another(federation: Federation, site: pika.BlockingConnection) -> None:
    """RabbitMQ asks for no right to look at a queue whose name one knows: how many messages and consumers, never what they are."""
    federation.centre.publish(b"", key=command_queue("other"), message_id="counted")
    seen = site.channel().queue_declare(command_queue("other"), passive=True).method
    assert (seen.message_count, seen.consumer_count) == (1, 0)
    connection = federation.as_site("other")
    connection.channel().basic_get(command_queue("other"), auto_ack=True)
    connection.close()


# CC and BCC


@pytest.mark.parametrize("header", ["CC", "BCC"])
def test_copies_do_not_leave_its_exchange(federation: Federation, site: pika.BlockingConnection, header: str) -> None:
    """CC and BCC are more keys on the exchange that the message goes to, and that one is its own."""
    got: queue.Queue[Delivery] = queue.Queue()
    inbox = federation.centre.consume(INBOX, got.put)
    keys = [f"{event_exchange('other')}", "other", command_queue("other"), control_queue("other"), INBOX, "#", "*", EVENT_KEY]
    channel = site.channel()
    channel.confirm_delivery()
    properties = pika.BasicProperties(headers={header: keys}, message_id="copied")  # type: ignore[no-untyped-call]
    channel.basic_publish(event_exchange("site-a"), EVENT_KEY, b"", properties, mandatory=True)
    delivery = got.get(timeout=SOON)
    delivery.ack()
    inbox.cancel()
    assert delivery.exchange == event_exchange("site-a")
    for name in (command_queue, control_queue, down_queue):
        assert federation.centre.depth(name("other")).messages == 0  # type: ignore[union-attr]
    eventually("the inbox is empty: it came once, from its own exchange", lambda: federation.centre.depth(INBOX).messages == 0)  # type: ignore[union-attr]
    assert got.empty()


def test_a_shared_topic_exchange_would_let_copies_pass(tls_broker: TlsBroker, federation: Federation) -> None:
    """Why each site has an exchange of its own: topic permissions look at the routing key alone, before RabbitMQ 4.0.3."""
    version = tuple(int(part) for part in tls_broker.api("GET", "overview")["rabbitmq_version"].split(".")[:3])
    if version >= (4, 0, 3):
        pytest.skip("mended there")
    host, node = "shared-topic", "intruder"
    management = tls_broker.management(host)
    management.admit(node)
    tls_broker.api("PUT", f"permissions/{host}/{node}", {"configure": "^$", "write": "^shared$", "read": "^$"})
    tls_broker.api("PUT", f"topic-permissions/{host}/{node}", {"exchange": "shared", "write": f"^{node}$", "read": "^$"})
    centre = pika.BlockingConnection(Address.parse(tls_broker.url(tls_broker.centre, host), "centre").parameters)
    channel = centre.channel()
    channel.exchange_declare("shared", "topic", durable=True)
    channel.queue_declare("events-of-other", durable=True)
    channel.queue_bind("events-of-other", "shared", "other")
    intruder = pika.BlockingConnection(Address.parse(tls_broker.url(tls_broker.site(node), host), node).parameters)
    refused(intruder, lambda channel: channel.basic_publish("shared", "other", b"", mandatory=True))
    sending = intruder.channel()
    sending.confirm_delivery()
    properties = pika.BasicProperties(headers={"CC": ["other"]})  # type: ignore[no-untyped-call]
    sending.basic_publish("shared", node, b"forged", properties, mandatory=True)
    method, _properties, body = channel.basic_get("events-of-other", auto_ack=True)
    assert method is not None
    assert body == b"forged"
    intruder.close()
    centre.close()
    management.expel(node)


# Retiring, limits, doing it again


def test_a_retired_site_is_dropped_at_once(federation: Federation) -> None:
    """Its live connection, not only its next one."""
    federation.enrol("leaver")
    connection = federation.as_site("leaver")
    connection.channel().basic_consume(command_queue("leaver"), print)
    federation.retire("leaver")
    with pytest.raises((ConnectionClosedByBroker, StreamLostError)):
        connection.process_data_events(time_limit=SOON)
    with pytest.raises(AMQPConnectionError):
        federation.as_site("leaver")
    assert federation.centre.depth(command_queue("leaver")) is None
    federation.retire("leaver")  # again: nothing more to do
    federation.enrol("leaver")
    federation.as_site("leaver").close()
    federation.retire("leaver")


def test_connections_and_channels_are_limited(federation: Federation) -> None:
    federation.enrol("hungry")
    connections = [federation.as_site("hungry") for _ in range(LIMITS["max-connections"])]
    site = AmqpBroker(federation.url("hungry"))

    with pytest.raises(BrokerUnavailable, match=r"connection limit \(10\) is reached .*limits"):
        site.depth(INBOX)
    site.close()
    for _ in range(LIMITS["max-channels"]):
        connections[0].channel()
    with pytest.raises(ConnectionClosedByBroker, match="maximum allowed user limit"):
        connections[0].channel()
    for connection in connections:
        if connection.is_open:
            connection.close()
    federation.retire("hungry")


def test_enrolling_again_mends_what_was_changed(federation: Federation, tls_broker: TlsBroker) -> None:
    before = tls_broker.api("GET", f"permissions/{federation.virtual_host}/{federation.a}")
    live = federation.as_site(federation.a)
    wider: dict[str, Any] = {"configure": ".*", "write": ".*", "read": ".*"}
    tls_broker.api("PUT", f"permissions/{federation.virtual_host}/{federation.a}", wider)
    tls_broker.api("PUT", f"users/{federation.a}", {"password": "p", "tags": TAG})
    federation.enrol(federation.a)
    assert tls_broker.api("GET", f"permissions/{federation.virtual_host}/{federation.a}") == before
    assert tls_broker.api("GET", f"users/{federation.a}")["password_hash"] == ""
    live.process_data_events(time_limit=0)
    assert live.is_open
    live.close()


@pytest.mark.parametrize("name", ["centre", "operator"])
def test_a_user_that_is_not_a_sites_is_left_alone(federation: Federation, tls_broker: TlsBroker, name: str) -> None:
    if name == "operator":
        tls_broker.api("PUT", f"users/{name}", {"password": "p", "tags": "monitoring"})
    before = tls_broker.api("GET", f"users/{name}")
    for act in (federation.enrol, tls_broker.management(federation.virtual_host).expel):
        with pytest.raises(SettingsError, match="is not a site's"):
            act(name)
    assert tls_broker.api("GET", f"users/{name}") == before
    assert federation.records.node(name) is None
