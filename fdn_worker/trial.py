"""What this node would say of an order, and why: `fdn-worker policy test`, and the node's page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from fdn_worker import launchers
from fdn_worker.errors import PolicyRefused, SettingsError
from fdn_worker.journal import Journal
from fdn_worker.policy import PolicyFile, Runs, bounds, by_policy
from fdn_worker.policy.judge import Reading, explain
from fdn_worker.policy.written import parse_order, read_order
from fdn_worker.protocol import Signer, TaskOrder
from fdn_worker.settings import WorkerSettings


@dataclass(frozen=True)
class Trial:
    """The decision as it would be, and what every rule says."""

    refused: tuple[PolicyRefused, ...]
    #: The rule that decides; None where none does.
    rule: str | None
    policy: str
    readings: tuple[Reading, ...]

    def said(self) -> str:
        """On one line."""
        return f"{'refused' if self.refused else 'accepted'}{f' by rule {self.rule}' if self.rule else ''}"

    def of_rule(self, reading: Reading) -> str:
        """What a rule says of the order."""
        if reading.reasons:
            return f"{'does not apply' if reading.rule.effect == 'deny' else 'falls short'}: {', '.join(reading.reasons)}"
        return "decides" if reading.rule.id == self.rule else "would, but another one comes first"

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "accepted": not self.refused, "rule": self.rule, "policy": self.policy,
            "refusals": [{"code": refusal.code, "message": str(refusal)} for refusal in self.refused],
            "rules": [{"id": one.rule.id, "effect": one.rule.effect, "reasons": list(one.reasons)} for one in self.readings],
        }  # fmt: skip


def policy_file(settings: WorkerSettings, other: Path | None = None) -> PolicyFile:
    """The site's policy, or another one."""
    path = other or settings.policy
    if path is None:
        raise SettingsError("these settings name no policy", remedy="set `policy` in them, or name a file with --policy")
    return PolicyFile(path)


def journal_if_there(settings: WorkerSettings) -> Journal | None:
    """The node's journal; None where no worker ever ran: then no rule has let anything in."""
    path = settings.state_dir / "journal.db"
    return Journal(path, Signer()) if path.exists() else None


def named(text: str, settings: WorkerSettings, journal: Journal | None, moment: datetime) -> TaskOrder:
    """The order in the file of that name, or of the run whose id begins so."""
    if Path(text).exists() or os.sep in text or journal is None:
        return read_order(Path(text), settings.node, moment)
    return _of_run(text, journal)


def written(text: str, settings: WorkerSettings, journal: Journal | None, moment: datetime) -> TaskOrder:
    """The order that somebody typed: as TOML or JSON, or the beginning of a run's id. No file is read."""
    word = text.strip()
    if journal is not None and word and all(character in "0123456789abcdef-" for character in word.lower()):
        return _of_run(word.lower(), journal)
    return parse_order(text, "as typed", settings.node, moment)


def _of_run(text: str, journal: Journal) -> TaskOrder:
    found = [entry.order for entry in journal.recent(-1) if str(entry.run).startswith(text) and entry.order is not None]
    if len({order.run for order in found}) != 1:
        raise SettingsError(
            f"{text!r} is no file, and {'the beginning of several runs' if found else 'no run that was here'}",
            remedy="see `fdn-worker runs`, or write the order into a file",
        )
    return found[0]


def trial(order: TaskOrder, settings: WorkerSettings, file: PolicyFile, journal: Journal | None, moment: datetime) -> Trial:
    """Judge an order as the worker would at `moment`. SettingsError while the policy is broken."""

    def runs(rule: str) -> Runs:
        return Runs(*journal.let_in(rule)) if journal else Runs()

    current = file.current()
    decision = by_policy(order, settings, moment, file, runs)
    name = order.launcher or settings.launcher
    beside = list(bounds.refusals(order, settings, moment))
    if name in settings.allowed_launchers:
        launcher = launchers.load(name, settings.launchers.get(name, {}), settings.state_dir / name)
        beside += launchers.refusals(launcher, order, decision.keep_to)
    readings = explain(current, order, settings.launcher, moment, runs)
    return Trial((*decision.refusals, *beside), decision.rule, current.digest, tuple(readings))
