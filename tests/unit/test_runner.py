"""How the runner judges an end, and the way of an attempt through a launcher that does as it is told."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fdn_worker import runner
from fdn_worker.errors import (
    Fault,
    FdnError,
    JournalUnavailable,
    LauncherUnavailable,
    PolicyRefused,
    RunVanished,
    StoreUnavailable,
    SystemFault,
    TaskFailed,
)  # fmt: skip
from fdn_worker.holds import Holds
from fdn_worker.journal import Journal, Phase
from fdn_worker.launchers import Exit, LaunchSpec, LogLine
from fdn_worker.protocol import Manifest, Port, Reason, Report, Signer, State, TaskEvent, TaskOrder, Usage, now, pack, unpack
from fdn_worker.protocol.envelope import payload_of
from fdn_worker.release.airlock import Airlock
from fdn_worker.runner import Attempt
from fdn_worker.shelves import shelve
from fdn_worker.source import SourceCache
from fdn_worker.transfer import Stopped, Upload
from tests.support.waiting import SOON
from tests.unit.helpers import MOMENT, OPEN, an_order, settings

EXIT = Exit(code=0, out_of_memory=False, started=MOMENT, finished=MOMENT, usage=Usage(cpu_seconds=1.5, peak_memory=7))


class Launcher:
    """Does `task` in the sandbox, says two lines, and ends with `exit`; or raises `error` at `step`."""

    def __init__(self) -> None:
        self.exit, self.step, self.error = EXIT, "", FdnError("")
        self.task: Callable[[Path], object] = lambda _: None
        self.calls: list[str] = []
        self.spec: LaunchSpec | None = None
        #: The end of a server, which `follow` waits for.
        self.ended = threading.Event()
        self.open: set[int] = set()

    def _call(self, step: str) -> None:
        self.calls.append(step)
        if step == self.step:
            raise self.error

    def prepare(self, image: str | None, digest: str | None) -> str | None:
        self._call("prepare")
        return "sha256:1"

    def start(self, spec: LaunchSpec) -> None:
        self._call("start")
        self.spec = spec
        self.task(spec.sandbox)

    def follow(self, name: str, on_line: Callable[[LogLine], None], after: str = "") -> Exit:
        self._call("follow")
        for number in (1, 2):
            on_line(LogLine(f"line {number}", str(number)))
        if self.spec is not None and self.spec.ports:
            assert self.ended.wait(SOON)
        return self.exit

    def listening(self, name: str, ports: Mapping[int, int]) -> set[int]:
        return self.open & set(ports)

    def stop(self, name: str, grace: float) -> None:
        self._call("stop")

    def remove(self, name: str) -> None:
        self._call("remove")

    def names(self, node: str) -> set[str]:
        return set()


class Transfers:
    """Keeps what is put, or raises `error`."""

    def __init__(self) -> None:
        self.put: dict[str, bytes] = {}
        self.error: Exception | None = None

    def get_inputs(self, order: TaskOrder, folder: Path, stopping: Callable[[], bool]) -> int:
        return 42

    def put_files(self, order: TaskOrder, uploads: list[Upload], stopping: Callable[[], bool]) -> None:
        if self.error:
            raise self.error
        for upload in uploads:
            self.put[upload.path] = upload.file.read_bytes()


class Site:
    """A node around the runner."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        self.settings = settings(folder, **changes)
        self.signer = Signer()
        self.journal = Journal(folder / "journal.db", self.signer)
        self.sources = SourceCache(folder / "git", allow_file=True, timeout=30.0)
        self.holds = Holds(self.settings, self.journal)
        self.airlock = Airlock(self.settings)
        self.policy_file = None
        self.transfers: Any = Transfers()
        self.fake = Launcher()
        self.slots = 0

    def launcher(self, name: str) -> Launcher:
        return self.fake

    @contextmanager
    def slot(self) -> Iterator[None]:
        self.slots += 1
        try:
            yield
        finally:
            self.slots -= 1

    def uploading(self, order: TaskOrder) -> AbstractContextManager[None]:
        return nullcontext()

    def run(self, **changes: Any) -> list[TaskEvent]:
        """Take an order to its end; the events of it."""
        self.attempt = self.taken(**changes)
        runner.run(self.attempt, self)
        return self.events()

    def taken(self, stop: str | None = None, **changes: Any) -> Attempt:
        order = an_order(**changes)
        self.journal.receive(order, payload_of(pack(order, self.signer)))
        self.journal.record(order.name, phase=Phase.ACCEPTED, state=State.ACCEPTED)
        return Attempt(order.name, order, self.holds.folder(order), stop=stop)

    def end(self, attempt: Attempt, why: str) -> None:
        attempt.stop = why
        self.fake.ended.set()

    def events(self) -> list[TaskEvent]:
        return [unpack(body, OPEN)[0] for _, _, body in self.journal.pending(999)]  # type: ignore[misc]

    @property
    def manifest(self) -> Manifest:
        message, _ = unpack(self.transfers.put["manifest.json"], OPEN)
        assert isinstance(message, Manifest)
        return message


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.journal.close()


