"""What the settings say of an order: the bounds of the node, whoever asks. The site's policy decides within them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from fdn_worker import folders, site_secrets
from fdn_worker.errors import PolicyRefused
from fdn_worker.policy.machine import disk_free, machine_cpus, machine_memory, offered_gpus
from fdn_worker.protocol import TaskOrder
from fdn_worker.settings import WorkerSettings


def refusals(order: TaskOrder, settings: WorkerSettings, moment: datetime) -> Iterator[PolicyRefused]:
    """Every reason why the node does not take the order at `moment`."""
    node = settings.node
    if order.node != node:
        yield PolicyRefused(f"the order is for node {order.node}, this is {node}", code="wrong-audience")
    if order.deadline <= moment:
        yield PolicyRefused(
            f"the order's deadline {order.deadline:%Y-%m-%d %H:%M:%S} UTC has passed", code="expired", remedy="submit it again"
        )
    if (order.launcher or settings.launcher) not in settings.allowed_launchers:
        yield PolicyRefused(
            f"node {node} does not allow launcher {order.launcher!r}",
            code="launcher-refused",
            remedy=f"it allows {', '.join(settings.allowed_launchers)}",
        )
    yield from _network(order, settings)
    for name in order.datasets:
        yield from _raised(folders.dataset, name, settings)
    for mount in order.mounts:
        if mount.kind != "sandbox":
            yield from _raised(folders.mounted, mount, settings)
    for shelf in sorted({move.shelf for move in order.moves}):
        yield from _raised(folders.shelf, shelf, settings)
    for name in order.secrets:
        yield from _raised(site_secrets.check, name, settings)
    if order.sandbox is not None and not settings.keep_sandboxes:
        yield PolicyRefused(f"node {node} keeps no sandboxes", code="sandbox-refused", remedy="order it with a fresh one")
    yield from _resources(order, settings)
    source = order.source
    # A pack that came with the order is taken from the store, whatever address the centre had it from.
    if source is not None and source.pack is None and source.repository.startswith("file:") and not settings.source.allow_file:
        yield PolicyRefused(f"node {node} takes source over https:// only", code="source-refused")


def _network(order: TaskOrder, settings: WorkerSettings) -> Iterator[PolicyRefused]:
    node, range_ = settings.node, settings.published
    if order.ports and not range_:
        yield PolicyRefused(
            f"node {node} lets no task be reached", code="ports-refused", remedy="let a node serve that declares an address and ports"
        )
        return
    for port in order.ports:
        if port.host is not None and port.host not in range_:
            yield PolicyRefused(
                f"node {node} does not publish port {port.host}", code="ports-refused",
                remedy=f"it publishes {settings.ports}; name no port of the host and it takes a free one",
            )  # fmt: skip
    if len(order.ports) > len(range_):
        yield PolicyRefused(
            f"the order publishes {len(order.ports)} ports, node {node} has {len(range_)}", code="ports-refused", remedy="ask for fewer"
        )
    # With a policy, who gets a network is said there alone.
    if settings.policy is not None:
        return
    # Who may publish ports, or may reach a server, has its network for that.
    if (order.network or order.servers) and not (settings.allow_network or order.ports or (order.servers and settings.allow_servers)):
        if order.servers:
            yield PolicyRefused(f"node {node} lets no task reach a server elsewhere", code="network-refused")
        else:
            yield PolicyRefused(f"node {node} gives tasks no network", code="network-refused")


def _raised(look: Callable[..., object], *of: object) -> Iterator[PolicyRefused]:
    try:
        look(*of)
    except PolicyRefused as refused:
        yield refused


def _resources(order: TaskOrder, settings: WorkerSettings) -> Iterator[PolicyRefused]:
    """What is more than the site allows, or than the machine has."""
    wanted, limits = order.resources, settings.limits
    checks: tuple[tuple[str, float, float], ...] = (
        ("cpus", wanted.cpus, limits.cpus or machine_cpus()),
        ("bytes of memory", wanted.memory, limits.memory or machine_memory()),
        ("gpus", wanted.gpus, offered_gpus(settings) if wanted.gpus else 0),
        ("bytes of disk", wanted.disk, max(0, disk_free(settings.state_dir) - limits.disk_reserve)),
        ("seconds", order.timeout, limits.timeout),
    )
    for what, asked, most in checks:
        if asked > most:
            yield PolicyRefused(
                f"the order asks for {asked:,.10g} {what}, node {settings.node} gives at most {most:,.10g}",
                code="resources",
                remedy="ask for less",
            )
