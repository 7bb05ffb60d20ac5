"""From `fem run` to the first container: a whole command on a shell's line, warm and cold, against `docker run` of the same image.

Warm: Prefect's server runs, as at a centre; the tool's image is at the node. Cold: no Prefect server, so the command
starts one of its own, from nothing. The clock starts with the command's process and ends when Docker says that the
container was started; broker, store and node are up in both.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import docker

from benchmarks.harness import ROOT, Figure, Median
from benchmarks.house import PATIENCE, Services, house

SEED = ROOT / ".cache/prefect-seed.db"


def measure(services: Services, quick: bool) -> Iterator[Figure]:
    from flows.server import prefect_server

    image = services.images["busybox"]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fem-bench-")))
        one = stack.enter_context(house(services, launcher="docker", heartbeat=2.0))
        server = stack.enter_context(prefect_server(folder / "prefect", seed=SEED))
        engine = docker.DockerClient(base_url=services.docker_host, timeout=int(PATIENCE))
        stack.callback(engine.close)
        tool = folder / "nothing.yaml"
        tool.write_text(f"name: nothing\ntasks:\n  - image: {image}\n    command: {{base: [/bin/true]}}\n")
        command = [sys.executable, "-m", "flows.cli", "run", str(tool), "--node", one.node, "--json"]
        known = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_API")} | one.federation.environment()
        warm = known | server

        def cold(number: int) -> Mapping[str, str]:
            return known | {"PREFECT_HOME": str(folder / f"cold-{number}")}

        counts = (2, 1) if quick else (10, 3)
        _started(engine, command, warm)
        ours = [_started(engine, command, warm) for _ in range(counts[0])]
        bare = [_started(engine, ["docker", "-H", services.docker_host, "run", "--rm", image, "/bin/true"], warm) for _ in range(counts[0])]
        first = [_started(engine, command, cold(number)) for number in range(counts[1])]
    floor = f"`docker run` {Median.of(bare).value:.2f} s"
    yield Figure("from `fem run TOOL` to the first container, warm", "", floor, Median.of(ours), " s", None)
    yield Figure("from `fem run TOOL` to the first container, cold (no Prefect server)", "", floor, Median.of(first), " s", None)


def _started(engine: docker.DockerClient, command: list[str], environment: Mapping[str, str]) -> float:
    """Seconds from the start of the command to that of the first container; the command must end well."""
    moments: list[float] = []
    events = engine.events(decode=True, filters={"event": "start", "type": "container"})

    def listen() -> None:
        for event in events:
            moments.append(event["timeNano"] / 1e9)
            return

    listening = threading.Thread(target=listen, daemon=True)
    listening.start()
    began = time.time()
    done = subprocess.run(command, cwd=ROOT, env=dict(environment), capture_output=True, text=True, timeout=PATIENCE, check=False)
    listening.join(PATIENCE)
    events.close()
    if done.returncode or not moments:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return moments[0] - began
