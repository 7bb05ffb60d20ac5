"""What the site's rules say of an attempt's files, and what follows from that and from a person's word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from fdn_worker.errors import Fault
from fdn_worker.globs import Glob
from fdn_worker.protocol import ManifestFile, Reason, Release, State, TaskOrder, now
from fdn_worker.protocol.base import Moment
from fdn_worker.protocol.manifest import LOG_PATH, OUTPUTS
from fdn_worker.release import checks
from fdn_worker.release.kinds import Kind, kind_of
from fdn_worker.release.rules import DEFAULT, Rule
from fdn_worker.settings import WorkerSettings

#: Stands for a rule where the log's lines have left as they came.
LIVE = "logs-live"
#: Nobody spoke in time.
UNRELEASED = Reason(code="unreleased", fault=Fault.POLICY, message="the site did not let the outputs leave within the time for it")


class Verdict(BaseModel):
    """What the rules say of one file. Findings may quote it, so they stay at the site."""

    model_config = ConfigDict(frozen=True)

    path: str
    size: int
    kind: Kind | None
    action: Literal["release", "hold", "deny"]
    #: The rule that decided.
    rule: str
    findings: tuple[str, ...] = ()


class Word(BaseModel):
    """What a person said: the paths that may leave. None of them: nothing leaves at all."""

    model_config = ConfigDict(frozen=True)

    person: str
    at: Moment
    files: tuple[str, ...]
    why: str = ""


@dataclass(frozen=True)
class Leaving:
    """How an attempt ends after all, and the files that leave."""

    state: State
    reason: Reason | None
    files: tuple[ManifestFile, ...]
    release: Release | None


@dataclass(frozen=True)
class _Candidate:
    file: ManifestFile
    local: Path
    kind: Kind

    @property
    def log(self) -> bool:
        return self.file.path == LOG_PATH


class Airlock:
    """The site's rules, with their checks made ready. SettingsError when a check is not there, or an option of it is wrong."""

    def __init__(self, settings: WorkerSettings) -> None:
        self._section, self._live = settings.release, settings.logs == "live"
        self._checks = {
            rule.id: [(name, checks.load(name, options)) for name, options in rule.checks.items()] for rule in self._section.rules
        }

    @property
    def closed(self) -> bool:
        """Whether anything that a task makes may be kept here; then what is told of an attempt quotes nothing of it."""
        return self._section.closed or not self._live

    def judge(self, order: TaskOrder, files: Iterable[tuple[ManifestFile, Path]]) -> list[Verdict]:
        """What the rules say of each file, by the first rule that fits it."""
        found: dict[str, Verdict] = {}
        left: list[_Candidate] = []
        for file, local in files:
            if file.path == LOG_PATH and self._live:
                found[file.path] = Verdict(path=file.path, size=file.size, kind=None, action="release", rule=LIVE)
            elif not self._section.closed:
                found[file.path] = Verdict(path=file.path, size=file.size, kind=None, action="release", rule=DEFAULT)
            else:
                left.append(_Candidate(file, local, kind_of(local)))
        for rule in self._section.rules:
            fitting = [one for one in left if _fits_file(rule, one)] if _fits_order(rule, order) else []
            if rule.max_files is None or len(fitting) <= rule.max_files:
                found |= {one.file.path: self._judged(rule, one) for one in fitting}
                left = [one for one in left if one.file.path not in found]
        action: dict[str, Literal["release", "hold", "deny"]] = {"auto": "release", "person": "hold", "deny": "deny"}
        for one in left:
            found[one.file.path] = _verdict(one, action[self._section.otherwise], DEFAULT)
        return [found[path] for path in sorted(found)]

    def _judged(self, rule: Rule, one: _Candidate) -> Verdict:
        if rule.action == "auto":
            return _verdict(one, "release", rule.id)
        if rule.action != "check":
            return _verdict(one, "hold" if rule.action == "person" else "deny", rule.id)
        findings = tuple(f"{name}: {said}" for name, check in self._checks[rule.id] for said in check.findings(one.local))
        if not findings:
            return _verdict(one, "release", rule.id)
        return _verdict(one, "hold" if rule.otherwise == "person" else "deny", rule.id, findings)


