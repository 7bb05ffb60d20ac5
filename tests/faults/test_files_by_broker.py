"""Files that go by the broker while worker, relay or store fail: whole in the end, and nothing partial is ever seen."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fdn_worker.protocol import State
from fdn_worker.protocol.names import up_queue
from federation.centre import Submission
from storage.keys import attempt_prefix
from tests.conftest import Services
from tests.support.proxy import Proxy
from tests.support.relay import start_relay
from tests.support.rig import Rig
from tests.support.services import real_rig
from tests.support.waiting import SOON, eventually
from tests.unit.test_source import commit, git

MIB = 1024**2
#: Five parts of 5 MiB, and a bit.
SIZE = 25 * MIB + 12345
POINTS = ("after:publish:chunk:30", "before:part-done:*:2", "after:part-done:*:3", "before:complete", "after:get")


@dataclass
class House:
    """A federation whose relay is a process, which reaches the store through a proxy."""

    rig: Rig
    relay: subprocess.Popen[bytes]
    store: Proxy

    def send(self, node: str, script: str, **request: object) -> Submission:
        (self.rig.federation.home / "in.bin").write_bytes(b"data" * 1_000_000)
        inputs = (str(self.rig.federation.home / "in.bin"),)
        return self.rig.send(node, "/bin/sh", "-c", script, inputs=inputs, outputs=("big", "copy"), **request)

    def check(self, submission: Submission) -> None:
        result = self.rig.result(submission, 110)
        assert result.state is State.SUCCEEDED, result.explain()
        assert sorted((file.path, file.size) for file in result.outputs) == [("outputs/big", SIZE), ("outputs/copy", 4_000_000)]
        for file in result.outputs:
            assert hashlib.sha256(self.rig.output(result, file.path)).hexdigest() == file.sha256
        assert self.rig.output(result, "outputs/copy") == b"data" * 1_000_000
        self.rig.check_told_once(submission)
        self.rig.check_clean(submission.node)
        depth = self.rig.centre.broker.depth(up_queue(submission.node))
        assert depth is not None
        assert depth.messages == 0

    def stored(self, submission: Submission) -> list[str]:
        prefix = attempt_prefix(submission.execution, submission.task, submission.node, 1)
        return [found.key.removeprefix(prefix) for found in self.rig.centre.store.list(prefix)]


TASK = f'cp "$INPUT_PATH/in.bin" copy; head -c {SIZE} /dev/urandom > big'


@pytest.fixture(scope="module")
def house(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    name = f"files-{time.time_ns():x}"
    nodes = tuple(f"{name}-{number}" for number in range(len(POINTS) + 4))
    options = {"transfer": {"by": "broker", "part_size": 5 * MIB, "parallel": 2}}
    place = urlsplit(services.s3_url.replace("s3+", ""))
    home = tmp_path_factory.mktemp("files")
    settings = {"relay": "service", "source_allow_file": True}
    with (
        Proxy(place.hostname or "", place.port or 80) as proxy,
        real_rig(services, home, nodes, name, launcher="process", options=options, settings=settings) as made,
    ):
        relay_store = f"s3+http://{place.username}:{place.password}@127.0.0.1:{proxy.port}/{name}"
        made.federation.store_url = relay_store
        made.centre.settings = made.centre.settings.model_copy(update={"store_url": type(made.centre.settings.store_url)(relay_store)})
        found = House(made, start_relay(made), proxy)
        yield found
        found.relay.kill()
        found.relay.wait()


@pytest.mark.parametrize("point", POINTS)
def test_the_worker_is_killed(house: House, point: str) -> None:
    node = house.rig.federation.nodes[POINTS.index(point)]
    submission = house.send(node, TASK)
    assert house.rig.start_dying(node, point).wait(SOON) == -signal.SIGKILL
    assert "outputs/big" not in house.stored(submission)
    house.rig.start(node)
    house.check(submission)


def test_the_relay_is_killed_with_half_a_part(house: House) -> None:
    """Parts that were taken are not sent again; those it had in hand are."""
    node = house.rig.federation.nodes[len(POINTS)]
    house.rig.start(node)
    house.store.delay = 0.01
    taken = house.store.forwarded
    submission = house.send(node, TASK)
    house.rig.reach(submission, State.STAGING_OUT)
    eventually("a part and a half are on their way", lambda: house.store.forwarded > taken + 8 * MIB)
    house.relay.kill()
    house.relay.wait()
    house.store.delay = 0.0
    assert "outputs/big" not in house.stored(submission)
    house.relay = start_relay(house.rig)
    house.check(submission)


def test_the_store_is_down(house: House) -> None:
    """Fault 27: tried again, the run not failed."""
    node = house.rig.federation.nodes[len(POINTS) + 1]
    house.rig.start(node)
    submission = house.send(node, "until [ -e go ]; do sleep 0.02; done; " + TASK)
    house.rig.reach(submission, State.RUNNING)
    house.store.cut()
    (house.rig.folder(submission) / "sandbox/go").touch()
    house.rig.reach(submission, State.STAGING_OUT)
    eventually("it was tried twice", lambda: house.rig.log(node).count("transfer waits") >= 2)
    house.store.restore()
    house.check(submission)


def test_source_comes_with_the_order(house: House, tmp_path: Path) -> None:
    """The node reaches no Git server: it is given the commit, and no more of the repository."""
    node, origin = house.rig.federation.nodes[len(POINTS) + 2], tmp_path / "origin"
    origin.mkdir()
    git(origin, "init", "-q")
    first = commit(origin, text="first")
    commit(origin, text="second")
    house.rig.start(node)
    eventually("it was heard", lambda: '"transfer":"broker"' in (getattr(house.rig.centre.records.node(node), "heartbeat", None) or ""))
    (house.rig.federation.home / "in.bin").write_bytes(b"x")
    submission = house.rig.send(
        node,
        "/bin/sh",
        "-c",
        "cp $SOURCE_PATH/text out; ls -A $SOURCE_PATH >> out",
        repository=f"file://{origin}",
        commit=first,
        outputs=("out",),
    )
    result = house.rig.result(submission)
    assert result.state is State.SUCCEEDED, result.explain()
    assert house.rig.output(result, "outputs/out") == b"firsttext\n"
    house.rig.check_clean(node)
