"""One attempt, from order to manifest: a linear procedure that a restarted worker enters where it was.

1. stage in    ports, folders, datasets, image, source, inputs   phase accepted
2. start       the launcher starts it, or adopts what runs       phase started
3. follow      log lines and open ports out, until it has ended  phase exited
4. collect     how it ended; its outputs, hashed, and moves made (the slot is free from here)
5. release     what the site's rules let go; or it is held here until its person has spoken, with no thread   phase held
6. stage out   log and outputs up, the manifest last             phase uploaded
7. finish      the last event; launcher and folders cleared      phase done
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Protocol

from fdn_worker import disk, folders, policy, site_secrets
from fdn_worker.errors import Fault, FdnError, JournalUnavailable, PolicyRefused, SystemFault
from fdn_worker.holds import Hold, Holds, bind_address
from fdn_worker.journal import Decided, Entry, Journal, Phase, outcome_json, read_outcome
from fdn_worker.launchers import Bind, Exit, Launcher, LaunchSpec
from fdn_worker.logs import LogSink
from fdn_worker.protocol import Endpoint, Manifest, ManifestFile, Mount, Reason, Report, Signer, State, TaskOrder, Usage, now, pack
from fdn_worker.protocol.manifest import LOG_PATH, MANIFEST_PATH
from fdn_worker.release.airlock import UNRELEASED, Airlock, Leaving, conclude, waits, withheld
from fdn_worker.release.register import Releases
from fdn_worker.sandbox import RunFolder, collect, describe
from fdn_worker.serving import watching
from fdn_worker.settings import WorkerSettings
from fdn_worker.shelves import shelve
from fdn_worker.source import SourceCache
from fdn_worker.transfer import Transfers, Upload
from fdn_worker.way import Stopped

log = logging.getLogger(__name__)

#: What ends an attempt before its own end: stop word -> (state, code, fault, message).
STOPS = {
    "cancelled": (State.CANCELLED, None),
    "timeout": (State.FAILED, Reason(code="timeout", fault=Fault.USER, message="the task ran longer than its timeout")),
    "deadline": (State.FAILED, Reason(code="deadline", fault=Fault.USER, message="the execution's deadline passed before the task's end")),
    "disk-exceeded": (State.FAILED, Reason(
        code="disk-exceeded", fault=Fault.USER,
        message="the sandbox grew beyond the disk that the task asked for, or beyond the node's caps on files and folders in folders",
    )),
    "port-not-open": (State.FAILED, Reason(code="port-not-open", fault=Fault.USER, message="the task did not open all of its ports in time")),
}  # fmt: skip

#: Codes of errors whose messages name files of the task's.
NAMING = ("output-refused", "move-refused")
CHANGED = Reason(code="output-changed", fault=Fault.INFRASTRUCTURE, message="an output changed at the site while it waited for its release")


class Site(Protocol):
    """What the runner needs of the node around it."""

    settings: WorkerSettings
    journal: Journal
    signer: Signer
    transfers: Transfers
    sources: SourceCache
    holds: Holds
    airlock: Airlock
    #: None where the settings decide alone.
    policy_file: policy.PolicyFile | None

    def launcher(self, name: str) -> Launcher: ...
    def end(self, attempt: Attempt, why: str) -> None: ...
    def slot(self) -> AbstractContextManager[None]: ...
    def uploading(self, order: TaskOrder) -> AbstractContextManager[None]: ...


@dataclass(eq=False)
class Attempt:
    """An attempt in the worker's hands. `stop` may be set from any thread; the journal has it too."""

    name: str
    order: TaskOrder
    folder: RunFolder
    stop: str | None = None
    #: Set while the launcher has it, for whoever stops it.
    running: bool = False
    #: Monotonic moment at which its timeout is over; None before it runs.
    ends: float | None = None
    sink: LogSink | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)

    def stopping(self) -> bool:
        return self.stop is not None


def run(attempt: Attempt, site: Site) -> None:
    """Take the attempt to its end. Returns early only when the process ends; never raises for what a task can cause."""
    name, journal = attempt.name, site.journal
    entry = _entry(journal, name)
    if entry.phase in (Phase.RECEIVED, Phase.ACCEPTED, Phase.STARTED):
        try:
            with site.slot():
                exit_ = _execute(attempt, entry, site)
        except JournalUnavailable:
            raise  # what cannot be written down is not concluded
        except FdnError as error:
            _settle(attempt, site, *_outcome(error), exit_=None)
        except Stopped:
            _settle(attempt, site, *STOPS[attempt.stop or "cancelled"], exit_=None)
        except OSError as error:
            full = SystemFault(f"the node's own files: {error.strerror}", code="node-disk", remedy="tell the site")
            _settle(attempt, site, *_outcome(full), exit_=None)
        else:
            _settle(attempt, site, *_judged(attempt, exit_), exit_=exit_)
    if _entry(journal, name).phase in (Phase.EXITED, Phase.HELD):
        leaving = _release(attempt, site)
        if leaving is None:
            return  # taken up again once a person has spoken, or the wait is over
        _stage_out(attempt, site, leaving)
    _finish(attempt, site)