def _verdict(one: _Candidate, action: Literal["release", "hold", "deny"], rule: str, findings: tuple[str, ...] = ()) -> Verdict:
    return Verdict(path=one.file.path, size=one.file.size, kind=one.kind, action=action, rule=rule, findings=findings)


def _fits_order(rule: Rule, order: TaskOrder) -> bool:
    labels = order.labels
    if not all(
        not patterns or _any(patterns, value)
        for patterns, value in ((rule.tools, labels.tool), (rule.users, labels.user), (rule.projects, labels.project))
    ):
        return False
    if not rule.datasets:
        return True
    named = [_any(rule.datasets, name) for name in _mounted(order)]
    return all(named) if rule.action in ("auto", "check") else any(named)


def _mounted(order: TaskOrder) -> set[str]:
    """Where the data of an order may come from: datasets, folders of the host, and a kept sandbox, in which any may lie."""
    kept = {f"sandbox:{order.sandbox}"} if order.sandbox is not None else set[str]()
    datasets = {mount.source.partition("/")[0] for mount in order.mounts if mount.kind == "dataset"}
    return {*order.datasets, *datasets, *kept, *(mount.source for mount in order.mounts if mount.kind == "host")}


def _fits_file(rule: Rule, one: _Candidate) -> bool:
    if rule.log != one.log or (rule.max_size is not None and one.file.size > rule.max_size):
        return False
    path = one.file.path.removeprefix(OUTPUTS)
    return (not rule.files or _any(rule.files, path)) and (not rule.kinds or one.kind in rule.kinds)


def _any(patterns: Sequence[str], text: str) -> bool:
    return any(Glob(pattern).matches(text) for pattern in patterns)


def waits(verdicts: Iterable[Verdict]) -> bool:
    """Whether a person is to decide."""
    return any(verdict.action == "hold" for verdict in verdicts)


def conclude(
    state: State, reason: Reason | None, files: Sequence[ManifestFile], verdicts: Sequence[Verdict], word: Word | None = None
) -> Leaving:
    """What leaves of an attempt that ended as `state`, by the rules and a person's word, if there is one.

    An attempt that failed by itself stays what it was, whatever is said of its log. One that succeeded fails when a person
    says that nothing leaves, or when no output of several does.
    """
    chosen = set(word.files) if word is not None else set()
    go = {one.path for one in verdicts if one.action == "release" or (one.action == "hold" and one.path in chosen)}
    if word is not None and not chosen:
        go = set()
    leaving = tuple(file for file in files if file.path in go)
    release = Release(
        verdict="released" if len(leaving) == len(files) else "partly" if leaving else "denied",
        rules=tuple(sorted({one.rule for one in verdicts if one.path in go and one.path not in chosen})),
        person=word.person if word is not None else "", why=word.why if word is not None else "",
        at=word.at if word is not None else now(), withheld=len(files) - len(leaving),
    )  # fmt: skip
    outputs = [file for file in files if file.path.startswith(OUTPUTS)]
    denied = (word is not None and not chosen) or (outputs and not any(file.path in go for file in outputs))
    if state is State.SUCCEEDED and denied:
        said = f": {release.why}" if release.why else ""
        reason = Reason(code="release-denied", fault=Fault.POLICY, message=f"the site does not let the outputs leave{said}")
        return Leaving(State.FAILED, reason, leaving, release)
    return Leaving(state, reason, leaving, release if files else None)


def withheld(state: State, reason: Reason | None, files: Sequence[ManifestFile]) -> Leaving:
    """The end of an attempt of which nothing leaves."""
    return Leaving(state, reason, (), Release(verdict="denied", at=now(), withheld=len(files)) if files else None)
