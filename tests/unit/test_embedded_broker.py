"""What only the embedded broker shows: its file, and clients that stop or die."""

from __future__ import annotations

import os
import queue
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from fdn_worker.brokers import Delivery, Depth, Queue, _embedded_clients
from fdn_worker.brokers.embedded import EmbeddedBroker
from fdn_worker.errors import BrokerUnavailable, SettingsError
from tests.support.child import child
from tests.support.waiting import SOON


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite://{tmp_path}/broker.db"


@pytest.fixture
def broker(url: str) -> Iterator[EmbeddedBroker]:
    broker = EmbeddedBroker.at(url)
    yield broker
    broker.close()


CONSUMER = """
import sys
from fdn_worker.brokers import connect
def handler(delivery):
    held.append(delivery)
    print(delivery.message_id, flush=True)
held = []
connect(sys.argv[1]).consume("q", handler, prefetch=1)
for line in sys.stdin:
    held.pop().ack()
"""


def test_a_process_that_stands_still_loses_what_it_holds_and_may_come_back(
    broker: EmbeddedBroker, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_embedded_clients, "LEASE", 6.0)  # longer than a busy machine keeps this process waiting
    broker.declare(Queue("q", single_active=True))
    broker.publish(b"", key="q", message_id="1")
    command = [sys.executable, "-c", CONSUMER, url]
    with child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGSTOP)
        got: queue.Queue[Delivery] = queue.Queue()
        subscription = broker.consume("q", got.put)
        again = got.get(timeout=SOON)
        assert (again.message_id, again.redelivered) == ("1", True)
        process.send_signal(signal.SIGCONT)
        process.stdin.write("acknowledge what is no longer yours\n")
        process.stdin.flush()
        subscription.cancel()
        broker.publish(b"", key="q", message_id="2")
        assert process.stdout.readline() == "2\n"  # it has joined anew, and has room again
        again.reject()
        broker.close()
        process.kill()
        with pytest.raises(queue.Empty):
            got.get_nowait()


def test_a_process_is_told_from_a_later_one_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = _embedded_clients._born(os.getpid())
    namespace = mine.split()[0]
    assert not _embedded_clients._gone(os.getpid(), mine)
    assert _embedded_clients._gone(os.getpid(), f"{namespace} 1")
    assert not _embedded_clients._gone(os.getpid(), "pid:[1] 1"), "of another container: only its lease tells"
    with subprocess.Popen(["true"]) as process:
        born = _embedded_clients._born(process.pid)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie now
        assert not born or _embedded_clients._gone(process.pid, born)


PUBLISHER = """
import sys
from fdn_worker.brokers import Queue, connect
broker = connect(sys.argv[1])
sys.stdin.readline()
broker.declare(Queue("q"))
for number in range(50):
    broker.publish(b"x", key="q", message_id=f"{sys.argv[2]}.{number}")
"""


def test_processes_that_make_the_file_at_once_lose_nothing(broker: EmbeddedBroker, url: str) -> None:
    processes = [subprocess.Popen([sys.executable, "-c", PUBLISHER, url, str(one)], stdin=subprocess.PIPE) for one in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert [process.wait(SOON) for process in processes] == [0] * 4
    for process in processes:
        process.communicate()
    assert broker.depth("q") == Depth(200, 0)


def test_many_subscriptions_of_one_object(broker: EmbeddedBroker) -> None:
    names = [f"q{number}" for number in range(300)]
    broker.declare(*map(Queue, names))
    got: set[str] = set()
    done = threading.Event()

    def handler(delivery: Delivery) -> None:
        got.add(delivery.message_id)
        delivery.ack()
        if len(got) == len(names):
            done.set()

    for name in names:
        broker.consume(name, handler)
    for name in names:
        broker.publish(b"", key=name, message_id=name)
    assert done.wait(SOON)
    assert got == set(names)


def test_publishing_waits_for_the_disk_and_settling_does_not(broker: EmbeddedBroker) -> None:
    broker.declare(Queue("q"))
    broker.consume("q", lambda delivery: delivery.ack())
    with broker._file.reading() as publishing, broker._poller._file.reading() as polling:
        assert publishing.execute("PRAGMA synchronous").fetchone() == (2,)
        assert polling.execute("PRAGMA synchronous").fetchone() == (1,)
        assert publishing.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.parametrize("url", ["sqlite://relative/path", "sqlite://", "sqlite:////tmp/"])
def test_an_address_that_names_no_file(url: str) -> None:
    with pytest.raises(SettingsError, match="names no file"):
        EmbeddedBroker.at(url)


def test_a_file_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, but it is long enough to be looked at as one " * 20)
    with sqlite3.connect(tmp_path / "newer.db") as other:
        other.execute("PRAGMA user_version = 7")
    other.close()
    for path, says in (("no/folder/b.db", "unable to open"), ("text", "not a database"), ("newer.db", "has version 7")):
        broker = EmbeddedBroker(tmp_path / path)
        for call in (lambda broker=broker: broker.publish(b"", key="q", message_id="m"), lambda broker=broker: broker.consume("q", print)):
            with pytest.raises(BrokerUnavailable, match=says) as caught:
                call()
            assert caught.value.remedy
        broker.close()