def states(events: list[TaskEvent]) -> list[State]:
    return [event.state for event in events if event.state]


def test_from_order_to_manifest(site: Site) -> None:
    site.fake.task = lambda sandbox: (sandbox / "out.csv").write_text("a,b")
    events = site.run(outputs=("*.csv",), environment={"A": "b"}, inputs=({"name": "x", "size": 42, "sha256": "a" * 64, "where": "k"},))
    assert states(events) == [State.ACCEPTED, State.STAGING_IN, State.RUNNING, State.STAGING_OUT, State.SUCCEEDED]
    assert [event.number for event in events] == list(range(1, len(events) + 1))
    assert [line for event in events for line in event.lines] == ["line 1", "line 2"]
    assert site.fake.calls == ["prepare", "start", "follow", "remove"]
    assert site.fake.spec is not None
    assert (site.fake.spec.image, site.fake.spec.environment, site.fake.spec.source) == ("sha256:1", {"A": "b"}, None)
    assert list(site.transfers.put) == ["outputs/out.csv", "logs/run.log", "manifest.json"]
    assert site.transfers.put["logs/run.log"] == b"line 1\nline 2\n"
    assert [(file.path, file.size) for file in site.manifest.files] == [("outputs/out.csv", 3), ("logs/run.log", 14)]
    report = events[-1].report
    assert report is not None
    assert (report.exit_code, report.usage, report.bytes_in, report.bytes_out) == (0, EXIT.usage, 42, 17)
    assert report.manifest_sha256 is not None
    assert events[-1].reason is None
    assert not site.attempt.folder.root.exists()
    assert site.journal.unfinished() == []
    assert site.slots == 0


JUDGED = [
    (None, EXIT, State.SUCCEEDED, None),
    (None, replace(EXIT, code=3), State.FAILED, "exit-code"),
    (None, replace(EXIT, code=137, out_of_memory=True), State.FAILED, "out-of-memory"),
    ("cancelled", EXIT, State.CANCELLED, None),
    ("cancelled", replace(EXIT, code=137), State.CANCELLED, None),
    ("timeout", EXIT, State.SUCCEEDED, None),
    ("timeout", replace(EXIT, code=143), State.FAILED, "timeout"),
    ("timeout", replace(EXIT, code=137, out_of_memory=True), State.FAILED, "timeout"),
    ("deadline", replace(EXIT, code=143), State.FAILED, "deadline"),
]


@pytest.mark.parametrize(("stop", "exit_", "state", "code"), JUDGED)
def test_what_an_exit_means(site: Site, stop: str | None, exit_: Exit, state: State, code: str | None) -> None:
    found, reason = runner._judged(site.taken(stop=stop), exit_)
    assert (found, reason and reason.code) == (state, code)
    assert reason is None or reason.fault is Fault.USER


def test_reasons_are_told_in_words(site: Site) -> None:
    assert runner._judged(site.taken(), replace(EXIT, code=3))[1] == Reason(
        code="exit-code", fault=Fault.USER, message="the task ended with exit code 3"
    )
    memory = runner._judged(site.taken(resources={"memory": "1GiB"}), replace(EXIT, code=137, out_of_memory=True))[1]
    assert memory is not None
    assert memory.message == "the task needed more than its 1,073,741,824 bytes of memory"


