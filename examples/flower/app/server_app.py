"""The server's part: an ordinary Flower ServerApp, FedAvg over all clients. It leaves the accuracy of each round."""

import json
from pathlib import Path

import numpy as np
from flwr.app import ArrayRecord, Context
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    clients, rounds = context.run_config["clients"], context.run_config["num-server-rounds"]
    strategy = FedAvg(min_train_nodes=clients, min_evaluate_nodes=clients, min_available_nodes=clients)
    result = strategy.start(grid=grid, initial_arrays=ArrayRecord([np.zeros((65, 10))]), num_rounds=rounds)
    accuracy = [result.evaluate_metrics_clientapp[number]["accuracy"] for number in sorted(result.evaluate_metrics_clientapp)]
    Path(context.run_config["result"]).write_text(json.dumps({"clients": clients, "accuracy": accuracy}))
