"""A policy's reading of an order: pure, so that a plan and the order itself get one answer.

1. A rule that denies and whose conditions all hold refuses the order.
2. Else the first rule in the file that allows all of it takes it; no two rules are added up.
3. Else it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import PurePosixPath
from typing import TypeVar

from fdn_worker.errors import PolicyRefused
from fdn_worker.policy.document import Policy, Rule, Runs
from fdn_worker.policy.names import image_digest, image_matches, image_name, matches, source_matches, source_name
from fdn_worker.protocol import TaskOrder
from fdn_worker.protocol.image import vouches

#: Rules that a refusal tells of, what it tells of each, and characters of what it quotes from the order.
MOST_RULES, MOST_REASONS, MOST_QUOTED = 3, 4, 80
#: Kinds of network that an order may need -> what grants it.
_GIVES = {"nothing": ("none", "server", "proxy", "open"), "server": ("server", "open"), "network": ("proxy", "open")}
_KINDS = {"server": "to be, or to reach, a server of its execution", "network": "a network"}
N = TypeVar("N")


@dataclass(frozen=True)
class Reading:
    """A rule, and why it has no say here; nothing for one that has."""

    rule: Rule
    reasons: tuple[str, ...]


class Asked:
    """An order in the words of a policy. `own` is the launcher of orders that name none."""

    def __init__(self, policy: Policy, order: TaskOrder, own: str) -> None:
        self.policy, self.order, self.own = policy, order, own
        self.launcher = order.launcher or own
        self.digest = image_digest(order.image, order.image_digest)
        self.image = image_name(order.image) if order.image else None
        mounted = {mount.source.partition("/")[0] for mount in order.mounts if mount.kind == "dataset"}
        self.datasets = sorted(mounted | set(order.datasets))
        self.host_paths = sorted({mount.source for mount in order.mounts if mount.kind == "host"})
        self.shelves = sorted({move.shelf for move in order.moves})
        self.source = source_name(order.source.repository) if order.source else None
        # Who is, or has, a server asks for the network on its account.
        self.network = "server" if order.ports or order.servers else "network" if order.network else "nothing"

    @cached_property
    def signers(self) -> frozenset[str]:
        """Names of those who signed the image's digest."""
        signature, digest = self.order.image_signature, self.digest
        if signature is None or digest is None:
            return frozenset()
        return frozenset(name for name, key in self.policy.signers.items() if vouches(key, digest, signature))


def judge(
    policy: Policy, order: TaskOrder, own_launcher: str, moment: datetime, runs: Callable[[str], Runs]
) -> tuple[Rule | None, PolicyRefused | None]:
    """The rule that decided, None where no rule did; and the refusal, None for an order that is taken."""
    asked = Asked(policy, order, own_launcher)
    for rule in policy.rule:
        if rule.effect == "deny" and not any(_without_say(rule, asked, moment)):
            return rule, PolicyRefused(
                f"rule {rule.id} of node {order.node}'s policy denies it", code="policy-denied", remedy="ask the site"
            )
    for rule in policy.rule:
        if rule.effect == "allow" and not any(_short(rule, asked, moment, runs)):
            return rule, None
    return None, _refused(
        asked, [reading for reading in explain(policy, order, own_launcher, moment, runs) if reading.rule.effect == "allow"]
    )


def explain(policy: Policy, order: TaskOrder, own_launcher: str, moment: datetime, runs: Callable[[str], Runs]) -> list[Reading]:
    """Every rule, in the file's order, with every reason why it has no say."""
    asked = Asked(policy, order, own_launcher)
    return [
        Reading(rule, tuple(_without_say(rule, asked, moment) if rule.effect == "deny" else _short(rule, asked, moment, runs)))
        for rule in policy.rule
    ]


def _refused(asked: Asked, readings: list[Reading]) -> PolicyRefused:
    """No rule allows it: those that come nearest say what they miss. Of a rule's own contents only limits are told."""
    near = sorted(readings, key=lambda reading: len(reading.reasons))[:MOST_RULES]
    told = "; ".join(f"{reading.rule.id}: {', '.join(reading.reasons[:MOST_REASONS])}" for reading in near)
    return PolicyRefused(
        f"no rule of node {asked.order.node}'s policy allows it{f' ({told})' if told else ''}", code="policy-denied", remedy="ask the site"
    )  # fmt: skip