def _execute(attempt: Attempt, entry: Entry, site: Site) -> Exit:
    """Steps 1 to 3, with a slot."""
    order, name = attempt.order, attempt.name
    launcher = site.launcher(entry.launcher or order.launcher or site.settings.launcher)
    ran = 0.0
    if entry.phase is not Phase.STARTED:
        _go_on(attempt)
        if entry.state is not State.STAGING_IN:
            site.journal.record(name, state=State.STAGING_IN, launcher=order.launcher or site.settings.launcher)
        spec = _stage_in(attempt, launcher, site)
        _go_on(attempt)
        launcher.start(spec)
        site.journal.record(name, phase=Phase.STARTED, state=State.RUNNING, started=now().isoformat(), image=spec.image)
        entry = _entry(site.journal, name)
    else:
        # Across a restart there is only the wall's clock to tell how long it has run.
        ran = max(0.0, (now() - datetime.fromisoformat(entry.started)).total_seconds()) if entry.started else 0.0
    attempt.ends = time.monotonic() + order.timeout - ran
    attempt.sink = LogSink(
        entry, attempt.folder.log, site.journal, site.settings.limits, live=site.settings.logs == "live",
        hidden=site_secrets.lines(order, site.settings),
    )  # fmt: skip
    attempt.running = True
    try:
        if attempt.stopping():
            launcher.stop(name, site.settings.grace)
        with _serving(attempt, launcher, site, order.listen_within - ran), _weighed(attempt, launcher, site):
            return launcher.follow(name, attempt.sink.line, attempt.sink.cursor)
    finally:
        attempt.running = False
        attempt.sink.close()


def _serving(attempt: Attempt, launcher: Launcher, site: Site, within: float) -> AbstractContextManager[None]:
    """Inside, it is told when the attempt's ports are open, or the attempt is ended when they are not in time."""
    hold = site.holds.of(attempt.name) if attempt.order.ports else None
    ports = hold.ports if hold is not None and not hold.listening else {}
    endpoints = [Endpoint(port=port, host=site.settings.address, published=published) for port, published in ports.items()]
    return watching(
        launcher, attempt.name, ports, within,
        opened=lambda: site.journal.record(attempt.name, listening=endpoints), late=lambda: site.end(attempt, "port-not-open"),
    )  # fmt: skip


def _weighed(attempt: Attempt, launcher: Launcher, site: Site) -> AbstractContextManager[None]:
    """Inside, the attempt is ended once its sandbox takes more than it may."""
    most = disk.Weight(attempt.order.resources.disk, site.settings.limits.sandbox_files)
    return disk.watching(launcher, attempt.name, attempt.folder.sandbox, most, lambda: site.end(attempt, "disk-exceeded"))


def _stage_in(attempt: Attempt, launcher: Launcher, site: Site) -> LaunchSpec:
    order, folder, settings = attempt.order, attempt.folder, site.settings
    decision = _decided_again(attempt, site)
    folders.check(order, settings)
    hold = site.holds.take(order) if order.ports or order.sandbox else Hold({}, False)
    folder.make()
    datasets = {name: folders.dataset(name, settings) for name in order.datasets}
    mounts = tuple(_bind(mount, folder, settings) for mount in order.mounts)
    image = launcher.prepare(order.image, order.image_digest)
    _go_on(attempt)
    if order.source is not None:
        site.sources.checkout(order.source, folder.source, site.transfers.get_source(order, folder.root / "source.pack", attempt.stopping))
        _go_on(attempt)
    if order.inputs:
        fetched = site.transfers.get_inputs(order, folder.inputs, attempt.stopping)
        site.journal.record(attempt.name, bytes_in=fetched)
    return LaunchSpec(
        name=attempt.name, node=order.node, argv=order.argv, image=image, environment=order.environment, sandbox=folder.sandbox,
        datasets=datasets, inputs=folder.inputs if order.inputs else None, source=folder.source if order.source else None,
        resources=order.resources, network=order.network or bool(order.ports or order.servers), keep_to=decision.keep_to, variables=settings.variables,
        ports=hold.ports, bind=bind_address(settings) if hold.ports else "", mounts=mounts,
        secrets=site_secrets.lay(order, settings),
    )  # fmt: skip


