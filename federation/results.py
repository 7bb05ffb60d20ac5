"""The centre's stage-out: the manifest checked against the store, and the account of an attempt."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import zip_longest
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from fdn_worker.errors import Fault, FdnError, MessageError, StoreUnavailable
from fdn_worker.protocol import Manifest, Reason, Report, State, TaskEvent, decode, now
from fdn_worker.protocol.base import check_relative_path
from fdn_worker.protocol.manifest import MANIFEST_PATH, OUTPUTS
from federation.centre import Centre, Submission
from storage.keys import attempt_key, attempt_prefix

#: Objects up to this many bytes are read and hashed when an attempt is closed; larger ones when they are downloaded.
HASHED_AT_ONCE = 8 * 1024**2
#: Seconds for which a link in a report is good.
LINK_SECONDS = 24 * 3600.0
#: Log lines of the tail that a report shows.
TAIL = 20


class ManifestDiffers(FdnError):
    """What stands in the store is not what the node's manifest lists."""

    code = "manifest-differs"


class NotSucceeded(FdnError):
    """An attempt ended otherwise than in success; `result` has all that is known of it."""

    code = "not-succeeded"

    def __init__(self, result: TaskResult) -> None:
        super().__init__(result.explain(), code=result.reason.code if result.reason else str(result.state).lower())
        self.result = result


class FilesDeleted(FdnError):
    """What is asked for was there, and retention has deleted it since."""

    code = "files-deleted"
    fault = Fault.USER


class OutputFile(BaseModel):
    """A file that left the site. `path` is below `outputs/` or `logs/`."""

    model_config = ConfigDict(frozen=True)

    path: str
    key: str
    size: int
    sha256: str


class Stage(BaseModel):
    """A state that an attempt was in, since when, and for how many seconds."""

    model_config = ConfigDict(frozen=True)

    state: State
    since: datetime
    seconds: float


class TaskResult(BaseModel):
    """How one attempt ended, and what it left."""

    model_config = ConfigDict(frozen=True)

    execution: UUID
    run: UUID
    task: str
    node: str
    attempt: int
    state: State
    reason: Reason | None = None
    report: Report = Report()
    files: tuple[OutputFile, ...] = ()
    #: Since when its files are gone, by retention.
    cleaned: datetime | None = None
    stages: tuple[Stage, ...] = ()
    tail: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[OutputFile, ...]:
        """The task's own files, without its log."""
        return tuple(file for file in self.files if file.path.startswith(OUTPUTS))

    def explain(self) -> str:
        """One line for people."""
        if self.state is State.SUCCEEDED:
            kept = self.report.release.withheld if self.report.release else 0
            stays = f", {kept} file{'' if kept == 1 else 's'} withheld by the site" if kept else ""
            return f"{self.node}: {self.state}, {len(self.outputs)} output{'' if len(self.outputs) == 1 else 's'}{stays}"
        return f"{self.node}: {self.state}" + (f" ({self.reason.code}): {self.reason.message}" if self.reason else "")


def stage_out(centre: Centre, submission: Submission) -> TaskResult:
    """Check what an ended attempt left, and close the record. A difference is an error, never silence."""
    begin = now()
    result = describe(centre, submission)
    if result.state.terminal:
        centre.records.close_execution(str(submission.execution), result.state)
        traced(centre, submission, result.state, begin)
    return result


def traced(centre: Centre, submission: Submission, state: State, begin: datetime) -> None:
    """Have the run's trace tell that it is over; its stage-out began at `begin`."""
    if centre.traces.on and submission.attempt and state.terminal:
        order = centre.order(submission.run, submission.attempt)
        centre.traces.closed(order, begin, state, centre.attempt(submission.run, 1).issued)


def describe(centre: Centre, submission: Submission) -> TaskResult:
    """How an attempt stands, or ended, and what it left, as the store has it."""
    row = centre.attempt(submission.run, submission.attempt)
    state = State(row.state)
    report = Report.model_validate_json(row.report) if row.report else Report()
    files: tuple[OutputFile, ...] = ()
    cleaned: datetime | None = None
    if report.manifest_sha256 is not None:
        execution = centre.records.execution(str(submission.execution))
        if execution and execution.cleaned and execution.cleaned > row.issued:
            cleaned = execution.cleaned
        else:
            files = tuple(_checked(centre, submission, report.manifest_sha256))
    history = centre.records.events_of(str(submission.run), submission.attempt)
    reason = (
        Reason(code=row.reason_code, fault=row.reason_fault, message=row.reason_message or "")
        if row.reason_code and row.reason_fault
        else None
    )
    return TaskResult(
        execution=submission.execution, run=submission.run, task=submission.task, node=submission.node, attempt=submission.attempt,
        state=state, reason=reason, report=report, files=files, cleaned=cleaned, stages=tuple(stages(history)), tail=_tail(history),
    )  # fmt: skip


