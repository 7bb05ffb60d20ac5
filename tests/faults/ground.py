"""Where faults are made: a federation on services of its own, reached through proxies, and tasks that show how often they ran."""

from __future__ import annotations

import random
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fdn_worker.brokers import Delivery, Queue
from fdn_worker.protocol import Signer, State, now
from fdn_worker.protocol.names import command_queue, execution_queue
from federation.centre import Submission
from federation.request import TaskRequest
from tests.faults.own import Own
from tests.support.proxy import Proxy
from tests.support.rig import Rig, eventually
from tests.support.services import real_rig

#: Tells in $1 that it ran, and where; waits for $2; leaves one output.
TASK = 'pwd >> "$1"; echo begun; until [ -e "$2" ]; do sleep 0.05; done; echo result > out.txt; echo ended'
SUCCEEDED = frozenset({State.SUCCEEDED})
#: An order's deadline, in seconds: by then each run must have ended, whatever happened.
DEADLINE = 300.0
MIB = 1024**2


@dataclass
class Case:
    """A run: the attempt that counts, how it may end, and the files by which it is seen and steered."""

    key: str
    request: TaskRequest
    submission: Submission
    folder: Path
    ends: frozenset[State] = SUCCEEDED
    #: Attempts before it, and how each may have ended.
    earlier: list[tuple[Submission, frozenset[State]]] = field(default_factory=list)
    #: What its log must hold; None: nothing is known of it.
    lines: tuple[str, ...] | None = ("begun", "ended")
    #: It must not have been started at all.
    never: bool = False
    #: No worker has it: the test itself is the node.
    ghost: bool = False

    @property
    def count(self) -> Path:
        return self.folder / "count"

    @property
    def attempts(self) -> list[tuple[Submission, frozenset[State]]]:
        return [*self.earlier, (self.submission, self.ends)]


class Ground:
    """One node, a `ghost` that has keys and queues but no worker, and what stands between node and services."""

    def __init__(self, rig: Rig, own: Own, broker: Proxy, store: Proxy, chance: random.Random) -> None:
        self.rig, self.own, self.broker, self.store, self.chance = rig, own, broker, store, chance
        self.node, self.ghost = rig.federation.nodes
        self.containers = rig.federation.launcher == "docker"
        self.began = time.time()
        self.cases: list[Case] = []
        #: Monotonic moment at which what was wrong was taken away.
        self.mended = 0.0

    def over(self) -> None:
        """The fault has had its effect, and is mended from here on."""
        self.mended = time.monotonic()

    # Tasks

    def prepare(
        self,
        script: str = TASK,
        *,
        node: str = "",
        ends: frozenset[State] = SUCCEEDED,
        outputs: tuple[str, ...] = ("out.txt",),
        **more: Any,
    ) -> Case:
        """Stage a task in, without sending it."""
        key = uuid.uuid4().hex
        folder = self.rig.federation.home / "cases" / key
        folder.mkdir(parents=True)
        count, go = ("count", "go") if self.containers else (str(folder / "count"), str(folder / "go"))
        outputs = ("out.txt", "count") if self.containers else ("out.txt",)
        if self.containers:
            more = {"image": "fem-busybox:1", **more}
        request = TaskRequest(
            node=node or self.node, argv=("/bin/sh", "-c", script, "sh", count, go), outputs=outputs, timeout=DEADLINE,
            deadline=now() + timedelta(seconds=DEADLINE), **more,
        )  # fmt: skip
        lines = ("begun", "ended") if script == TASK else None
        case = Case(key, request, self.rig.centre.stage_in(request, key), folder, ends, lines=lines, ghost=node == self.ghost)
        self.cases.append(case)
        return case

    def send(self, script: str = TASK, **more: Any) -> Case:
        """Stage a task in, and dispatch it."""
        case = self.prepare(script, **more)
        self.dispatch(case)
        return case

    def dispatch(self, case: Case) -> None:
        assert self.rig.centre.dispatch(case.submission)

    def begin(self, script: str = TASK, **more: Any) -> Case:
        """The same, and wait until it runs."""
        case = self.send(script, **more)
        self.rig.line(case.submission, "begun")
        return case

    def go(self, *cases: Case) -> None:
        """Let them end."""
        for case in cases:
            ((self.rig.folder(case.submission) / "sandbox" if self.containers else case.folder) / "go").touch()

    def again(self, case: Case) -> None:
        """Once it has ended as it may: a new attempt, as a person's retry."""
        self.rig.result(case.submission, DEADLINE)
        case.earlier.append((case.submission, case.ends))
        case.submission, case.ends = self.rig.centre.stage_in(case.request, case.key, new_attempt=True), SUCCEEDED
        self.dispatch(case)
        if self.containers:
            self.rig.line(case.submission, "begun")
        self.go(case)

    def forget(self) -> None:
        """What was checked is done with; followers' queues would stand for an hour."""
        for case in self.cases:
            self.rig.centre.broker.delete(*(Queue(execution_queue(case.submission.execution, follower)) for follower in ("wait", "test")))
        self.cases.clear()

    # Messages

    def publish(self, body: bytes, queue: str = "") -> None:
        """To the node's orders, or to another queue."""
        self.rig.centre.broker.publish(body, key=queue or command_queue(self.node), message_id=uuid.uuid4().hex)

    def signer(self, node: str) -> Signer:
        return Signer.load(node, self.rig.federation.home / f"{node}.key")

    def take(self, queue: str, number: int) -> list[bytes]:
        """The next messages of a queue, which are gone then."""
        found: list[bytes] = []

        def hear(delivery: Delivery) -> None:
            found.append(delivery.body)
            delivery.ack()

        subscription = self.rig.centre.broker.consume(queue, hear)
        eventually(f"{number} messages in {queue}", lambda: len(found) >= number)
        subscription.cancel()
        return found

    # The node

    def said(self, text: str) -> int:
        """How often the worker's log has that text."""
        return self.rig.log(self.node).count(text)

    def signal(self, number: signal.Signals) -> None:
        self.rig.federation.workers[self.node].send_signal(number)

    def alive(self) -> bool:
        return self.rig.federation.workers[self.node].poll() is None


@contextmanager
def ground(own: Own, folder: Path, kind: str, chance: random.Random) -> Iterator[Ground]:
    """`kind` is the launcher: process or docker."""
    name = f"{kind}-{time.time_ns():x}"
    services = own.services(with_docker=kind == "docker")
    broker, store = urlsplit(services.amqp_url), urlsplit(services.s3_url.replace("s3+", ""))
    with Proxy(broker.hostname or "", broker.port or 0) as to_broker, Proxy(store.hostname or "", store.port or 0) as to_store:
        options = {
            "broker": {"url": f"amqp://{broker.username}:{broker.password}@127.0.0.1:{to_broker.port}/{name}"},
            "transfer": {"part_size": 5 * MIB, "parallel": 1}, "grace": 1.0, "slots": 8,
            "limits": {"log_bytes": MIB, "log_lines": 2000, "output_bytes": 32 * MIB},
        }  # fmt: skip
        # Bounded, so that a Docker that hangs is told from one that is slow.
        docker = {"docker_host": services.docker_host, "pull_policy": "never", "timeout": 5.0, "pids": 64}
        settings = {"store_site_url": f"http://127.0.0.1:{to_store.port}"}
        with real_rig(
            services, folder, (name, f"{name}-ghost"), name, options=options, settings=settings, launcher=kind,
            launcher_options=docker if kind == "docker" else {},
        ) as made:  # fmt: skip
            made.start(name)
            yield Ground(made, own, to_broker, to_store, chance)
