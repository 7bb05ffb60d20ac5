"""Flower's `aggregate`, in its own environment: `python -m benchmarks.flower_aggregate CLIENTS OUT FILE...`.

For each line of standard input a round: updates are read, as many as there are clients, the mean is made, and JSON tells the seconds of both and by
how many MiB the process has grown at most. OUT gets the first round's mean.
"""

from __future__ import annotations

import json
import os
import sys
import time

import numpy as np
from flwr.server.strategy.aggregate import aggregate
from safetensors import safe_open

from benchmarks.harness import memory


def read(path: str) -> tuple[list[np.ndarray], int]:
    """An update as Flower has it: arrays, and a number of examples."""
    with safe_open(path, framework="numpy") as file:
        return [file.get_tensor("w")], int(float(file.metadata()["examples"]))


def main() -> None:
    clients, out, *files = sys.argv[1:]
    before = memory(os.getpid())
    for number, _ in enumerate(sys.stdin):
        began = time.perf_counter()
        updates = [read(files[which % len(files)]) for which in range(int(clients))]
        loaded = time.perf_counter()
        (mean,) = aggregate(updates)
        ended = time.perf_counter()
        if not number:
            np.save(out, mean)
        del updates, mean
        said = {"read": loaded - began, "aggregate": ended - loaded, "grown": memory(os.getpid(), "VmHWM") - before}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
