"""What federated learning costs in accuracy, on digits, by the simulation: FedAvg against training in one place, and what helps where devices hold
few classes each. Another seed draws another partition, other weights and other batches.

Its table stands in docs/reference/learning.md, its plots in docs/images.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.harness import ROOT, Figure, Median
from benchmarks.house import Services
from federation.simulation.configuration import Configuration, merged
from federation.simulation.plots import lines
from federation.simulation.simulator import Status, simulate

PAGE, IMAGES = ROOT / "docs/reference/learning.md", ROOT / "docs/images"
HEADER = "| what | accuracy | against | figure (95 % interval) | target | |\n|---|---|---|---|---|---|"
#: Examples for training that digits has.
ALL = 1438
ROUNDS = 100

#: All devices are there, half of them train in a round, and one judges each model on all examples for testing.
COMMON: dict[str, Any] = {
    "simulation": {"repetitions": 1, "num_rounds": ROUNDS, "model_name": "mlp", "stop_conds": {"metric": 2}},
    "algorithms": {
        "optimizer_params": {"learning_rate": 0.3},
        "fit": {"params": {"k": 0.5, "epochs": 5, "batch_size": 16, "num_examples": ALL}},
        "eval": {"params": {"k": None, "n": 1, "num_examples": ALL}},
    },
    "devices": {"num": 20, "p_available": 1, "p_fail": 0},
    "workers": {"kind": "in-process"},
}
#: Twenty devices: each example at one of them, and of each class as many at each, which is what so large an alpha comes to. Shares that overlap
#: (`non_iid_partitions: 0`) would leave a third of all examples out, and be held against all of them.
IID = merged(COMMON, {"data": {"non_iid_partitions": 1e6}})
#: One device with all of it.
CENTRALISED = merged(COMMON, {"devices": {"num": 1}, "data": {"num_examples_mean": ALL}, "algorithms": {"fit": {"params": {"k": 1}}}})
DIRICHLET = merged(COMMON, {"data": {"non_iid_partitions": 0.1}})
#: On the Dirichlet partition, with FedAvg's number of steps.
ALGORITHMS: dict[str, dict[str, Any]] = {
    "fedavg": {},
    "fedprox": {"federated_algorithm": "fedprox", "federated_algorithm_params": {"mu": 0.1, "most": 0.1}},
    "scaffold": {"federated_algorithm": "scaffold", "federated_algorithm_params": {"lr": 0.3}},
    "feddyn": {"federated_algorithm": "feddyn", "federated_algorithm_params": {"alpha": 0.1}},
}


def run(settings: Mapping[str, Any], seed: int, rounds: int = ROUNDS) -> Status:
    """One simulation."""
    changes = {"simulation": {"seed": seed, "num_rounds": rounds}}
    (status,) = simulate(Configuration.model_validate(merged(settings, changes)))
    return status


def curve(status: Status) -> np.ndarray:
    """Accuracy after each round, in percent."""
    return 100 * status.eval.agg_metric[: status.rounds]


def measure(services: Services, quick: bool) -> Iterator[Figure]:  # noqa: ARG001 (every benchmark gets them)
    seeds, rounds = (range(1), 5) if quick else (range(10), ROUNDS)
    settings = {"centralised": CENTRALISED, "FedAvg, IID": IID}
    settings |= {name: merged(DIRICHLET, {"algorithms": changes}) for name, changes in ALGORITHMS.items()}
    curves = {name: np.stack([curve(run(of, seed, rounds)) for seed in seeds]) for name, of in settings.items()}
    #: [seeds]: the mean over the last five rounds, since single rounds go up and down where devices differ.
    last = {name: found[:, -5:].mean(1) for name, found in curves.items()}

    def told(name: str) -> str:
        return f"{np.median(last[name]):.1f} %"

    yield Figure(
        "FedAvg behind training in one place, IID", told("FedAvg, IID"), f"in one place {told('centralised')}",
        Median.of((last["centralised"] - last["FedAvg, IID"]).tolist()), " points", 1.0,
    )  # fmt: skip
    for name in list(ALGORITHMS)[1:]:
        ahead = Median.of((last[name] - last["fedavg"]).tolist())
        yield Figure(f"`{name}` ahead of FedAvg, Dirichlet 0.1", told(name), f"FedAvg {told('fedavg')}", ahead, " points", None)
    if not quick:
        _draw("iid", "Accuracy on digits, 20 devices, IID", {name: curves[name] for name in ("centralised", "FedAvg, IID")})
        _draw("dirichlet", "Accuracy on digits, 20 devices, Dirichlet 0.1", {name: curves[name] for name in ALGORITHMS})


def _draw(name: str, title: str, curves: Mapping[str, np.ndarray]) -> None:
    """The means over the seeds."""
    means = {what: found.mean(0).tolist() for what, found in curves.items()}
    svg = lines(title, {what: (range(1, len(y) + 1), y) for what, y in means.items()}, across="round", up="%")
    IMAGES.mkdir(exist_ok=True)
    (IMAGES / f"learning-{name}.svg").write_text(svg + "\n", encoding="utf-8")
