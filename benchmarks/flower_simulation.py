"""Rounds of Flower's simulation, in its own environment: `python -m benchmarks.flower_simulation PACKAGE DATA PROCESSES ROUNDS SETTINGS`.

The clients are the class of a client package, which the measured simulation trains as well; DATA has the devices' shares as arrays x and y, and
test_x and test_y. JSON tells the moment at which each round's model was judged (the first one before any training), and the last accuracy.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

Model = dict[str, np.ndarray]


@cache
def client(package: str) -> Any:
    """The package's class, once in each process."""
    spec = importlib.util.spec_from_file_location("client", Path(package, "client.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Client()


@cache
def data(path: str) -> Model:
    """All arrays, once in each process."""
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


def arrays(model: ArrayRecord) -> Model:
    return {name: array.numpy() for name, array in model.items()}


def record(model: Model) -> ArrayRecord:
    return ArrayRecord({name: Array(array) for name, array in model.items()})


def main() -> None:
    package, path, processes, rounds, said = sys.argv[1:]
    settings = json.loads(said)
    devices = len(data(path)["x"])
    judged: list[tuple[float, float]] = []
    clients, server = ClientApp(), ServerApp()

    @clients.train()
    def train(message: Message, context: Context) -> Message:
        number = int(context.node_config["partition-id"])
        share = {"x": data(path)["x"][number], "y": data(path)["y"][number]}
        update, of_it = client(package).train(arrays(message.content["arrays"]), settings | {"seed": number}, share)
        metrics = MetricRecord({"num-examples": of_it["examples"], "loss": of_it["metrics"]["loss"]})
        return Message(RecordDict({"arrays": record(update), "metrics": metrics}), reply_to=message)

    def judge(_: int, model: ArrayRecord) -> MetricRecord:
        found = client(package).validate(arrays(model), settings, {"x": data(path)["test_x"], "y": data(path)["test_y"]})
        judged.append((time.perf_counter(), found["accuracy"]))
        return MetricRecord({"accuracy": found["accuracy"]})

    def complete(updates: list[RecordDict], _: str) -> MetricRecord:
        """Flower's rounds go on without those that failed."""
        if len(updates) < devices:
            raise RuntimeError(f"only {len(updates)} of {devices} updates came")
        return MetricRecord({"updates": len(updates)})

    @server.main()
    def serve(grid: Grid, context: Context) -> None:  # noqa: ARG001
        strategy = FedAvg(
            fraction_evaluate=0.0, min_train_nodes=devices, min_available_nodes=devices, train_metrics_aggr_fn=complete
        )  # fmt: skip
        strategy.start(grid=grid, initial_arrays=record(client(package).seed(settings)), num_rounds=int(rounds), evaluate_fn=judge)

    # As ours: so many processes, no page, and what the package logs goes nowhere.
    ray = {"num_cpus": int(processes), "include_dashboard": False, "log_to_driver": False}
    run_simulation(server, clients, devices, backend_config={"init_args": ray, "client_resources": {"num_cpus": 1, "num_gpus": 0.0}})
    print(json.dumps({"moments": [moment for moment, _ in judged], "accuracy": judged[-1][1]}), flush=True)


if __name__ == "__main__":
    # By its name, under which Ray's processes find the functions above as well.
    from benchmarks import flower_simulation

    flower_simulation.main()
