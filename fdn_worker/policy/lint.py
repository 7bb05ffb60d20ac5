"""What is doubtful in a policy that can be read: rules that never match, that allow more than they seem to, or that the node cannot keep."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import PurePosixPath

from fdn_worker.policy.document import Policy, Rule
from fdn_worker.policy.names import matches
from fdn_worker.settings import WorkerSettings

#: Conditions and grants that are lists of patterns, and limits.
PATTERNS = ("tools", "users", "projects", "images", "digests", "signed_by", "launchers", "datasets", "sources", "shelves", "secrets")
LIMITS = ("cpus", "memory", "gpus", "disk", "timeout")
#: What says whose code runs, or for whom.
WHO = ("tools", "users", "projects", "images", "digests", "signed_by")
#: Patterns that stand for every name.
_ALL = ("*", "**")
_NETWORKS = {"none": {"none"}, "server": {"none", "server"}, "proxy": {"none", "proxy"}, "open": {"none", "server", "proxy", "open"}}


def lint(policy: Policy, settings: WorkerSettings, moment: datetime) -> Iterator[str]:
    """One line for each doubt, with the rule that it is about."""
    allowing = [rule for rule in policy.rule if rule.effect == "allow"]
    if not allowing:
        yield "no rule allows anything: every order is refused"
    for number, rule in enumerate(policy.rule):
        found = [*_when(rule, moment), *(_denying(rule) if rule.effect == "deny" else _allowing(rule, settings))]
        found += _shadows(rule, policy.rule[:number], policy.rule)
        yield from (f"rule {rule.id}: {doubt}" for doubt in found)
    for name in sorted(set(policy.signers) - {name for rule in policy.rule for name in rule.signed_by or ()}):
        yield f"signer {name}: no rule asks for its signature"


def _when(rule: Rule, moment: datetime) -> Iterator[str]:
    if rule.from_ is not None and rule.until is not None and rule.from_ >= rule.until:
        yield "never matches: `from` is not before `until`"
    elif rule.until is not None and rule.until <= moment:
        yield f"never matches any more: it held until {rule.until.isoformat()}"


def _denying(rule: Rule) -> Iterator[str]:
    if not rule.model_fields_set - {"id", "effect", "from_", "until"}:
        yield "denies everything"


def _allowing(rule: Rule, settings: WorkerSettings) -> Iterator[str]:
    if 0 in (rule.max_runs, rule.max_at_once):
        yield "never matches: it lets no run in"
    if all(_everything(getattr(rule, key)) for key in WHO):
        yield "allows any code for anybody: name tools, users or projects, and images or digests"
    elif all(_everything(getattr(rule, key)) for key in ("images", "digests", "signed_by")):
        yield "allows any image, and so any code; the tool's name is only what the order says"
    elif rule.digests is None and rule.signed_by is None:
        yield "allows images by name alone: whoever can change a tag changes what runs; add digests or signed_by"
    yield from _datasets(rule, settings)
    yield from _unknown("launchers", rule.launchers, settings.allowed_launchers, "allowed_launchers has")
    yield from _unknown("shelves", rule.shelves, settings.shelves, "there is")
    yield from _unknown("secrets", rule.secrets, settings.secrets, "there is")
    if "process" in (rule.launchers or (settings.launcher,)) and any((rule.images, rule.digests, rule.signed_by)):
        yield "names images, but launcher process takes none: the command runs on this machine as it stands"
    for path in rule.host_paths or ():
        if not any(PurePosixPath(path).is_relative_to(root) for root in settings.host_paths):
            yield f"grants path {path!r}, which lies below none of the settings' host_paths"
    if rule.sources == ("**",):
        yield "allows source from anywhere, and so any code"
    if rule.keep_sandboxes and not settings.keep_sandboxes:
        yield "grants kept sandboxes, and the settings keep none"
    yield from _network(rule, settings)
    for key in LIMITS:
        most, bound = getattr(rule, key), getattr(settings.limits, key, None)
        if most is not None and bound is not None and most > bound:
            yield f"its {key} are above the settings' limit of {bound:,.10g}, which holds"


def _datasets(rule: Rule, settings: WorkerSettings) -> Iterator[str]:
    if rule.datasets is not None and any(pattern in _ALL for pattern in rule.datasets):
        yield "grants every dataset, also those to come"
    yield from _unknown("datasets", rule.datasets, settings.datasets, "there is")


def _network(rule: Rule, settings: WorkerSettings) -> Iterator[str]:
    if rule.network == "open":
        yield "grants the whole network: a task can send the data anywhere, past the release of outputs"
    docker = settings.launchers.get("docker", {})
    wanted = {"server": docker.get("server_network") or docker.get("network", "none"), "proxy": docker.get("proxy_network", "none"),
              "open": docker.get("network", "none")}  # fmt: skip
    if "docker" in (rule.launchers or (settings.launcher,)) and wanted.get(rule.network) == "none":
        yield f"grants network {rule.network!r}, and [launchers.docker] has no network for that"


def _unknown(key: str, patterns: Iterable[str] | None, there: Iterable[str], where: str) -> Iterator[str]:
    names = list(there)
    for pattern in patterns or ():
        if pattern not in _ALL and not any(matches(pattern, name) for name in names):
            yield f"{key} {pattern!r} matches nothing: {where} {', '.join(sorted(names)) or 'none'}"


def _everything(patterns: tuple[str, ...] | None) -> bool:
    return patterns is None or any(pattern in _ALL for pattern in patterns)


# Rules that another one leaves nothing to


def _shadows(rule: Rule, before: Iterable[Rule], rules: Iterable[Rule]) -> Iterator[str]:
    """Another rule that decides all that this one could. Surely so: what cannot be compared is passed over."""
    for other in rules if rule.effect == "allow" else ():
        if other.effect == "deny" and _covers(other, rule, [*WHO, "launchers"]) and other.datasets is None and other.sources is None:
            yield f"never matches: rule {other.id} denies all of it"
            return
    for other in before:
        if other.effect != rule.effect:
            continue
        keys = PATTERNS if rule.effect == "allow" else (*WHO, "launchers", "datasets", "sources")
        if _covers(other, rule, keys) and (rule.effect == "deny" or _no_less(other, rule)):
            yield f"never decides: rule {other.id} before it takes all of it"
            return


def _covers(wide: Rule, narrow: Rule, keys: Iterable[str]) -> bool:
    """Whether each condition of `wide` holds wherever that of `narrow` does."""
    if not (_no_later(wide.from_, narrow.from_) and _no_later(narrow.until, wide.until, none_is_late=True)):
        return False
    return all(_wider(key, wide, narrow) for key in keys)


def _no_later(one: datetime | None, other: datetime | None, *, none_is_late: bool = False) -> bool:
    if none_is_late:
        return other is None or (one is not None and one <= other)
    return one is None or (other is not None and one <= other)


def _wider(key: str, wide: Rule, narrow: Rule) -> bool:
    ours, theirs = getattr(wide, key), getattr(narrow, key)
    grants = key in ("datasets", "sources", "shelves", "secrets", "launchers") and wide.effect == narrow.effect == "allow"
    if grants:
        # What is not granted is covered by anything; of launchers none means the node's own.
        return ours == theirs if key == "launchers" else set(theirs or ()) <= set(ours or ()) or _has_all(ours)
    return ours is None or _has_all(ours) or (theirs is not None and all(theirs_ in ours for theirs_ in theirs))


def _has_all(patterns: tuple[str, ...] | None) -> bool:
    return patterns is not None and "**" in patterns


def _no_less(wide: Rule, narrow: Rule) -> bool:
    """Whether `wide` grants and allows at least as much, for ever."""
    pairs = [(getattr(wide, key), getattr(narrow, key)) for key in LIMITS]
    limits = all(most is None or (wanted is not None and wanted <= most) for most, wanted in pairs)
    paths = set(narrow.host_paths or ()) <= set(wide.host_paths or ())
    kept = wide.keep_sandboxes or not narrow.keep_sandboxes
    return limits and paths and kept and wide.max_runs is wide.max_at_once is None and _NETWORKS[narrow.network] <= _NETWORKS[wide.network]
