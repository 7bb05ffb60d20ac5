"""The lines to the broker and the store fail: tasks go on, what they leave is kept, and all arrives in the end."""

from __future__ import annotations

import hashlib
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fdn_worker.journal import Entry, Journal
from fdn_worker.protocol import Signer, State
from federation.centre import Submission
from federation.presence import presence
from tests.conftest import Services
from tests.support.proxy import Proxy
from tests.support.rig import Rig, eventually, name_of
from tests.support.services import real_rig

TASK = 'echo x >> "$1"; echo begun; until [ -e "$2" ]; do sleep 0.02; done; echo result > out.txt; echo ended'
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True)
class Lines:
    """A federation whose worker reaches broker and store through proxies; the centre goes straight."""

    rig: Rig
    broker: Proxy
    store: Proxy

    @property
    def node(self) -> str:
        return self.rig.federation.nodes[0]

    def begin(self, folder: Path, **request: object) -> Submission:
        submission = self.rig.send(self.node, "/bin/sh", "-c", TASK, "sh", str(folder / "count"), str(folder / "go"), **request)
        self.rig.line(submission, "begun")
        return submission

    def entry(self, submission: Submission) -> Entry:
        """What the node's journal has of it."""
        journal = Journal(self.rig.state_dir(self.node) / "journal.db", Signer())
        entry = journal.entry(name_of(submission))
        journal.close()
        assert entry is not None
        return entry

    def check(self, submission: Submission, folder: Path, state: State = State.SUCCEEDED) -> None:
        result = self.rig.result(submission)
        assert result.state is state, result.explain()
        assert (folder / "count").read_text() == "x\n"
        self.rig.check_told_once(submission)
        self.rig.check_clean(self.node)


@pytest.fixture(scope="module")
def lines(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lines]:
    name = f"lines-{time.time_ns():x}"
    broker, store = urlsplit(services.amqp_url), urlsplit(services.s3_url.replace("s3+", ""))
    with Proxy(broker.hostname or "", broker.port or 5672) as to_broker, Proxy(store.hostname or "", store.port or 80) as to_store:
        by_proxy = f"amqp://{broker.username}:{broker.password}@127.0.0.1:{to_broker.port}/{name}"
        options = {"broker": {"url": by_proxy}, "transfer": {"part_size": 5 * 1024**2, "parallel": 1}, "grace": 1.0}
        settings = {"store_site_url": f"http://127.0.0.1:{to_store.port}"}
        home = tmp_path_factory.mktemp("lines")
        with real_rig(services, home, (name,), name, launcher="process", options=options, settings=settings) as made:
            made.start(name)
            yield Lines(made, to_broker, to_store)


@pytest.fixture(autouse=True)
def mended(lines: Lines) -> Iterator[None]:
    """Whatever a test does to the lines is undone after it."""
    yield
    lines.store.restore()
    lines.broker.restore()


@pytest.mark.parametrize("fault", ["refused", "busy"])
def test_store_down(lines: Lines, tmp_path: Path, fault: str) -> None:
    """Fault 27: tried again, outputs kept, the run not failed."""
    submission = lines.begin(tmp_path, outputs=("out.txt",))
    tries = lines.rig.log(lines.node).count("transfer waits")
    if fault == "busy":
        lines.store.answer(BUSY)
    else:
        lines.store.cut()
    (tmp_path / "go").touch()
    lines.rig.reach(submission, State.STAGING_OUT)
    eventually("it was tried twice", lambda: lines.rig.log(lines.node).count("transfer waits") >= tries + 2)
    assert (lines.rig.folder(submission) / "sandbox/out.txt").read_text() == "result\n"
    assert lines.rig.centre.attempt(submission.run, 1).state is State.STAGING_OUT
    lines.store.restore()
    lines.check(submission, tmp_path)


def test_a_slot_is_free_while_the_store_is_down(lines: Lines, tmp_path: Path) -> None:
    """More tasks than slots wait for the store, and another one runs."""
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
        (folder / "go").touch()
    lines.store.cut()
    waiting = [lines.begin(folder) for folder in folders]
    for submission in waiting:
        lines.rig.reach(submission, State.STAGING_OUT)
    lines.store.restore()
    for submission, folder in zip(waiting, folders, strict=True):
        result = lines.rig.result(submission)
        assert (result.state, (folder / "count").read_text()) == (State.SUCCEEDED, "x\n")
    lines.rig.check_clean(lines.node)


