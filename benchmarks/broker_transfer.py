"""Files over the broker, down to a node and up again, against bare pika.

The task copies its one input to an output. Down is the node's stage-in, up its stage-out, as its own events tell: grants,
chunks over RabbitMQ, hashes at both ends, MinIO, manifest. The relay is in this process, the worker in its own. The
floor publishes and consumes as many bytes in messages of the same size, each confirmed before the next and acknowledged,
with pika alone: no store, no file, no hash, no signature. Memory is the worker's own peak (VmHWM).
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pika

from benchmarks.harness import Figure, Median, memory
from benchmarks.house import House, Services, house
from benchmarks.upload import clear
from fdn_worker.protocol import State
from fdn_worker.protocol.chunk import CHUNK
from federation.results import stages

MB = 1e6


def measure(services: Services, quick: bool) -> Iterator[Figure]:
    size = (64 if quick else 512) * 1024**2
    with house(services, store="minio", launcher="process", transfer={"by": "broker"}, limits={"disk_reserve": 0}) as one:
        file = one.federation.home / "input"
        _fill(file, size)
        rounds = [(*_both_ways(one, file, size), _floor(services, size)) for _ in range(2 if quick else 5)]
        peak = memory(one.worker, "VmHWM")
    floor = Median.of([found[2] for found in rounds])
    for which, way in enumerate(("down to a node", "up from a node")):
        value = Median.of([found[which] for found in rounds])
        yield Figure(
            f"{size // 1024**2} MiB over the broker, {way}", f"{value.value:.0f} MB/s", f"bare pika {floor.value:.0f} MB/s", value, " MB/s",
            10.0, most=False,
        )  # fmt: skip
    yield Figure("peak memory of the node process meanwhile", f"{peak:.0f} MiB", "", Median.of([peak]), " MiB", 200.0)


def _fill(file: Path, size: int) -> None:
    block = os.urandom(1024**2)
    with file.open("wb") as sink:
        for _ in range(size // len(block)):
            sink.write(block)


def _both_ways(one: House, file: Path, size: int) -> tuple[float, float]:
    """MB/s down and up."""
    submission = one.stage("/bin/cp", "$INPUT_PATH/input", "out", inputs=(str(file),), outputs=("out",), disk=3 * size, timeout=300)
    one.send(submission)
    one.inbox.end_of(submission)
    one.settled(submission)
    while not (took := _stages(one, str(submission.run))).keys() >= {State.SUCCEEDED}:
        time.sleep(0.02)  # the relay has the event in hand
    clear(one, submission)
    return size / MB / took[State.STAGING_IN], size / MB / took[State.STAGING_OUT]


def _stages(one: House, run: str) -> dict[State, float]:
    return {stage.state: stage.seconds for stage in stages(one.centre.records.events_of(run, 1))}


def _floor(services: Services, size: int) -> float:
    """MB/s of pika alone."""
    queue, body, count = f"bench-{uuid.uuid4().hex[:8]}", os.urandom(CHUNK), size // CHUNK
    sender = pika.BlockingConnection(pika.URLParameters(services.amqp_url))
    channel = sender.channel()
    channel.queue_declare(queue, durable=True, arguments={"x-max-length": 64, "x-overflow": "reject-publish"})
    channel.confirm_delivery()

    def receive() -> None:
        receiver = pika.BlockingConnection(pika.URLParameters(services.amqp_url))
        taking = receiver.channel()
        taking.basic_qos(prefetch_count=16)
        for number, (method, _, _) in enumerate(taking.consume(queue), 1):
            taking.basic_ack(method.delivery_tag)
            if number == count:
                break
        taking.cancel()
        receiver.close()

    thread = threading.Thread(target=receive)
    began = time.perf_counter()
    thread.start()
    for _ in range(count):
        while True:
            try:
                channel.basic_publish("", queue, body, mandatory=True)
                break
            except pika.exceptions.NackError:
                time.sleep(0.01)
    thread.join()
    seconds = time.perf_counter() - began
    channel.queue_delete(queue)
    sender.close()
    return size / MB / seconds