@pytest.mark.parametrize("stop", sorted(runner.STOPS))
def test_what_is_stopped_before_it_started_never_starts(site: Site, stop: str) -> None:
    events = site.run(stop=stop)
    assert states(events) == [State.ACCEPTED, runner.STOPS[stop][0]]
    assert "start" not in site.fake.calls
    assert site.transfers.put == {}
    assert site.slots == 0


@pytest.mark.parametrize(
    ("error", "state", "fault"),
    [
        (TaskFailed("no image", code="image-missing", remedy="push it"), State.FAILED, Fault.USER),
        (PolicyRefused("never pulled", code="image-refused"), State.REJECTED, Fault.POLICY),
        (LauncherUnavailable("no engine"), State.FAILED, Fault.INFRASTRUCTURE),
    ],
)
@pytest.mark.parametrize("step", ["prepare", "start"])
def test_what_fails_before_the_start(site: Site, error: FdnError, state: State, fault: Fault, step: str) -> None:
    site.fake.step, site.fake.error = step, error
    events = site.run()
    assert states(events) == [State.ACCEPTED, State.STAGING_IN, state]
    assert events[-1].reason == Reason(code=error.code, fault=fault, message=str(error))
    assert site.transfers.put == {}
    assert not site.attempt.folder.root.exists()


