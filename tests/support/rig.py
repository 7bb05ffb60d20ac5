"""A federation of real workers, driven from the centre's side as a flow drives it, but without Prefect."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

from fdn_worker import launchers
from fdn_worker.brokers import Binding, Delivery, Queue
from fdn_worker.launchers import Exit, Launcher
from fdn_worker.protocol import State, TaskEvent, decode
from fdn_worker.protocol.envelope import payload_of
from fdn_worker.protocol.names import EVENT_KEY, command_queue, container_name, control_queue, dead_letter_queue, event_exchange
from federation.centre import Centre, Submission
from federation.local import LocalFederation
from federation.request import TaskRequest
from federation.results import TaskResult, stage_out
from federation.waiting import events
from tests.support.waiting import SOON, eventually

ROOT = Path(__file__).resolve().parent.parent.parent


class Tap:
    """All that a node publishes as events, also what comes twice."""

    def __init__(self, centre: Centre, node: str) -> None:
        queue = f"tap.{uuid.uuid4().hex}"
        self.heard: list[TaskEvent] = []
        centre.broker.declare(Queue(queue, expires=60, replicated=False), Binding(event_exchange(node), queue, EVENT_KEY))
        self._subscription = centre.broker.consume(queue, self._hear)

    def _hear(self, delivery: Delivery) -> None:
        message = decode(payload_of(delivery.body))
        if isinstance(message, TaskEvent):
            self.heard.append(message)
        delivery.ack()

    def states(self, submission: Submission) -> list[State]:
        return [event.state for event in self.heard if event.run == submission.run and event.state is not None]


class Rig:
    """The centre of a local federation, and hands on its workers."""

    def __init__(self, federation: LocalFederation, **settings: Any) -> None:
        self.federation = federation
        federation.prepare()
        base = federation.settings()
        self.centre = Centre.open(base.model_copy(update=settings) if settings else base)
        self.centre.ensure_relay()
        self._dying: list[subprocess.Popen[bytes]] = []

    def close(self) -> None:
        for process in self._dying:
            process.kill()
            process.wait()
        for node in list(self.federation.workers):
            self.kill(node)
        for node in self.federation.nodes:
            launcher = self.launcher(node)
            for name in launcher.names(node):
                launcher.remove(name)
        self.centre.close()

    # Workers

    def start(self, node: str) -> None:
        """Start the node's worker, and return when it has taken up what it had."""
        ups = self.log(node).count(" is up")
        process = self.federation.start(node)

        def up() -> bool:
            assert process.poll() is None, self.log(node)
            return self.log(node).count(" is up") > ups

        eventually(f"the worker of {node} is up", up)

    def start_dying(self, node: str, point: str) -> subprocess.Popen[bytes]:
        """Start a worker that kills itself at `point`: "WHEN:CALL[:LABEL[:NUMBER]]", see dying_worker."""
        when, call, *rest = point.split(":")
        label, number = (*rest, *("*", "1")[len(rest) :])
        with (self.federation.home / f"{node}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.dying_worker", str(self.federation.settings_file(node)), when, call, label, number],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=ROOT,
            )  # fmt: skip
        self._dying.append(process)
        return process

    def kill(self, node: str) -> None:
        """SIGKILL, as a machine's out-of-memory killer would."""
        self.federation.stop(node, signal.SIGKILL)

    def stop(self, node: str) -> int:
        """SIGTERM; the exit code."""
        process = self.federation.workers[node]
        self.federation.stop(node)
        return process.returncode

    def command(self, node: str, *words: str) -> subprocess.CompletedProcess[str]:
        """`fdn-worker` with the node's settings."""
        command = [sys.executable, "-m", "fdn_worker", words[0], "--settings", str(self.federation.settings_file(node)), *words[1:]]
        return subprocess.run(command, capture_output=True, text=True, timeout=SOON, check=False)

    def log(self, node: str) -> str:
        path = self.federation.home / f"{node}.log"
        return path.read_text() if path.exists() else ""

    def state_dir(self, node: str) -> Path:
        return self.federation.home / "sites" / node

    def folder(self, submission: Submission) -> Path:
        """The attempt's run folder at its node."""
        return self.state_dir(submission.node) / "runs" / name_of(submission)

    def launcher(self, node: str) -> Launcher:
        """A launcher like the node's, to look at what its worker started."""
        name = self.federation.launcher
        return launchers.load(name, self.federation.launcher_options, self.state_dir(node) / name)

    def follow(self, submission: Submission) -> Exit:
        """Wait, with no worker's help, until the task has ended."""
        return self.launcher(submission.node).follow(name_of(submission), lambda _: None)

    # The centre

    def prepare(self, node: str, *argv: str, **request: Any) -> Submission:
        """Stage a task in, without sending it."""
        key = request.pop("key", None) or uuid.uuid4().hex
        return self.centre.stage_in(TaskRequest(node=node, argv=argv, **request), key)

    def send(self, node: str, *argv: str, **request: Any) -> Submission:
        """Stage a task in, and dispatch it."""
        submission = self.prepare(node, *argv, **request)
        assert self.centre.dispatch(submission)
        return submission

    def hear(self, submission: Submission, wanted: Callable[[TaskEvent], bool], seconds: float = SOON) -> TaskEvent:
        """The first of the attempt's events that is wanted."""
        return asyncio.run(self._hear(submission, wanted, seconds))

    async def _hear(self, submission: Submission, wanted: Callable[[TaskEvent], bool], seconds: float) -> TaskEvent:
        async with asyncio.timeout(seconds), aclosing(events(self.centre, submission, follower="test")) as said:  # type: ignore[type-var]
            async for event in said:
                if wanted(event):
                    return event
        raise AssertionError(f"it ended as {self.centre.attempt(submission.run, submission.attempt).state} without that event")

    def reach(self, submission: Submission, state: State) -> None:
        """Return when the attempt has come to `state`."""
        self.hear(submission, lambda event: event.state is state)

    def line(self, submission: Submission, text: str) -> None:
        """Return when the task's log line has come."""
        self.hear(submission, lambda event: text in event.lines)

    def result(self, submission: Submission, seconds: float = SOON) -> TaskResult:
        """Wait for the end; what the centre's stage-out makes of it."""
        self.hear(submission, lambda event: event.state is not None and event.state.terminal, seconds)
        return stage_out(self.centre, submission)

    def history(self, submission: Submission) -> list[TaskEvent]:
        return self.centre.records.events_of(str(submission.run), submission.attempt)

    def output(self, result: TaskResult, path: str) -> bytes:
        """The content of an output, from the store."""
        (key,) = [file.key for file in result.files if file.path == path]
        return b"".join(self.centre.store.get(key))

    # What must hold

    def check_told_once(self, submission: Submission) -> None:
        """Events 1 to n without a gap, one of them an end, and that the last."""
        history = self.history(submission)
        numbers = [event.number for event in history]
        assert numbers == list(range(1, len(history) + 1)), f"events of {submission}: {numbers}"
        ends = [event.number for event in history if event.state is not None and event.state.terminal]
        assert ends == [len(history)], f"ends of {submission}: {ends} of {len(history)} events"

    def check_clean(self, node: str) -> None:
        """Nothing is left of any attempt: in folders, launcher, kernel, journal and queues."""
        deadline = time.monotonic() + SOON
        while (left := self.left(node)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert left == [], f"left over at {node}: {left}"

    def left(self, node: str) -> list[str]:
        """What there still is."""
        state = self.state_dir(node)
        found = [str(path) for folder in ("runs", "process") for path in (state / folder).glob("*")]
        found += sorted(self.launcher(node).names(node))
        found += [str(process) for process in processes_below(state)]
        with sqlite3.connect(f"file:{state}/journal.db?mode=ro", uri=True) as journal:
            found += [f"unfinished {name}" for (name,) in journal.execute("SELECT name FROM runs WHERE phase != 'done'")]
            found += [f"unsent {name}" for (name,) in journal.execute("SELECT message_id FROM outbox")]
            found += [f"parts {name}" for (name,) in journal.execute("SELECT DISTINCT name FROM parts")]
            names = [name for (name,) in journal.execute("SELECT name FROM runs")]
        journal.close()
        found += [str(path) for name in names for pattern in ("*/fdn/", "fdn/") for path in Path("/sys/fs/cgroup").glob(pattern + name)]
        for queue in (command_queue(node), control_queue(node), dead_letter_queue(node)):
            depth = self.centre.broker.depth(queue)
            if depth is None or depth.messages:
                found.append(f"{queue}: {depth}")
        return found


def name_of(submission: Submission) -> str:
    """The launcher's name of the attempt."""
    return container_name(submission.run, submission.attempt)


def processes_below(folder: Path) -> Iterator[int]:
    """Processes that work in a folder below `folder`, also in one that was deleted under them."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                place = str((entry / "cwd").readlink())
            except OSError:
                continue
            if place.startswith(f"{folder}/"):
                yield int(entry.name)


def census(home: Path, nodes: tuple[str, ...]) -> dict[str, dict[str, Path]]:
    """A dataset of that name for each node: ten people, aged 20 to 29."""
    folder = home / "data/census"
    folder.mkdir(parents=True)
    home.chmod(0o755)  # a container's user has to reach the data
    (folder / "people.csv").write_text("age\n" + "".join(f"{age}\n" for age in range(20, 30)))
    return {node: {"census": folder} for node in nodes}


@contextmanager
def rig(federation: LocalFederation, **settings: Any) -> Iterator[Rig]:
    """A Rig that is cleared away at the end; no worker is started yet."""
    made = Rig(federation, **settings)
    try:
        yield made
    finally:
        made.close()