def _decided_again(attempt: Attempt, site: Site) -> policy.Decision:
    """What the site's policy says as the task is about to start: it may have changed, or run out, since the order came."""
    # By itself it does not use up what it was let in by.
    decision = policy.by_policy(attempt.order, site.settings, now(), site.policy_file, lambda _: policy.Runs())
    if decision.policy is not None and (decided := Decided(decision.rule, decision.policy)) != site.journal.decision(attempt.name):
        site.journal.record(attempt.name, durable=False, decided=decided)
    if decision.refusals:
        raise decision.refusals[0]
    return decision


def _bind(mount: Mount, folder: RunFolder, settings: WorkerSettings) -> Bind:
    if mount.kind == "sandbox":
        return Bind(folders.in_sandbox(mount.source, folder.sandbox), mount.target, read_only=False)
    return Bind(folders.mounted(mount, settings), mount.target)


def _go_on(attempt: Attempt) -> None:
    if attempt.stopping():
        raise Stopped


def _judged(attempt: Attempt, exit_: Exit) -> tuple[State, Reason | None]:
    """What an exit means. A wish to stop explains an end by force, but not one that came before it could work."""
    if attempt.stop is not None and exit_.code != 0:
        return STOPS[attempt.stop]
    # A server that is told to end may well end with 0, and what wrote too much may have been quicker than the watch.
    if attempt.stop in ("cancelled", "port-not-open", "disk-exceeded"):
        return STOPS[attempt.stop]
    if exit_.out_of_memory:
        memory = f"{attempt.order.resources.memory:,}"
        return State.FAILED, Reason(
            code="out-of-memory", fault=Fault.USER, message=f"the task needed more than its {memory} bytes of memory"
        )
    if exit_.code != 0:
        return State.FAILED, Reason(code="exit-code", fault=Fault.USER, message=f"the task ended with exit code {exit_.code}")
    return State.SUCCEEDED, None


def _outcome(error: FdnError) -> tuple[State, Reason]:
    """What an error before the task's own end means."""
    reason = Reason(code=error.code, fault=error.fault, message=str(error))
    if error.code == "vanished":
        return State.LOST, reason
    return (State.REJECTED if isinstance(error, PolicyRefused) else State.FAILED), reason


def _settle(attempt: Attempt, site: Site, state: State, reason: Reason | None, exit_: Exit | None) -> None:
    """Step 4: write down how it ended and what there is to stage out."""
    journal, limits, order = site.journal, site.settings.limits, attempt.order
    entry = _entry(journal, attempt.name)
    files: list[ManifestFile] = []
    site_secrets.clear(attempt.name, site.settings)
    if state is State.SUCCEEDED:
        try:
            found = collect(attempt.folder.sandbox, order.outputs, most_files=limits.output_files, most_bytes=limits.output_bytes)
            files = [file for file, _ in found]
            shelve(order, attempt.folder, site.settings)
        except FdnError as error:
            state, reason, files = State.FAILED, _outcome(error)[1], []
            if site.airlock.closed and error.code in NAMING:
                # The names of what a task leaves are its words, too.
                log.warning("%s: %s", attempt.name, error, extra={"action": "output-refused"})
                reason = reason.model_copy(update={"message": "what the task left is refused; the site's log says what of it"})
    log_file = attempt.folder.log
    if site.settings.logs != "never" and log_file.exists() and log_file.stat().st_size:
        files.append(describe(log_file, LOG_PATH))
    report = Report(
        launcher=entry.launcher, image_digest=entry.image, exit_code=exit_.code if exit_ else None, usage=exit_.usage if exit_ else Usage(),
        bytes_in=entry.bytes_in, bytes_out=sum(file.size for file in files), lines_dropped=entry.lines_dropped,
    )  # fmt: skip
    # Nothing leaves for what never ran: its event says all.
    phase = Phase.EXITED if exit_ is not None else Phase.UPLOADED
    told = State.STAGING_OUT if exit_ is not None else None
    outcome = json.loads(outcome_json(state, reason, report)) | {"files": [file.model_dump(mode="json") for file in files]}
    columns: dict[str, Any] = {"outcome_json": json.dumps(outcome)}
    if exit_ is not None:
        columns |= {"exit_json": json.dumps(asdict(exit_), default=str)}
    journal.record(attempt.name, phase=phase, state=told, **columns)


