"""The site's word on an order, before anything of it is touched. Raises PolicyRefused; its message goes to the centre."""

from __future__ import annotations

import os
import shutil
from datetime import datetime
from pathlib import Path

from fdn_worker.errors import PolicyRefused
from fdn_worker.protocol import TaskOrder
from fdn_worker.settings import WorkerSettings


def admit(order: TaskOrder, settings: WorkerSettings, moment: datetime) -> None:
    """Return if the site takes the order at `moment`."""
    if order.node != settings.node:
        raise PolicyRefused(f"the order is for node {order.node}, this is {settings.node}", code="wrong-audience")
    if order.deadline <= moment:
        raise PolicyRefused(
            f"the order's deadline {order.deadline:%Y-%m-%d %H:%M:%S} UTC has passed", code="expired", remedy="submit it again"
        )
    launcher = order.launcher or settings.launcher
    if launcher not in settings.allowed_launchers:
        raise PolicyRefused(
            f"node {settings.node} does not allow launcher {launcher!r}",
            code="launcher-refused",
            remedy=f"it allows {', '.join(settings.allowed_launchers)}",
        )
    if order.network and not settings.allow_network:
        raise PolicyRefused(f"node {settings.node} gives tasks no network", code="network-refused")
    for name in order.datasets:
        dataset(name, settings)
    resources(order, settings)
    if order.source is not None and order.source.repository.startswith("file:") and not settings.source.allow_file:
        raise PolicyRefused(f"node {settings.node} takes source over https:// only", code="source-refused")


def dataset(name: str, settings: WorkerSettings) -> Path:
    """The real folder of a dataset, which must lie under one of the site's data roots, links resolved."""
    folder = settings.datasets.get(name)
    if folder is None:
        raise PolicyRefused(
            f"node {settings.node} has no dataset {name!r}",
            code="dataset-unknown",
            remedy=f"it offers {', '.join(sorted(settings.datasets)) or 'none'}",
        )
    try:
        real, roots = folder.resolve(), [root.resolve() for root in settings.data_roots]
        there = real.is_dir()
    except (OSError, RuntimeError) as error:  # a RuntimeError tells of links in a circle
        raise PolicyRefused(
            f"dataset {name!r} of node {settings.node} cannot be read", code="dataset-unavailable", remedy="tell the site"
        ) from error
    if not there:
        raise PolicyRefused(f"dataset {name!r} of node {settings.node} is not a folder", code="dataset-unavailable", remedy="tell the site")
    if not any(real.is_relative_to(root) for root in roots):
        raise PolicyRefused(
            f"dataset {name!r} of node {settings.node} leads outside its data roots", code="dataset-refused", remedy="tell the site"
        )
    return real


def resources(order: TaskOrder, settings: WorkerSettings) -> None:
    """Refuse what is more than the site allows, or than the machine has."""
    wanted, limits = order.resources, settings.limits
    checks = (
        ("cpus", wanted.cpus, limits.cpus or machine_cpus()),
        ("bytes of memory", wanted.memory, limits.memory or machine_memory()),
        ("bytes of disk", wanted.disk, max(0, disk_free(settings.state_dir) - limits.disk_reserve)),
        ("seconds", order.timeout, limits.timeout),
    )
    for what, asked, most in checks:
        if asked > most:
            raise PolicyRefused(
                f"the order asks for {asked:,.10g} {what}, node {settings.node} gives at most {most:,.10g}",
                code="resources",
                remedy="ask for less",
            )


def machine_cpus() -> float:
    """Processors that this process may use."""
    return float(len(os.sched_getaffinity(0)))


def machine_memory() -> int:
    """Bytes of physical memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def disk_free(folder: Path) -> int:
    """Free bytes on the folder's disk."""
    return shutil.disk_usage(folder).free
