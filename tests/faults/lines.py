"""Faults of broker and store, and of the lines that lead there."""

from __future__ import annotations

import os
import signal
import struct
from collections.abc import Iterator
from itertools import count

import pytest

from fdn_worker.brokers import Queue
from fdn_worker.errors import Unroutable
from fdn_worker.protocol import State
from fdn_worker.protocol.names import command_queue
from federation.enrol import enrol
from federation.presence import presence
from tests.faults.ground import MIB, Ground
from tests.faults.matrix import fault
from tests.support.waiting import eventually

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
#: A frame of AMQP: basic.ack, on channel 1, of a delivery that never was; the broker then closes that channel alone.
WRONG_ACK = struct.pack(">BHIHHQBB", 1, 1, 13, 60, 80, 1 << 40, 0, 0xCE)
BIG = f'pwd >> "$1"; head -c {12 * MIB} /dev/urandom > out.txt'


@fault(9, "broker killed", weight=1)
def broker_killed(ground: Ground) -> Iterator[None]:
    ground.own.broker.kill(group=True)
    yield
    ground.own.start_broker()


@fault(10, "broker out of reach while tasks end", weight=3)
def broker_away(ground: Ground) -> Iterator[None]:
    waits = ground.said("events wait")
    ground.broker.cut()
    yield
    eventually("the outbox waits", lambda: ground.said("events wait") > waits)
    ground.over()
    ground.broker.restore()


@fault(11, "what is sent to and by the broker is swallowed", weight=1)
def swallowed(ground: Ground) -> Iterator[None]:
    waits = ground.said("events wait")
    ground.broker.swallow()
    yield
    eventually("the outbox waits", lambda: ground.said("events wait") > waits)
    ground.over()
    ground.broker.restore()


@fault(12, "connections to the broker reset in mid-confirm", mixes=True, weight=8)
def reset(ground: Ground) -> Iterator[None]:
    ground.broker.cut_after(ground.chance.randrange(100, 3000))
    ground.go(ground.send())
    yield
    eventually("it was cut", lambda: ground.broker.was_cut)


@fault(13, "broker at 1 kB/s", weight=1)
def slow(ground: Ground) -> Iterator[None]:
    lost = ground.said("is not consumed")
    ground.broker.rate = 1000.0
    ground.go(ground.send())
    yield
    for case in ground.cases:
        ground.rig.result(case.submission, 90)
    assert [node.presence for node in presence(ground.rig.centre.records) if node.name == ground.node] != ["gone"]
    assert ground.said("is not consumed") == lost
    ground.broker.restore()


@fault(14, "a channel alone is closed", mixes=True)
def channel_closed(ground: Ground) -> Iterator[None]:
    closed = ground.said("is not consumed")
    looks = count()

    def noticed() -> bool:
        if next(looks) % 50 == 0:  # again each second: another fault may have cut the connection that it was for
            ground.broker.inject(WRONG_ACK)
        return ground.said("is not consumed") > closed

    eventually("it was noticed", noticed)
    ground.go(ground.send())
    yield


@fault(15, "the node's queue is deleted", weight=3)
def queue_deleted(ground: Ground) -> Iterator[None]:
    rig, queue = ground.rig, command_queue(ground.node)
    told = ground.said(f"ended the consumer of queue {queue}")
    rig.centre.broker.delete(Queue(queue))
    eventually("it says so", lambda: ground.said(f"ended the consumer of queue {queue}") > told)
    case = ground.prepare()
    with pytest.raises(Unroutable):
        rig.centre.dispatch(case.submission)
    yield
    enrol(rig.centre.broker, rig.centre.records, ground.node, public_key=ground.signer(ground.node).public_key())
    ground.dispatch(case)
    ground.go(case)


@fault(16, "broker out of memory", weight=1)
def alarm(ground: Ground) -> Iterator[None]:
    waits = ground.said("events wait")
    ground.own.control_broker("set_vm_memory_high_watermark", "0.00001")
    yield
    eventually("publishing is bounded", lambda: ground.said("events wait") > waits)
    ground.over()
    ground.own.control_broker("set_vm_memory_high_watermark", "0.6")


@fault(27, "store refuses connections", weight=3)
def store_down(ground: Ground) -> Iterator[None]:
    tries = ground.said("transfer waits")
    ground.store.cut()
    yield
    eventually("it was tried", lambda: ground.said("transfer waits") > tries)
    ground.over()
    ground.store.restore()


@fault(27, "store answers 503")
def store_busy(ground: Ground) -> Iterator[None]:
    tries = ground.said("transfer waits")
    ground.store.answer(BUSY)
    yield
    eventually("it was tried", lambda: ground.said("transfer waits") > tries)
    ground.over()
    ground.store.restore()


@fault(27, "store killed", weight=2)
def store_killed(ground: Ground) -> Iterator[None]:
    ground.own.store.kill()
    yield
    for case in ground.cases:
        ground.rig.reach(case.submission, State.STAGING_OUT)
    ground.over()
    ground.own.start_store()


@fault(28, "upload cut", weight=4)
def upload_cut(ground: Ground) -> Iterator[None]:
    ground.store.cut_after(ground.chance.randrange(MIB, 11 * MIB))
    ground.send(BIG)
    yield
    eventually("it was cut", lambda: ground.store.was_cut)


@fault(29, "upload falsified on its way")
def falsified(ground: Ground) -> Iterator[None]:
    """The store's checksum refuses it, and it goes up again."""
    ground.store.falsify(b"resul", b"RESUL")
    yield
    eventually("it was falsified", lambda: ground.store.was_falsified)


@fault(27, "store stands still", weight=2)
def store_stands(ground: Ground) -> Iterator[None]:
    os.kill(ground.own.store.process.pid, signal.SIGSTOP)
    yield
    for case in ground.cases:
        ground.rig.reach(case.submission, State.STAGING_OUT)
    ground.over()
    os.kill(ground.own.store.process.pid, signal.SIGCONT)