def stages(history: Sequence[TaskEvent]) -> Iterator[Stage]:
    """The states of an attempt in order, each with the seconds until the next (0 for the last)."""
    told = [event for event in history if event.state is not None]
    for event, following in zip_longest(told, told[1:]):
        assert event is not None
        assert event.state is not None
        yield Stage(state=event.state, since=event.at, seconds=(following.at - event.at).total_seconds() if following else 0.0)


def _tail(history: Sequence[TaskEvent]) -> tuple[str, ...]:
    lines: list[str] = []
    for event in reversed(history):
        lines = [*event.lines, *lines]
        if len(lines) >= TAIL:
            break
    return tuple(lines[-TAIL:])


def listed(centre: Centre, submission: Submission, sha256: str) -> list[OutputFile]:
    """The files of the manifest with that hash, as the node signed it. Whether the store has them is not looked at."""
    place = (submission.execution, submission.task, submission.node, submission.attempt)
    sealed = _read(centre, attempt_key(*place, MANIFEST_PATH))
    if hashlib.sha256(sealed).hexdigest() != sha256:
        raise ManifestDiffers(f"the manifest of {submission.node}, attempt {submission.attempt}, is not the one that the node told of")
    # Also by a key that was revoked since: the event that told of the hash was checked when it came.
    ring = centre.records.keys.ring(of=submission.node, unsigned_ok=centre.settings.embedded)
    try:
        manifest = decode(ring.open(sealed).payload)
    except MessageError as error:
        raise ManifestDiffers(f"the manifest of {submission.node}: {error.message}") from error
    if not isinstance(manifest, Manifest) or (manifest.run, manifest.attempt) != (submission.run, submission.attempt):
        raise ManifestDiffers(f"the manifest of {submission.node} is of another attempt")
    prefix = attempt_prefix(*place)
    return [OutputFile(path=file.path, key=prefix + file.path, size=file.size, sha256=file.sha256) for file in manifest.files]


def _checked(centre: Centre, submission: Submission, sha256: str) -> Iterator[OutputFile]:
    """The manifest's files, each found in the store as the manifest says, and nothing beside them."""
    files = listed(centre, submission, sha256)
    prefix = attempt_prefix(submission.execution, submission.task, submission.node, submission.attempt)
    there = {info.key.removeprefix(prefix): info.size for info in centre.store.list(prefix)}
    del there[MANIFEST_PATH]
    for file in files:
        if there.pop(file.path, None) != file.size:
            raise ManifestDiffers(
                f"{file.path} of {submission.node} is missing in the store, or has another size than the manifest's {file.size:,}"
            )
        if file.size <= HASHED_AT_ONCE and hashlib.sha256(_read(centre, file.key)).hexdigest() != file.sha256:
            raise ManifestDiffers(f"{file.path} of {submission.node} has another SHA-256 in the store than in the manifest")
        yield file
    if there:
        raise ManifestDiffers(f"the store holds {sorted(there)[0]} of {submission.node}, which the manifest does not list")


def links(centre: Centre, result: TaskResult) -> dict[str, str]:
    """Path -> a URL that gives the file for a day."""
    return {file.path: centre.store.get_url(file.key, LINK_SECONDS) for file in result.files}


def _read(centre: Centre, key: str) -> bytes:
    return b"".join(centre.store.get(key))


def download(centre: Centre, file: OutputFile, folder: Path, told: Callable[[int], None] = lambda _: None) -> Path:
    """Fetch one file below `folder`, going on where an earlier try stopped; checked, and whole or not there.

    `told` hears of the bytes as they come, and of those that are there already.
    """
    target = folder / check_relative_path(file.path)
    if target.exists() and target.stat().st_size == file.size and _sha256(target) == file.sha256:
        told(file.size)
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    offset = partial.stat().st_size if partial.exists() else 0
    if offset > file.size:
        partial.unlink()
        offset = 0
    told(offset)
    if offset < file.size or not partial.exists():
        with partial.open("ab") as sink:
            for chunk in centre.store.get(file.key, offset=offset):
                sink.write(chunk)
                told(len(chunk))
    if _sha256(partial) != file.sha256:
        partial.unlink()
        raise StoreUnavailable(f"{file.path}: what came is not what the manifest lists", code="download-corrupted", remedy="try again")
    partial.replace(target)
    return target


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
