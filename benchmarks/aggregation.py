"""A FedAvg round of 10, 100 and 1,000 clients: gigabytes of updates a second, and peak memory; against one numpy add of the same size for each,
and against Flower's own `aggregate` on the same updates.

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

from benchmarks import peer
from benchmarks.harness import ROOT, Figure, Median, in_turn, memory, timed
from benchmarks.house import Services
from federation.learning.aggregator import load
from federation.learning.models import ModelFile, ModelInfo, save
from federation.learning.rounds import begin

#: Files that the clients share between them.
FILES = 4
#: MiB of all updates of a round: Flower has them in memory, and as much again.
MOST = 4096


def measure(services: Services, quick: bool) -> Iterator[Figure]:  # noqa: ARG001 (every benchmark gets them)
    for clients, rounds in ((10, 20), (100, 8), (1000, 3)):
        mib = 1 if quick else min(32, MOST // clients)
        command = [sys.executable, "-m", "benchmarks.aggregation", str(clients), str(1 if quick else rounds), str(mib)]
        found = json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
        total = clients * mib / 1024 * 1.073741824
        ours, floor, flower, in_memory = (
            Median.of([total / taken for taken in found[of]]).value for of in ("ours", "floor", "flower", "in_memory")
        )
        beyond = Median.of([own / least for own, least in zip(found["ours"], found["floor"], strict=True)])
        yield Figure(f"FedAvg of {clients:,} clients of {mib} MiB", f"{ours:.2f} GB/s", f"`numpy.add` {floor:.2f} GB/s", beyond, " x", None)
        ahead = Median.of([theirs / own for own, theirs in zip(found["ours"], found["flower"], strict=True)])
        yield Figure(
            f"as fast as Flower's `aggregate` from the same files, {clients:,} clients", f"{ours:.2f} GB/s",
            f"Flower {flower:.2f} GB/s, without reading {in_memory:.2f} GB/s", ahead, " x", 1.0, most=False,
        )  # fmt: skip
        yield Figure(
            f"peak memory of it, {clients:,} clients", f"{found['grown']:.0f} MiB", f"Flower {found['theirs']:.0f} MiB",
            Median.of([found["grown"] / mib]), " models", 3.0,
        )  # fmt: skip


def child(clients: int, rounds: int, mib: int) -> None:
    """The peak of one round, then rounds, floors and Flower in turn, as JSON."""
    with tempfile.TemporaryDirectory(prefix="fem-bench-") as name:
        folder = Path(name)
        paths = [folder / f"{number}.safetensors" for number in range(FILES)]
        count = mib * 1024**2 // 4

        def ours() -> float:
            return timed(whole)

        def whole() -> None:
            aggregation = begin(load("fedavg"), ModelFile(paths[0]))
            for number in range(clients):
                aggregation.add(ModelFile(paths[number % FILES], name=f"client {number}"))
            aggregation.finish(folder / "next", folder / "state")

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

        log, mean = folder / "flower.log", folder / "flower.npy"
        told: list[dict[str, float]] = []
        with peer.start("flower_aggregate", str(clients), str(mean), *map(str, paths), log=log) as process:
            asked = process.stdin
            assert asked is not None

            def flower() -> float:
                asked.write("\n")
                asked.flush()
                told.append(json.loads(peer.answer(process, log)))
                return told[-1]["read"] + told[-1]["aggregate"]

            taken = in_turn(rounds, ours, floor, flower)
            asked.close()
        # Theirs adds up in float32.
        np.testing.assert_allclose(ModelFile(folder / "next").load()["w"], np.load(mean), atol=1e-3)
        found = {name: [one[which] for one in taken] for which, name in enumerate(("ours", "floor", "flower"))}
        in_memory = [one["aggregate"] for one in told[-rounds:]]
        print(json.dumps({"grown": grown, "theirs": max(one["grown"] for one in told), "in_memory": in_memory, **found}))


if __name__ == "__main__":
    child(*map(int, sys.argv[1:]))