def test_an_upload_that_is_cut_goes_on_where_it_was(lines: Lines) -> None:
    """Fault 28: parts that are up are not sent again, and nothing partial is visible."""
    size = 20 * 1024**2
    before = lines.store.forwarded
    lines.store.cut_after(size // 2)
    submission = lines.rig.send(lines.node, "/bin/sh", "-c", f"yes part | head -c {size} > big", outputs=("big",))
    result = lines.rig.result(submission)
    assert result.state is State.SUCCEEDED, result.explain()
    assert lines.store.was_cut
    (big,) = result.outputs
    content = lines.rig.output(result, big.path)
    assert (len(content), hashlib.sha256(content).hexdigest()) == (size, big.sha256)
    # One part of 5 MiB was under way, and is sent again.
    assert lines.store.forwarded - before < size + 6 * 1024**2
    lines.rig.check_clean(lines.node)


def test_cancel_while_the_store_is_down(lines: Lines, tmp_path: Path) -> None:
    submission = lines.begin(tmp_path, outputs=("out.txt",))
    lines.store.cut()
    (tmp_path / "go").touch()
    lines.rig.reach(submission, State.STAGING_OUT)
    lines.rig.centre.cancel(submission.execution, "a test")
    result = lines.rig.result(submission)
    assert (result.state, result.files) == (State.CANCELLED, ())
    lines.store.restore()
    lines.check(submission, tmp_path, State.CANCELLED)


def test_cancel_amid_an_upload(lines: Lines) -> None:
    before = lines.store.forwarded
    lines.store.delay = 0.01
    submission = lines.rig.send(lines.node, "/bin/sh", "-c", "head -c 20000000 /dev/zero > big", outputs=("big",))
    eventually("a part is on its way", lambda: lines.store.forwarded > before + 1_000_000)
    lines.rig.centre.cancel(submission.execution, "a test")
    result = lines.rig.result(submission)
    assert (result.state, result.files) == (State.CANCELLED, ())
    lines.rig.check_told_once(submission)
    lines.rig.check_clean(lines.node)


def test_broker_away_while_a_task_ends(lines: Lines, tmp_path: Path) -> None:
    """Fault 10: the task finishes, the outbox drains."""
    submission = lines.begin(tmp_path, outputs=("out.txt",))
    lines.broker.cut()
    (tmp_path / "go").touch()
    eventually("the task has ended", lambda: lines.entry(submission).exit_json is not None)
    eventually("the outbox waits", lambda: "events wait" in lines.rig.log(lines.node))
    assert lines.rig.centre.attempt(submission.run, 1).state is State.RUNNING
    lines.broker.restore()
    lines.check(submission, tmp_path)


def test_broker_stands_still(lines: Lines, tmp_path: Path) -> None:
    """A line on which nothing moves for a while, but which is not cut: nothing is lost, nothing comes twice."""
    submission = lines.begin(tmp_path, outputs=("out.txt",))
    lines.broker.pause()
    (tmp_path / "go").touch()
    eventually("the task has ended", lambda: lines.entry(submission).exit_json is not None)
    lines.broker.resume()
    lines.check(submission, tmp_path)


def test_broker_cut_again_and_again(lines: Lines, tmp_path: Path) -> None:
    """Fault 12: resets in mid-confirm; what was not confirmed is sent again under the same id."""
    (tmp_path / "go").touch()
    submissions = []
    for number in range(6):
        (tmp_path / str(number)).mkdir()
        lines.broker.cut_after(300 * (number + 1))
        words = ("/bin/sh", "-c", TASK, "sh", str(tmp_path / str(number) / "count"), str(tmp_path / "go"))
        submissions.append(lines.rig.send(lines.node, *words, outputs=("out.txt",)))
    for number, submission in enumerate(submissions):
        lines.check(submission, tmp_path / str(number))


def test_a_worker_that_starts_before_its_broker(lines: Lines, tmp_path: Path) -> None:
    """It keeps the time of what runs meanwhile, and takes orders when the broker comes."""
    submission = lines.begin(tmp_path, timeout=2.0)
    lines.broker.cut()
    lines.rig.kill(lines.node)
    lines.rig.start(lines.node)
    eventually("the timeout had its effect", lambda: lines.entry(submission).exit_json is not None)
    assert lines.entry(submission).stop == "timeout"
    lines.broker.restore()
    lines.check(submission, tmp_path, State.FAILED)
    after = lines.rig.send(lines.node, "/bin/true")
    assert lines.rig.result(after).state is State.SUCCEEDED


def test_nothing_can_be_written_at_the_node(lines: Lines, tmp_path: Path) -> None:
    """Fault 30: no order is acknowledged, nothing is concluded, it says so; and all goes on once there is room.

    A limit of 0 on the size of the worker's files refuses each write, as a full disk does.
    """
    folders = [tmp_path / name for name in ("ends", "cancelled", "comes")]
    for folder in folders:
        folder.mkdir()
    ends, cancelled = lines.begin(folders[0], outputs=("out.txt",)), lines.begin(folders[1])
    worker = lines.rig.federation.workers[lines.node]
    hard = resource.prlimit(worker.pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (0, hard))
    comes = lines.rig.send(lines.node, "/bin/sh", "-c", TASK, "sh", str(folders[2] / "count"), "/dev/null", outputs=("out.txt",))
    lines.rig.centre.cancel(cancelled.execution, "a test")
    (folders[0] / "go").touch()
    lines.rig.follow(ends)

    def told() -> bool:
        return any("journal" in problem for node in presence(lines.rig.centre.records) for problem in node.problems)

    eventually("the heartbeat tells of it", told)
    assert worker.poll() is None
    assert lines.rig.history(comes) == []
    assert {lines.rig.centre.attempt(submission.run, 1).state for submission in (ends, cancelled)} == {State.RUNNING}
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (hard, hard))
    for submission, folder, state in zip(
        (ends, cancelled, comes), folders, (State.SUCCEEDED, State.CANCELLED, State.SUCCEEDED), strict=True
    ):
        result = lines.rig.result(submission)
        assert result.state is state, result.explain()
        assert (folder / "count").read_text() == "x\n"
        lines.rig.check_told_once(submission)
    lines.rig.check_clean(lines.node)
    eventually("the heartbeat tells that it is over", lambda: not told())
