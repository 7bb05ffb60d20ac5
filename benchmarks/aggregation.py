"""A FedAvg round of 10, 100 and 1,000 clients: gigabytes of updates a second, and peak memory; against one numpy add of the same size for each.

Each number of clients is a process of its own, so that its peak is its own: `python -m benchmarks.aggregation CLIENTS ROUNDS MIB` prints what it found.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.harness import Figure, Median, in_turn, memory, timed
from benchmarks.house import Services
from federation.learning.aggregator import load
from federation.learning.models import ModelFile, ModelInfo, save
from federation.learning.rounds import begin

#: Files that the clients share between them.
FILES = 4


def measure(services: Services, quick: bool) -> Iterator[Figure]:  # noqa: ARG001 (every benchmark gets them)
    mib = 4 if quick else 32
    for clients, rounds in ((10, 20), (100, 8), (1000, 3)):
        command = [sys.executable, "-m", "benchmarks.aggregation", str(clients), str(1 if quick else rounds), str(mib)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        total = clients * mib / 1024 * 1.073741824
        ours, floor = (Median.of([total / pair[which] for pair in found["seconds"]]) for which in (0, 1))
        ratio = Median.of([pair[0] / pair[1] for pair in found["seconds"]])
        yield Figure(f"FedAvg of {clients:,} clients", f"{ours.value:.2f} GB/s", f"`numpy.add` {floor.value:.2f} GB/s", ratio, " x", None)
        grown = Median.of([found["grown"] / mib])
        yield Figure(f"peak memory of it, {clients:,} clients", f"{found['grown']:.0f} MiB", f"a model {mib} MiB", grown, " x", 3.0)


def child(clients: int, rounds: int, mib: int) -> None:
    """The peak of one round, then rounds and floors in turn, as JSON."""
    with tempfile.TemporaryDirectory(prefix="fem-bench-") as folder:
        paths = [Path(folder, f"{number}.safetensors") for number in range(FILES)]
        count = mib * 1024**2 // 4

        def ours() -> float:
            return timed(whole)

        def whole() -> None:
            aggregation = begin(load("fedavg"), ModelFile(paths[0]))
            for number in range(clients):
                aggregation.add(ModelFile(paths[number % FILES], name=f"client {number}"))
            aggregation.finish(Path(folder, "next"), Path(folder, "state"))

        # In a process of its own, or its memory would be the peak.
        if not os.fork():
            for number, path in enumerate(paths):
                save(path, {"w": np.random.default_rng(number).normal(size=count).astype("f4")}, ModelInfo(examples=number + 1))
            os._exit(0)
        os.wait()
        before = memory(os.getpid())
        whole()
        grown = memory(os.getpid(), "VmHWM") - before
        left, right = np.ones(count, "f4"), np.ones(count, "f4")

        def floor() -> float:
            return timed(lambda: [np.add(left, right, out=right) for _ in range(clients)])

        print(json.dumps({"grown": grown, "seconds": in_turn(rounds, ours, floor)}))


if __name__ == "__main__":
    child(*map(int, sys.argv[1:]))
