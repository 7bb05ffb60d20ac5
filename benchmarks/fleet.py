"""One no-op execution over 10, 100 and 1,000 nodes: its time, the centre's memory, and Prefect's share of both.

The nodes are simulated (`federation.simulated`) in a process of their own, on the real broker; the centre is another
process (`fleet_centre`), with the relay in it, that carries out the execution once as the flow `execute_tool` and once
by the same steps without Prefect. The floor is the latter; what the flow takes beyond it is Prefect's share.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import ROOT, Figure, Median
from benchmarks.house import Services, virtual_host
from federation.local import LocalFederation

SEED = ROOT / ".cache/prefect-seed.db"
#: Seconds and MiB that a thousand nodes may take.
MOST_SECONDS, MOST_MEMORY = 60.0, 1024.0
#: Seconds for one execution, and for the nodes to be up.
PATIENCE = 600.0


def measure(services: Services, quick: bool) -> Iterator[Figure]:
    from flows.server import prefect_server

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fem-bench-")))
        client = stack.enter_context(prefect_server(folder / "prefect", seed=SEED))
        for broker in ("embedded", "rabbitmq"):
            for count in (5, 20) if quick else (10, 100, 1000):
                yield from _fleet(services, folder, client, broker, count, repeat=1 if quick else 3)


def _fleet(services: Services, folder: Path, client: dict[str, str], broker: str, count: int, *, repeat: int) -> Iterator[Figure]:
    name = f"bench-{uuid.uuid4().hex[:10]}"
    nodes = tuple(f"n{number}" for number in range(count))
    with ExitStack() as stack:
        url = stack.enter_context(virtual_host(services, name)) if broker == "rabbitmq" else ""
        federation = LocalFederation(folder / name, nodes, broker_url=url)
        federation.prepare()
        environment = os.environ | client | federation.environment() | {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
        address = federation.settings().broker_url.get_secret_value()
        keys = "-" if federation.embedded else str(federation.home)
        fleet = stack.enter_context(
            subprocess.Popen([sys.executable, "-m", "federation.simulated", address, keys], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        )
        stack.callback(fleet.terminate)
        assert fleet.stdin is not None
        assert fleet.stdout is not None
        fleet.stdin.write("\n".join(nodes).encode())
        fleet.stdin.close()
        if fleet.stdout.readline() != b"up\n":
            raise RuntimeError("the simulated nodes did not come up")
        found = {
            way: json.loads(
                subprocess.run(
                    [sys.executable, "-m", "benchmarks.fleet_centre", way, str(repeat), *nodes],
                    cwd=ROOT, env=environment, check=True, capture_output=True, timeout=PATIENCE,
                ).stdout
            )
            for way in ("bare", "flow")
        }  # fmt: skip
    flow, bare = (Median.of(found[way]["seconds"]) for way in ("flow", "bare"))
    told = "RabbitMQ" if broker == "rabbitmq" else "embedded broker"
    most = MOST_SECONDS if count >= 1000 else None
    yield Figure(
        f"no-op execution over {count:,} nodes, {told}", f"{flow.value / count * 1e3:.1f} ms a node", f"without Prefect {bare.value:.2f} s",
        flow, " s", most,
    )  # fmt: skip
    yield Figure(
        f"peak memory of the centre meanwhile, {count:,} nodes, {told}", "", f"without Prefect {found['bare']['memory']:.0f} MiB",
        Median.of([found["flow"]["memory"]]), " MiB", MOST_MEMORY if most else None,
    )  # fmt: skip
