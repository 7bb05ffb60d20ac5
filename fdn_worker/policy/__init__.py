"""The site's word on an order, before anything of it is touched: every reason why it is not taken, none for one that is.

Two have their say, and both must agree: the settings, which bound what the node does for anybody (`bounds`), and the
site's policy, which says who may do what within them (`document` is the file as it stands, `judge` reads it). Quick, since
it is asked on the broker's consuming thread. The messages go to the centre.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

from fdn_worker.errors import PolicyRefused, SettingsError
from fdn_worker.policy import bounds, judge
from fdn_worker.policy.document import Runs
from fdn_worker.policy.file import PolicyFile
from fdn_worker.policy.machine import disk_free, machine_cpus, machine_gpus, machine_memory, offered_gpus
from fdn_worker.protocol import TaskOrder
from fdn_worker.settings import KeepTo, WorkerSettings


@dataclass(frozen=True)
class Decision:
    """What the site says of one order. It is taken if there are no refusals; an order is refused with the first, a plan tells all."""

    refusals: tuple[PolicyRefused, ...]
    #: The rule that made it, None where none did; and the hash of the policy, None without one, "" for one that is broken.
    rule: str | None = None
    policy: str | None = None
    keep_to: KeepTo = ""


def decide(
    order: TaskOrder, settings: WorkerSettings, moment: datetime, file: PolicyFile | None, runs: Callable[[str], Runs]
) -> Decision:  # fmt: skip
    """The decision at `moment`, the same for an order and for the plan of one. `runs` counts what a rule has let in."""
    decision = by_policy(order, settings, moment, file, runs)
    # The policy first: what the node has is told to nobody whom it refuses.
    return replace(decision, refusals=(*decision.refusals, *bounds.refusals(order, settings, moment)))


def by_policy(
    order: TaskOrder, settings: WorkerSettings, moment: datetime, file: PolicyFile | None, runs: Callable[[str], Runs]
) -> Decision:  # fmt: skip
    """The policy's part of it alone."""
    if file is None:
        return Decision((), keep_to="" if order.network and settings.allow_network else "server")
    try:
        policy = file.current()
    except SettingsError:
        broken = PolicyRefused(f"the policy file of node {settings.node} cannot be read", code="policy-broken", remedy="tell the site")
        return Decision((broken,), policy="")
    rule, refused = judge.judge(policy, order, settings.launcher, moment, runs)
    granted = rule.network if rule is not None else "none"
    # Who asks for no more than servers is kept to them, also where the whole network would be given.
    keep_to: KeepTo = "proxy" if granted == "proxy" else "" if granted == "open" and order.network else "server"
    return Decision((refused,) if refused else (), rule.id if rule else None, policy.digest, keep_to)


__all__ = [
    "Decision", "PolicyFile", "Runs", "by_policy", "decide", "disk_free", "machine_cpus", "machine_gpus", "machine_memory", "offered_gpus",
]  # fmt: skip