def test_a_disk_that_is_full_is_the_nodes_fault(site: Site) -> None:
    def full(order: TaskOrder, folder: Path, stopping: Callable[[], bool]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    site.transfers.get_inputs = full
    last = site.run(inputs=({"name": "x", "size": 42, "sha256": "a" * 64, "where": "k"},))[-1]
    assert last.state is State.FAILED
    assert last.reason is not None
    assert (last.reason.code, last.reason.fault) == ("node-disk", Fault.INFRASTRUCTURE)
    assert "No space left on device" in last.reason.message
    assert site.slots == 0


def test_what_vanished_is_lost(site: Site) -> None:
    site.fake.step, site.fake.error = "follow", RunVanished("gone")
    events = site.run()
    assert states(events)[-1] is State.LOST
    assert events[-1].reason == Reason(code="vanished", fault=Fault.INFRASTRUCTURE, message="gone")


def test_a_failed_tasks_log_leaves_and_its_outputs_do_not(site: Site) -> None:
    site.fake.exit = replace(EXIT, code=3)
    site.fake.task = lambda sandbox: (sandbox / "out.csv").write_text("half")
    events = site.run(outputs=("*.csv",))
    assert list(site.transfers.put) == ["logs/run.log", "manifest.json"]
    assert (events[-1].state, site.manifest.exit_code) == (State.FAILED, 3)


def test_outputs_that_are_missing_fail_the_run(site: Site) -> None:
    events = site.run(outputs=("*.csv",))
    reason = events[-1].reason
    assert reason is not None
    assert (events[-1].state, reason.code, reason.fault) == (State.FAILED, "output-missing", Fault.USER)
    assert "'*.csv'" in reason.message
    assert list(site.transfers.put) == ["logs/run.log", "manifest.json"]


@pytest.mark.parametrize(
    ("error", "state", "code"),
    [
        (StoreUnavailable("away"), State.FAILED, "store-unavailable"),
        (PolicyRefused("fenced", code="fenced"), State.FAILED, "fenced"),
        (TaskFailed("changed", code="output-changed"), State.FAILED, "output-changed"),
    ],
)
def test_outputs_that_cannot_leave(site: Site, error: FdnError, state: State, code: str) -> None:
    site.transfers.error = error
    events = site.run()
    reason, report = events[-1].reason, events[-1].report
    assert reason is not None
    assert report is not None
    assert (events[-1].state, reason.code, report.manifest_sha256) == (state, code, None)


def test_a_cancel_while_outputs_leave(site: Site) -> None:
    site.transfers.error = Stopped()
    events = site.run()
    assert states(events)[-2:] == [State.STAGING_OUT, State.CANCELLED]


@pytest.mark.parametrize(
    ("stop", "state", "stops"),
    [
        ("cancelled", State.SUCCEEDED, True),
        ("cancelled", State.CANCELLED, False),
        ("timeout", State.SUCCEEDED, False),
        (None, State.FAILED, False),
    ],
)
def test_only_a_cancel_stops_what_succeeded_on_its_way_out(site: Site, stop: str | None, state: State, stops: bool) -> None:
    assert runner._unless_ended(site.taken(stop=stop), state)() is stops


def test_a_restart_goes_on_with_what_runs(site: Site) -> None:
    """As after a kill between start and end: the launcher is asked to follow, not to start."""
    attempt = site.taken()
    attempt.folder.make()
    site.journal.record(
        attempt.name, phase=Phase.STARTED, state=State.RUNNING, started=(now() - timedelta(hours=2)).isoformat(), launcher="process"
    )
    runner.run(attempt, site)
    assert site.fake.calls == ["follow", "remove"]
    assert attempt.ends is not None
    assert attempt.ends < time.monotonic(), "its time was counted from when it started"
    assert site.events()[-1].state is State.SUCCEEDED


@pytest.mark.parametrize("phase", [Phase.EXITED, Phase.UPLOADED])
def test_a_restart_goes_on_with_what_ended(site: Site, phase: Phase) -> None:
    attempt = site.taken()
    attempt.folder.make()
    outcome = '{"state": "FAILED", "reason": null, "report": {"exit_code": 3}, "files": []}'
    site.journal.record(attempt.name, phase=phase, state=State.STAGING_OUT, outcome_json=outcome, launcher="process")
    runner.run(attempt, site)
    assert site.fake.calls == ["remove"]
    assert list(site.transfers.put) == (["manifest.json"] if phase is Phase.EXITED else [])
    last = site.events()[-1]
    assert (last.state, last.report and last.report.exit_code) == (State.FAILED, 3)


def test_what_cannot_be_written_down_is_not_concluded(site: Site) -> None:
    site.fake.step, site.fake.error = "follow", JournalUnavailable("disk full")
    attempt = site.taken()
    with pytest.raises(JournalUnavailable):
        runner.run(attempt, site)
    entry = site.journal.entry(attempt.name)
    assert entry is not None
    assert (entry.phase, entry.state) == (Phase.STARTED, State.RUNNING)
    assert "remove" not in site.fake.calls


@pytest.mark.parametrize("error", [SystemFault("engine away"), OSError(13, "Permission denied")])
def test_what_cannot_be_cleared_away_now_is_no_failure(site: Site, error: Exception) -> None:
    site.fake.step, site.fake.error = "remove", error  # type: ignore[assignment]
    assert site.run()[-1].state is State.SUCCEEDED
    assert site.journal.unfinished() == []


def test_a_stop_that_came_while_it_started_is_passed_on(site: Site) -> None:
    site.fake.task = lambda _: setattr(site.attempt, "stop", "cancelled")
    site.fake.exit = replace(EXIT, code=143)
    site.attempt = site.taken()
    runner.run(site.attempt, site)
    assert site.fake.calls == ["prepare", "start", "stop", "follow", "remove"]
    assert site.events()[-1].state is State.CANCELLED


def test_a_site_that_keeps_its_logs(tmp_path: Path) -> None:
    site = Site(tmp_path, logs="never")
    events = site.run()
    assert [line for event in events for line in event.lines] == []
    assert list(site.transfers.put) == ["manifest.json"]
    site.journal.close()


def test_an_attempt_may_be_told_to_stop_from_any_thread(site: Site) -> None:
    attempt = site.taken()
    assert not attempt.stopping()
    thread = threading.Thread(target=setattr, args=(attempt, "stop", "timeout"))
    thread.start()
    thread.join()
    assert attempt.stopping()


def test_a_report_survives_the_journal(site: Site) -> None:
    site.fake.exit = replace(EXIT, usage=Usage(cpu_seconds=0.25, peak_memory=9, estimated=True))
    assert site.run()[-1].report == Report(
        launcher="process", image_digest="sha256:1", exit_code=0, usage=site.fake.exit.usage, bytes_out=14,
        manifest_sha256=site.events()[-1].report.manifest_sha256, release=site.manifest.release,  # type: ignore[union-attr]
    )  # fmt: skip


# Servers


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, address="127.0.0.1", ports="25000-25999")
    yield site
    site.journal.close()


