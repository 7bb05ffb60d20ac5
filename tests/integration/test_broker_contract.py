"""What any broker must do; RabbitMQ and the embedded one pass the same tests."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdn_worker.brokers import Binding, Broker, Delivery, Depth, Exchange, Queue, Subscription, connect
from fdn_worker.errors import BrokerUnavailable, SettingsError, Unroutable
from tests.support.child import child
from tests.support.waiting import SOON, eventually


class Inbox:
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self._got: queue.Queue[Delivery] = queue.Queue()

    def __call__(self, delivery: Delivery) -> None:
        self._got.put(delivery)

    def next(self) -> Delivery:
        return self._got.get(timeout=SOON)

    @property
    def empty(self) -> bool:
        return self._got.empty()


class House:
    """Brokers at one address, and what was declared there."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._brokers: list[Broker] = []
        self._things: list[Exchange | Queue] = []

    def broker(self, name: str = "test") -> Broker:
        self._brokers.append(connect(self.url, name=name))
        return self._brokers[-1]

    def declare(self, broker: Broker, *things: Exchange | Queue | Binding) -> None:
        self._things += [thing for thing in things if not isinstance(thing, Binding)]
        broker.declare(*things)

    def clear(self) -> None:
        for broker in self._brokers:
            broker.close()
        last = connect(self.url)
        last.delete(*self._things)
        last.close()


