"""What centre and node cost while nothing runs: CPU, memory, and messages at the broker, on RabbitMQ, with heartbeats each 10 s.

The node is its daemon, the centre its relay as a service (`fem relay`); each is measured for a while after a minute's
rest. CPU is user and system time of the process by the kernel's account.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import Figure, Median, memory
from benchmarks.house import Services, house, published
from benchmarks.orders import relay_of

#: Seconds of rest, and of looking.
REST, LOOK = 20.0, 120.0


def measure(services: Services, quick: bool) -> Iterator[Figure]:
    rest, look = (2.0, 10.0) if quick else (REST, LOOK)
    with ExitStack() as stack:
        one = stack.enter_context(house(services, launcher="process", relay="service", heartbeat=10.0))
        processes = {"node": one.worker, "centre's relay": stack.enter_context(relay_of(one))}
        time.sleep(rest)
        before = {name: _cpu(pid) for name, pid in processes.items()}
        sent = published(services, one.node)
        time.sleep(look)
        used = {name: _cpu(pid) - before[name] for name, pid in processes.items()}
        messages = (published(services, one.node) - sent) * 60 / look
        resident = {name: memory(pid) for name, pid in processes.items()}
    for name in processes:
        share = 100 * used[name] / look
        yield Figure(f"idle {name}: CPU", f"{used[name]:.2f} s in {look:.0f} s", "", Median.of([share]), " % of a core", None)
        yield Figure(f"idle {name}: memory", "", "", Median.of([resident[name]]), " MiB", None)
    yield Figure("idle node and centre: messages at the broker", "", "", Median.of([messages]), " a minute", None)


def _cpu(pid: int) -> float:
    """User and system seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