PORTS = (Port(container=80), Port(container=81))


def test_ports_are_told_once_all_are_open(serving: Site) -> None:
    serving.fake.open = {80}
    looks: list[set[int]] = []

    def listening(name: str, ports: Mapping[int, int]) -> set[int]:
        looks.append(set(serving.fake.open))
        if len(looks) == 2:
            raise LauncherUnavailable("away for a moment")
        if len(looks) == 3:
            serving.fake.open.add(81)
        return serving.fake.open

    serving.fake.listening = listening  # type: ignore[method-assign]
    serving.journal.on_event = lambda: serving.fake.ended.set() if any(event.listening for event in serving.events()) else None
    events = serving.run(ports=PORTS)
    (told,) = [event for event in events if event.listening]
    assert told.state is None
    assert [(end.port, end.host) for end in told.listening] == [(80, "127.0.0.1"), (81, "127.0.0.1")]
    assert serving.fake.spec is not None
    assert {end.port: end.published for end in told.listening} == serving.fake.spec.ports
    assert (serving.fake.spec.network, serving.fake.spec.bind) == (True, "127.0.0.1")
    assert looks[:3] == [{80}] * 3
    assert events[-1].state is State.SUCCEEDED


@pytest.mark.parametrize("code", [0, 143])
def test_ports_that_do_not_open_in_time_end_the_task(serving: Site, code: int) -> None:
    serving.fake.open, serving.fake.exit = {80}, replace(EXIT, code=code)
    last = serving.run(ports=PORTS, listen_within=0.1)[-1]
    assert last.state is State.FAILED
    assert last.reason is not None
    assert (last.reason.code, last.reason.fault) == ("port-not-open", Fault.USER)


def test_a_server_that_ends_before_is_judged_by_its_end(serving: Site) -> None:
    serving.fake.ended.set()
    events = serving.run(ports=PORTS)
    assert not any(event.listening for event in events)
    assert events[-1].state is State.SUCCEEDED
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("ports-")]


def test_a_port_that_is_taken_is_no_fault_of_the_user(serving: Site) -> None:
    with socket.create_server(("127.0.0.1", 25001)):
        last = serving.run(ports=(Port(container=80, host=25001),))[-1]
    assert last.reason is not None
    assert (last.state, last.reason.code, last.reason.fault) == (State.FAILED, "port-taken", Fault.INFRASTRUCTURE)
    assert serving.slots == 0


def test_a_move_that_fails_fails_the_run_and_no_output_leaves(tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    site = Site(tmp_path, shelves={"models": tmp_path / "shelf"})
    site.fake.task = lambda sandbox: (sandbox / "out").write_text("x")
    last = site.run(outputs=("out",), moves=({"source": "model", "shelf": "models", "to": "x"},))[-1]
    assert last.reason is not None
    assert (last.state, last.reason.code) == (State.FAILED, "move-refused")
    assert list(site.transfers.put) == ["logs/run.log", "manifest.json"]
    site.journal.close()


def test_a_move_that_was_made_before_a_kill_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "shelf").mkdir()
    site = Site(tmp_path, shelves={"models": tmp_path / "shelf"})
    attempt = site.taken(moves=({"source": "m", "shelf": "models", "to": "a/b"},))
    attempt.folder.make()
    (attempt.folder.sandbox / "m").mkdir()
    (attempt.folder.sandbox / "m/file").write_text("new")
    shelve(attempt.order, attempt.folder, site.settings)
    inode = (tmp_path / "shelf/a/b").stat().st_ino
    shelve(attempt.order, attempt.folder, site.settings)
    assert (tmp_path / "shelf/a/b").stat().st_ino == inode
    # The same place, but not of this attempt.
    (tmp_path / "shelf/a/b").rename(tmp_path / "shelf/c")
    (tmp_path / "shelf/a/b").mkdir()
    with pytest.raises(TaskFailed, match="'a/b' is on shelf 'models' already"):
        shelve(attempt.order, attempt.folder, site.settings)
    site.journal.close()