@pytest.fixture(params=["embedded", "amqp"])
def house(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[House]:
    url = f"sqlite://{tmp_path}/broker.db" if request.param == "embedded" else request.getfixturevalue("services").amqp_url
    house = House(url)
    yield house
    house.clear()


@pytest.fixture
def broker(house: House) -> Broker:
    return house.broker()


@pytest.fixture
def q(house: House, broker: Broker, unique: str) -> str:
    """A queue."""
    house.declare(broker, Queue(unique))
    return unique


def send(broker: Broker, q: str, *message_ids: str) -> None:
    for message_id in message_ids:
        broker.publish(message_id.encode(), key=q, message_id=message_id)


def test_a_message_arrives_as_it_was_sent(broker: Broker, q: str) -> None:
    inbox = Inbox()
    broker.consume(q, inbox)
    body = bytes(range(256)) * 300
    broker.publish(body, key=q, message_id="m-1")
    delivery = inbox.next()
    assert (delivery.body, delivery.message_id, delivery.exchange, delivery.redelivered) == (body, "m-1", "", False)
    delivery.ack()
    eventually("the queue stands so", lambda: broker.depth(q) == Depth(0, 1))


def test_waiting_messages_come_in_order(broker: Broker, q: str) -> None:
    sent = [f"m{number}" for number in range(100)]
    send(broker, q, *sent)
    inbox = Inbox()
    broker.consume(q, inbox, prefetch=200)
    assert [inbox.next().message_id for _ in sent] == sent


def test_a_message_that_no_queue_takes(house: House, broker: Broker, unique: str) -> None:
    house.declare(broker, Exchange(unique))
    for exchange, key in ((unique, "key"), ("", "no-such-queue")):
        with pytest.raises(Unroutable, match="declare"):
            broker.publish(b"", exchange=exchange, key=key, message_id="m")
        broker.publish(b"", exchange=exchange, key=key, message_id="m", mandatory=False)
    with pytest.raises(Unroutable, match="no exchange 'nowhere"):
        broker.publish(b"", exchange="nowhere", message_id="m", mandatory=False)


def test_a_fanout_exchange_serves_all_its_queues(house: House, broker: Broker, unique: str) -> None:
    names = [f"{unique}.a", f"{unique}.b"]
    house.declare(broker, Exchange(unique), *(Queue(name) for name in names), *(Binding(unique, name) for name in names))
    broker.publish(b"x", exchange=unique, key="whatever", message_id="m")
    for name in names:
        inbox = Inbox()
        broker.consume(name, inbox)
        assert inbox.next().exchange == unique


def test_a_direct_exchange_goes_by_the_key(house: House, broker: Broker, unique: str) -> None:
    a, b = f"{unique}.a", f"{unique}.b"
    house.declare(
        broker, Exchange(unique, "direct"), Queue(a), Queue(b), Binding(unique, a, "1"), Binding(unique, b, "2"), Binding(unique, b, "1")
    )
    broker.publish(b"", exchange=unique, key="2", message_id="for-b")
    broker.publish(b"", exchange=unique, key="1", message_id="for-both")
    with pytest.raises(Unroutable):
        broker.publish(b"", exchange=unique, key="3", message_id="for-none")
    in_a, in_b = Inbox(), Inbox()
    broker.consume(a, in_a)
    broker.consume(b, in_b)
    assert in_a.next().message_id == "for-both"
    assert [in_b.next().message_id, in_b.next().message_id] == ["for-b", "for-both"]


def test_rejected_goes_to_the_dead_letters(house: House, broker: Broker, unique: str) -> None:
    dead = f"{unique}.dead"
    house.declare(broker, Queue(dead), Queue(unique, dead_letter=dead))
    inbox, dead_inbox = Inbox(), Inbox()
    broker.consume(unique, inbox)
    broker.consume(dead, dead_inbox)
    send(broker, unique, "bad")
    inbox.next().reject()
    delivery = dead_inbox.next()
    assert (delivery.body, delivery.message_id, delivery.exchange) == (b"bad", "bad", "")
    delivery.ack()
    eventually("the queue stands so", lambda: broker.depth(dead) == Depth(0, 1) and broker.depth(unique) == Depth(0, 1))


def test_rejected_without_dead_letters_is_dropped(broker: Broker, q: str) -> None:
    inbox = Inbox()
    subscription = broker.consume(q, inbox, prefetch=1)
    send(broker, q, "bad", "good")
    inbox.next().reject()
    inbox.next().ack()
    subscription.cancel()
    eventually("the queue stands so", lambda: broker.depth(q) == Depth(0, 0))


def test_unsettled_comes_again_when_its_consumer_closes(house: House, broker: Broker, q: str) -> None:
    other, inbox = house.broker(), Inbox()
    other.consume(q, inbox)
    send(broker, q, "kept", "done")
    kept, done = inbox.next(), inbox.next()
    done.ack()
    eventually("the queue stands so", lambda: broker.depth(q) == Depth(0, 1))
    other.close()
    kept.ack()  # too late, and no error
    mine = Inbox()
    broker.consume(q, mine)
    again = mine.next()
    assert (again.message_id, again.redelivered) == ("kept", True)


CONSUMER = """
import sys
from fdn_worker.brokers import connect
connect(sys.argv[1]).consume(sys.argv[2], lambda delivery: print(delivery.message_id, flush=True))
sys.stdin.read()
"""


def test_unsettled_comes_again_when_its_process_is_killed(house: House, broker: Broker, q: str) -> None:
    send(broker, q, "m")
    command = [sys.executable, "-c", CONSUMER, house.url, q]
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "m\n"
        inbox = Inbox()
        broker.consume(q, inbox)
        assert inbox.empty
        process.kill()
        again = inbox.next()
        assert (again.message_id, again.redelivered) == ("m", True)


def test_prefetch_bounds_what_is_in_hand(broker: Broker, q: str) -> None:
    inbox = Inbox()
    broker.consume(q, inbox, prefetch=2)
    send(broker, q, "1", "2", "3", "4")
    first, second = inbox.next(), inbox.next()
    eventually("the queue stands so", lambda: broker.depth(q) == Depth(2, 1))
    assert inbox.empty
    second.ack()
    assert inbox.next().message_id == "3"
    assert inbox.empty
    first.ack()
    assert inbox.next().message_id == "4"


def test_settled_from_many_threads_and_only_once(broker: Broker, q: str) -> None:
    inbox = Inbox()
    broker.consume(q, inbox, prefetch=8)
    ids = {f"m{number}" for number in range(64)}

    def work() -> None:
        for _ in range(16):
            delivery = inbox.next()
            seen.add(delivery.message_id)
            delivery.ack()
            delivery.ack()
            delivery.reject()

    seen: set[str] = set()
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    send(broker, q, *ids)
    for thread in threads:
        thread.join(SOON)
    assert seen == ids
    eventually("the queue stands so", lambda: broker.depth(q) == Depth(0, 1))


def test_a_handler_that_raises_has_its_delivery_rejected(
    house: House, broker: Broker, unique: str, caplog: pytest.LogCaptureFixture
) -> None:
    dead, inbox, dead_inbox = f"{unique}.dead", Inbox(), Inbox()
    house.declare(broker, Queue(dead), Queue(unique, dead_letter=dead))

    def handler(delivery: Delivery) -> None:
        if delivery.message_id == "bad":
            raise ZeroDivisionError("a fault of the handler")
        inbox(delivery)

    broker.consume(dead, dead_inbox)
    broker.consume(unique, handler)
    send(broker, unique, "bad", "good")
    assert inbox.next().message_id == "good"
    assert dead_inbox.next().message_id == "bad"
    assert "a fault of the handler" in caplog.text


def test_a_handler_may_publish(house: House, broker: Broker, q: str, unique: str) -> None:
    answers, inbox = f"{unique}.answers", Inbox()
    house.declare(broker, Queue(answers))
    broker.consume(q, lambda delivery: send(broker, answers, f"re-{delivery.message_id}"))
    broker.consume(answers, inbox)
    send(broker, q, "m")
    assert inbox.next().message_id == "re-m"


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_a_single_active_consumer_hands_over(house: House, broker: Broker, unique: str, how: str) -> None:
    house.declare(broker, Queue(unique, single_active=True))
    other, first, second = house.broker(), Inbox(), Inbox()
    active = other.consume(unique, first)
    broker.consume(unique, second)
    send(broker, unique, "1", "2")
    for _ in range(2):
        first.next().ack()
    assert second.empty
    active.cancel() if how == "cancel" else other.close()
    eventually("the queue stands so", lambda: broker.depth(unique) == Depth(0, 1))
    send(broker, unique, "3")
    assert second.next().message_id == "3"
    assert first.empty


def test_a_full_queue_refuses(house: House, broker: Broker, unique: str) -> None:
    house.declare(broker, Queue(unique, max_length=3))
    with pytest.raises(BrokerUnavailable, match=r"full|holds 3") as caught:
        send(broker, unique, *map(str, range(100)))  # RabbitMQ lets a few more in before it says so
    assert caught.value.code == "queue-full"
    assert caught.value.retryable
    broker.consume(unique, lambda delivery: delivery.ack())
    eventually("the queue stands so", lambda: broker.depth(unique) == Depth(0, 1))
    send(broker, unique, "fits again")


def test_a_full_queue_may_drop_its_oldest(house: House, broker: Broker, unique: str) -> None:
    house.declare(broker, Queue(unique, max_length=2, drop_oldest=True, replicated=False))
    send(broker, unique, "1", "2", "3", "4")
    inbox = Inbox()
    broker.consume(unique, inbox)
    assert [inbox.next().message_id, inbox.next().message_id] == ["3", "4"]


def test_an_unused_queue_expires(house: House, broker: Broker, unique: str) -> None:
    house.declare(broker, Queue(unique, expires=0.5, replicated=False))
    subscription = broker.consume(unique, lambda delivery: delivery.ack())
    time.sleep(1.2)  # used for longer than it would live unused
    send(broker, unique, "still there")
    subscription.cancel()

    def gone() -> bool:
        try:
            send(broker, unique, "?")  # unlike a look at its depth, this is no use of a queue
        except Unroutable:
            return True
        return False

    eventually("it is gone", gone)
    assert broker.depth(unique) is None


def test_depth_and_delete(house: House, broker: Broker, unique: str) -> None:
    assert broker.depth(unique) is None
    house.declare(broker, Exchange(f"{unique}.x"), Queue(unique), Binding(f"{unique}.x", unique))
    assert broker.depth(unique) == Depth(0, 0)
    send(broker, unique, "1", "2")
    eventually("the queue stands so", lambda: broker.depth(unique) == Depth(2, 0))
    for _ in range(2):
        broker.delete(Queue(unique), Exchange(f"{unique}.x"))
        assert broker.depth(unique) is None
    with pytest.raises(Unroutable):
        broker.publish(b"", exchange=f"{unique}.x", message_id="m")


def test_declaring_again_changes_nothing(house: House, broker: Broker, unique: str) -> None:
    things = (Exchange(f"{unique}.x"), Queue(unique, expires=60.0, max_length=10), Binding(f"{unique}.x", unique))
    house.declare(broker, *things)
    send(broker, unique, "kept")
    broker.declare(*things)
    broker.declare()
    eventually("the queue stands so", lambda: broker.depth(unique) == Depth(1, 0))


@pytest.mark.parametrize("different", [Queue("", max_length=7), Exchange("", "direct")])
def test_declaring_it_otherwise_is_refused(house: House, broker: Broker, unique: str, different: Queue | Exchange) -> None:
    house.declare(broker, Queue(unique), Exchange(unique))
    other = Queue(unique, max_length=7) if isinstance(different, Queue) else Exchange(unique, "direct")
    with pytest.raises(SettingsError, match=unique):
        broker.declare(other)
    send(broker, unique, "it still works")


def test_binding_what_is_not_there(house: House, broker: Broker, q: str) -> None:
    with pytest.raises(Unroutable, match="nowhere"):
        broker.declare(Binding("nowhere", q))


def test_consuming_a_queue_that_is_not_there(broker: Broker, q: str) -> None:
    with pytest.raises(Unroutable, match="nowhere"):
        broker.consume("nowhere", Inbox())
    inbox = Inbox()
    broker.consume(q, inbox)
    send(broker, q, "it still works")
    assert inbox.next().message_id == "it still works"


def test_cancel_stops_even_what_was_prefetched(broker: Broker, q: str) -> None:
    send(broker, q, *(f"m{number}" for number in range(10)))
    started, inbox = threading.Event(), Inbox()
    subscriptions: list[Subscription] = []

    def handler(delivery: Delivery) -> None:
        assert started.wait(SOON)
        inbox(delivery)
        subscriptions[0].cancel()

    subscriptions.append(broker.consume(q, handler, prefetch=10))
    started.set()
    first = inbox.next()
    eventually("the queue stands so", lambda: (broker.depth(q) or Depth(0, 0)).messages == 9)
    assert inbox.empty
    first.ack()  # what was delivered may still be settled
    subscriptions[0].cancel()
    eventually("the queue stands so", lambda: broker.depth(q) == Depth(9, 0))
    others = Inbox()
    broker.consume(q, others)
    assert {others.next().message_id for _ in range(9)} == {f"m{number}" for number in range(1, 10)}
    assert others.empty


def test_eight_threads_lose_nothing(house: House, broker: Broker, q: str) -> None:
    inbox = Inbox()
    house.broker().consume(q, lambda delivery: (inbox(delivery), delivery.ack())[0])
    ids = [[f"{thread}.{number}" for number in range(25)] for thread in range(8)]
    threads = [threading.Thread(target=send, args=(broker, q, *mine)) for mine in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON)
    assert sorted(inbox.next().message_id for _ in range(200)) == sorted(one for mine in ids for one in mine)


def test_closing_hangs_never_and_is_final(house: House, broker: Broker, q: str) -> None:
    broker.consume(q, Inbox())
    send(broker, q, "m")
    begin = time.monotonic()
    broker.close()
    broker.close()
    assert time.monotonic() - begin < 30
    for call in (
        lambda: send(broker, q, "m"),
        lambda: broker.consume(q, Inbox()),
        lambda: broker.depth(q),
        lambda: broker.declare(Queue(q)),
    ):
        with pytest.raises(BrokerUnavailable, match="closed on this side"):
            call()
    house.broker().close()  # never used


def test_close_from_a_handler(house: House, broker: Broker, q: str) -> None:
    closed = threading.Event()
    broker.consume(q, lambda delivery: (broker.close(), closed.set())[0])
    send(house.broker(), q, "m")
    assert closed.wait(SOON)