def _short(rule: Rule, asked: Asked, moment: datetime, runs: Callable[[str], Runs]) -> Iterator[str]:
    """In what an allowing rule falls short of the order."""
    order = asked.order
    yield from _conditions(rule, asked, moment)
    if not _any(rule.launchers or (asked.own,), asked.launcher, matches):
        yield f"launcher {_quoted(asked.launcher)} is not among its launchers"
    if order.source is not None and not _from(rule, asked):
        yield f"source {_quoted(order.source.repository)} is not granted"
    if rule.network not in _GIVES[asked.network]:
        yield f"{_KINDS[asked.network]} is not granted"
    for what, patterns, names in (
        ("dataset", rule.datasets, asked.datasets),
        ("shelf", rule.shelves, asked.shelves),
        ("secret", rule.secrets, order.secrets),
    ):
        yield from (f"{what} {_quoted(name)} is not granted" for name in names if not _any(patterns, name, matches))
    for path in asked.host_paths:
        if not any(PurePosixPath(path).is_relative_to(root) for root in rule.host_paths or ()):
            yield f"path {_quoted(path)} is not granted"
    if order.sandbox is not None and not rule.keep_sandboxes:
        yield "a kept sandbox is not granted"
    yield from _limits(rule, asked, runs)


def _limits(rule: Rule, asked: Asked, runs: Callable[[str], Runs]) -> Iterator[str]:
    need = asked.order.resources
    pairs: tuple[tuple[str, float, float | None], ...] = (
        ("cpus", need.cpus, rule.cpus), ("bytes of memory", need.memory, rule.memory), ("gpus", need.gpus, rule.gpus),
        ("bytes of disk", need.disk, rule.disk), ("seconds", asked.order.timeout, rule.timeout),
    )  # fmt: skip
    for what, wanted, most in pairs:
        if most is not None and wanted > most:
            yield f"{wanted:,.10g} {what} of at most {most:,.10g}"
    if rule.max_runs is not None or rule.max_at_once is not None:
        so_far = runs(rule.id)
        if rule.max_runs is not None and so_far.ever >= rule.max_runs:
            yield f"its {rule.max_runs:,} runs are used up"
        if rule.max_at_once is not None and so_far.now >= rule.max_at_once:
            yield f"it has {so_far.now:,} runs here of at most {rule.max_at_once:,} at once"


def _without_say(rule: Rule, asked: Asked, moment: datetime) -> Iterator[str]:
    """Which conditions of a denying rule do not hold."""
    yield from _conditions(rule, asked, moment)
    if rule.launchers is not None and not _any(rule.launchers, asked.launcher, matches):
        yield f"launcher {_quoted(asked.launcher)} is not among its launchers"
    if rule.datasets is not None and not any(_any(rule.datasets, name, matches) for name in asked.datasets):
        yield "the order asks for none of its datasets"
    if rule.sources is not None and not _from(rule, asked):
        yield "the order brings none of its sources"


def _conditions(rule: Rule, asked: Asked, moment: datetime) -> Iterator[str]:
    """Which conditions that both kinds of rules have do not hold."""
    labels = asked.order.labels
    for what, patterns, name in (
        ("tool", rule.tools, labels.tool),
        ("user", rule.users, labels.user),
        ("project", rule.projects, labels.project),
    ):
        if patterns is not None and not _any(patterns, name, matches):
            yield f"{what} {_quoted(name)} is not among its {what}s"
    if rule.images is not None and (asked.image is None or not _any(rule.images, asked.image, image_matches)):
        yield f"image {_quoted(asked.order.image or '')} is not among its images"
    if rule.digests is not None and asked.digest not in rule.digests:
        yield f"digest {asked.digest} is not among its digests" if asked.digest else "the order insists on no digest"
    if rule.signed_by is not None and not asked.signers & set(rule.signed_by):
        yield "the image is not signed by any of its signers"
    if rule.from_ is not None and moment < rule.from_:
        yield f"it holds from {rule.from_.isoformat()}"
    if rule.until is not None and moment >= rule.until:
        yield f"it held until {rule.until.isoformat()}"


def _from(rule: Rule, asked: Asked) -> bool:
    """Whether the order's source is one of the rule's."""
    return asked.source is not None and _any(rule.sources, asked.source, source_matches)


def _any(patterns: Iterable[str] | None, name: N, match: Callable[[str, N], bool]) -> bool:
    return any(match(pattern, name) for pattern in patterns or ())


def _quoted(text: str) -> str:
    return repr(text if len(text) <= MOST_QUOTED else text[:MOST_QUOTED] + "...")
