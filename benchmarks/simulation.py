"""Client updates a second, 100 clients a round, on digits: our simulation against Flower's, with the same client's program, data and rounds.

What is counted lies between the first round's end and the last one's: starting processes is in none of it, and told in a row of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peer
from benchmarks.harness import ROOT, Figure, Median, in_turn
from benchmarks.house import Services
from federation.learning.package import Package
from federation.simulation import devices
from federation.simulation.configuration import Configuration
from federation.simulation.partitions import partition
from federation.simulation.simulator import check, simulate
from federation.simulation.streams import Purpose, stream

PACKAGE = ROOT / "examples/learning/digits"
#: Devices, all of which train in each round, and examples of each.
DEVICES, EXAMPLES = 100, 100
EPOCHS, BATCH, RATE = 2, 16, 0.3


@dataclass(frozen=True)
class Ran:
    """Client updates a second, the last model's accuracy in percent, and seconds of the whole, with all that was started."""

    rate: float
    accuracy: float
    whole: float


def configuration(rounds: int, *, package: bool, **workers: Any) -> Configuration:
    """All devices train; one of them judges each model on all examples for testing."""
    model = {"model_name": "package", "model_params": {"package": str(PACKAGE)}} if package else {"model_name": "mlp"}
    return Configuration.model_validate({
        "simulation": model | {"repetitions": 1, "num_rounds": rounds, "stop_conds": {"metric": 2}},
        "algorithms": {
            "optimizer_params": {"learning_rate": RATE},
            "fit": {"params": {"n": DEVICES, "epochs": EPOCHS, "batch_size": BATCH, "num_examples": EXAMPLES}},
            "eval": {"params": {"n": 1, "num_examples": 10_000}},
        },
        "devices": {"num": DEVICES, "p_available": 1, "p_fail": 0},
        "data": {"dataset": "digits", "num_examples_mean": EXAMPLES},
        "workers": {"kind": "processes", "number": 2} | workers,
    })  # fmt: skip


def ours(asked: Configuration) -> Ran:
    """A simulation of ours."""
    began, ends = time.perf_counter(), list[float]()
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):  # the package logs its metrics
        (status,) = simulate(asked, lambda _: ends.append(time.perf_counter()))
    return _ran(ends, float(status.eval.agg_metric[-1]), time.perf_counter() - began)


def flower(folder: Path, rounds: int, processes: int = 2) -> Ran:
    """The same by Flower's simulation."""
    asked = configuration(rounds, package=True)
    data, log = folder / "shares.npz", folder / "flower.log"
    dataset = check(asked)
    shares = partition(asked, dataset, devices.draw(asked, 0).local_data_sizes, 0)
    held = [shares.share(dataset, device) for device in range(DEVICES)]
    np.savez(
        data, x=np.stack([dataset.x[numbers] for numbers, _ in held]), y=np.stack([labels for _, labels in held]),
        test_x=dataset.test_x, test_y=dataset.test_y,
    )  # fmt: skip
    # The seed of the first model as our simulation tells it to the package.
    seed = int(stream(asked.simulation.seed, Purpose.WEIGHTS, 0).integers(2**31))
    settings = Package.load(PACKAGE).settings | {"epochs": EPOCHS, "batch_size": BATCH, "learning_rate": RATE, "seed": seed}
    began = time.perf_counter()
    with peer.start("flower_simulation", str(PACKAGE), str(data), str(processes), str(rounds), json.dumps(settings), log=log) as process:
        said = json.loads(peer.answer(process, log))
    return _ran(said["moments"][1:], said["accuracy"], time.perf_counter() - began)


def _ran(ends: list[float], accuracy: float, whole: float) -> Ran:
    return Ran(DEVICES * (len(ends) - 1) / (ends[-1] - ends[0]), 100 * accuracy, whole)


def measure(services: Services, quick: bool) -> Iterator[Figure]:  # noqa: ARG001 (every benchmark gets them)
    rounds, repeat = (3, 1) if quick else (10, 5)
    found: dict[str, list[Ran]] = {}

    def noted(name: str, work: Callable[[], Ran]) -> Callable[[], float]:
        def run() -> float:
            found.setdefault(name, []).append(work())
            return found[name][-1].rate

        return run

    with tempfile.TemporaryDirectory(prefix="fem-bench-") as name:
        ways = {
            "package, 2": configuration(rounds, package=True), "package, 1": configuration(rounds, package=True, number=1),
            # So quick that one round is too short to be measured.
            "mlp, 2": configuration(10 * rounds, package=False), "mlp, 1": configuration(10 * rounds, package=False, number=1),
            "vectorised": configuration(10 * rounds, package=False, kind="in-process"),
            "plain": configuration(10 * rounds, package=False, kind="in-process", vectorised=False),
        }  # fmt: skip
        works = [noted(way, partial(ours, asked)) for way, asked in ways.items()]
        works.append(noted("same", lambda: ours(configuration(rounds, package=False))))
        in_turn(repeat, noted("flower", lambda: flower(Path(name), rounds)), *works, warm=0)

    def rates(way: str) -> float:
        return Median.of([ran.rate for ran in found[way]]).value

    def ratio(way: str, to: str) -> Median:
        return Median.of([own.rate / other.rate for own, other in zip(found[way], found[to], strict=True)])

    told = f"Flower {rates('flower'):,.0f} updates/s"
    for way, what in (("package, 2", "the client package of the examples"), ("mlp, 2", "the model `mlp`, vectorised")):
        yield Figure(
            f"as fast as Flower's simulation, 2 processes: {what}",
            f"{rates(way):,.0f} updates/s",
            told,
            ratio(way, "flower"),
            " x",
            1.0,
            most=False,
        )
    for way, what in (("package, 2", "the client package"), ("same", "the model `mlp`")):
        accuracy, theirs = (Median.of([ran.accuracy for ran in found[of]]) for of in (way, "flower"))
        behind = Median.of([other.accuracy - own.accuracy for own, other in zip(found[way], found["flower"], strict=True)])
        yield Figure(
            f"accuracy behind Flower's after {rounds} rounds: {what}", f"{accuracy.value:.1f} %", f"Flower {theirs.value:.1f} %", behind,
            " points", 1.0,
        )  # fmt: skip
    whole, theirs = (Median.of([ran.whole for ran in found[of]]) for of in ("package, 2", "flower"))
    yield Figure(f"{rounds} rounds as a whole, with all that is started", "", f"Flower {theirs.value:.1f} s", whole, " s", None)
    for way, what in (("package", "the client package"), ("mlp", "the model `mlp`, vectorised")):
        two, one = f"{way}, 2", f"{way}, 1"
        yield Figure(
            f"2 processes against 1: {what}",
            f"{rates(two):,.0f} updates/s",
            f"1 process {rates(one):,.0f} updates/s",
            ratio(two, one),
            " x",
            None,
        )
    yield Figure(
        "vectorised against plain, the model `mlp`, in one process", f"{rates('vectorised'):,.0f} updates/s",
        f"plain {rates('plain'):,.0f} updates/s", ratio("vectorised", "plain"), " x", 1.0, most=False,
    )  # fmt: skip
