"""1 GiB down to a node and up again over RabbitMQ, into MinIO: neither the worker nor the relay grows with it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from fdn_worker.protocol import State
from tests.conftest import Services
from tests.support.relay import start_relay
from tests.support.rig import Rig
from tests.support.services import real_rig

SIZE = 1024**3
#: MiB that either process may take at most.
MOST = 200.0


@pytest.fixture
def house(services: Services, tmp_path: Path) -> Iterator[Rig]:
    name = f"gigabyte-{time.time_ns():x}"
    options = {"transfer": {"by": "broker"}}
    with real_rig(services, tmp_path, (name,), name, launcher="process", options=options, settings={"relay": "service"}) as made:
        yield made


def peak(pid: int) -> float:
    """MiB that the process had at most, itself: what forked it does not count."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


@pytest.mark.timeout(400)
def test_a_gigabyte_down_and_up(house: Rig, tmp_path: Path) -> None:
    (node,) = house.federation.nodes
    relay = start_relay(house)
    try:
        house.start(node)
        whole = tmp_path / "in.bin"
        with whole.open("wb") as file:
            # Blocks that differ, so that one in the wrong place is seen.
            for number in range(SIZE // 4096):
                file.write(number.to_bytes(8, "big") * 512)
        with whole.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        submission = house.send(
            node, "/bin/sh", "-c", 'cp "$INPUT_PATH/in.bin" out.bin', inputs=(str(whole),), outputs=("out.bin",), disk=3 * SIZE
        )
        result = house.result(submission, 350)
        assert result.state is State.SUCCEEDED, result.explain()
        (out,) = result.outputs
        assert (out.size, out.sha256) == (SIZE, sha256)
        stored = hashlib.sha256()
        for data in house.centre.store.get(out.key):
            stored.update(data)
        assert stored.hexdigest() == sha256
        for pid in (house.federation.workers[node].pid, relay.pid):
            assert peak(pid) < MOST, psutil.Process(pid).cmdline()
    finally:
        relay.kill()
        relay.wait()