def _release(attempt: Attempt, site: Site) -> Leaving | None:
    """Step 5. None while it waits for a person."""
    releases, name, order = Releases(site.journal), attempt.name, attempt.order
    entry = _entry(site.journal, name)
    state, reason, _ = read_outcome(entry.outcome_json or "")
    files = [ManifestFile.model_validate(file) for file in json.loads(entry.outcome_json or "")["files"]]
    if entry.phase is Phase.EXITED:
        verdicts = site.airlock.judge(order, [(file, attempt.folder.listed(file.path)) for file in files])
        if not waits(verdicts):
            return conclude(state, reason, files, verdicts)
        if attempt.stop == "cancelled":
            return _without_word(state, reason, files, STOPS["cancelled"])
        _clear(attempt, site)
        releases.hold(order, verdicts)
        log.info("%s waits for its release: `fdn-worker release %s`", name, order.run, extra={"action": "hold"})
        return None
    (held,) = releases.held(name)
    if held.word is None:
        late = order.release_by is not None and now() >= order.release_by
        return _without_word(state, reason, files, (State.FAILED, UNRELEASED) if late else STOPS["cancelled"])
    leaving = conclude(state, reason, files, held.verdicts, held.word)
    return leaving if _as_shown(leaving, attempt.folder) else withheld(State.FAILED, CHANGED, files)


def _without_word(state: State, reason: Reason | None, files: Sequence[ManifestFile], end: tuple[State, Reason | None]) -> Leaving:
    """What failed by itself stays what it was."""
    return withheld(*(end if state is State.SUCCEEDED else (state, reason)), files)


def _as_shown(leaving: Leaving, folder: RunFolder) -> bool:
    """Whether the files are still those about which the person spoke."""
    try:
        return all(describe(folder.listed(file.path), file.path) == file for file in leaving.files)
    except OSError:
        return False


def _stage_out(attempt: Attempt, site: Site, leaving: Leaving) -> None:
    """Step 6. Nothing leaves, no manifest either, where the airlock keeps all of it."""
    entry, order, folder = _entry(site.journal, attempt.name), attempt.order, attempt.folder
    state, reason, files = leaving.state, leaving.reason, leaving.files
    report = read_outcome(entry.outcome_json or "")[2]
    report = report.model_copy(update={"bytes_out": sum(file.size for file in files), "release": leaving.release})
    if leaving.release is not None:
        Releases(site.journal).audit(order, leaving.release, files)
    if leaving.release is not None and not files:
        site.journal.record(attempt.name, durable=False, phase=Phase.UPLOADED, outcome_json=outcome_json(state, reason, report))
        return
    manifest = Manifest(
        execution=order.execution, task=order.task, node=order.node, run=order.run, attempt=order.attempt, at=now(), exit_code=report.exit_code,
        image_digest=report.image_digest, source_commit=order.source.commit if order.source else None, usage=report.usage, files=files,
        release=leaving.release,
    )  # fmt: skip
    sealed = folder.root / MANIFEST_PATH
    sealed.write_bytes(pack(manifest, site.signer))
    uploads = [Upload(file.path, folder.listed(file.path), file.size) for file in files]
    uploads.append(Upload(MANIFEST_PATH, sealed, sealed.stat().st_size))
    try:
        with site.uploading(order):
            site.transfers.put_files(order, uploads, _unless_ended(attempt, state))
        report = report.model_copy(update={"manifest_sha256": describe(sealed, MANIFEST_PATH).sha256})
    except FdnError as error:
        state, reason = _outcome(error)
        state = State.FAILED if state is State.REJECTED else state
    except Stopped:
        state, reason = STOPS[attempt.stop or "cancelled"]
    # The last event, which follows at once, takes it to the disk; cut off in between, the files go up once more.
    site.journal.record(attempt.name, durable=False, phase=Phase.UPLOADED, outcome_json=outcome_json(state, reason, report))


def _unless_ended(attempt: Attempt, state: State) -> Callable[[], bool]:
    """Only a cancel stops the staging out of what succeeded; the log of what was stopped goes up all the same."""
    return lambda: state is State.SUCCEEDED and attempt.stop == "cancelled"


def _finish(attempt: Attempt, site: Site) -> None:
    """Step 7. The last event first: clearing up is not what anybody waits for."""
    entry = _entry(site.journal, attempt.name)
    if entry.phase is Phase.UPLOADED:
        state, reason, report = read_outcome(entry.outcome_json or "")
        site.journal.record(attempt.name, phase=Phase.DONE, state=state, reason=reason, report=report, finished=now().isoformat())
    _clear(attempt, site, folders_too=True)


def _clear(attempt: Attempt, site: Site, *, folders_too: bool = False) -> None:
    """Take away what the launcher has of it, and its folders once nothing waits there."""
    entry = _entry(site.journal, attempt.name)
    try:
        if entry.launcher is not None:
            site.launcher(entry.launcher).remove(attempt.name)
        if folders_too:
            attempt.folder.used()
            attempt.folder.remove()
    except (SystemFault, OSError) as error:
        # Swept when the worker next starts, or by its hourly sweep.
        log.warning("%s is not cleared away yet: %s", attempt.name, error, extra={"action": "sweep-later"})


def _entry(journal: Journal, name: str) -> Entry:
    entry = journal.entry(name)
    assert entry is not None, name
    return entry
