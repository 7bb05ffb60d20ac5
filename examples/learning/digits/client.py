"""A client package: a network with one hidden layer. What it needs is numpy and safetensors.

client.py train MODEL UPDATE | validate MODEL METRICS.json | predict MODEL PREDICTIONS.csv | seed MODEL
"""

import json
import os
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


class Client:
    """The four entry points on arrays: a model is name -> array, data are x [examples, features] and y [examples]."""

    def seed(self, settings):
        """A first model, in float32."""
        rng = np.random.default_rng(settings["seed"])
        widths = settings["features"], settings["hidden"], settings["classes"]
        model = {}
        for layer, (above, below) in enumerate(pairwise(widths), 1):
            limit = np.sqrt(6 / (above + below))
            model[f"w{layer}"] = rng.uniform(-limit, limit, (above, below)).astype(np.float32)
            model[f"b{layer}"] = np.zeros(below, np.float32)
        return model

    def train(self, model, settings, data):
        """The model after some epochs on this data, and what is to be said of it."""
        start = {name: array.astype(np.float64) for name, array in model.items() if "/" not in name}
        # What SCAFFOLD and FedDyn add to each step comes with the model; FedProx and FedDyn pull back to where training began.
        corrections = {name: model.get(f"correction/{name}", 0.0) for name in start}
        now, rate, pull = dict(start), settings["learning_rate"], settings["proximal"]
        # Another order of the examples in each round, and the same one when it is run again.
        rng = np.random.default_rng([settings["seed"], zlib.crc32(model["w1"].tobytes())])
        steps, loss = 0, 0.0
        for _ in range(settings["epochs"]):
            order, loss = rng.permutation(len(data["y"])), 0.0
            for batch in np.split(order, range(settings["batch_size"], len(order), settings["batch_size"])):
                part, gradients = self._gradients(now, data["x"][batch], data["y"][batch])
                for name, gradient in gradients.items():
                    now[name] = now[name] - rate * (gradient + corrections[name] + pull * (now[name] - start[name]))
                loss += part * len(batch) / len(order)
                steps += 1
            print("::metrics", json.dumps({"step": steps, "loss": loss}), flush=True)
        update = {name: array.astype(model[name].dtype) for name, array in now.items()}
        return update, {"examples": len(data["y"]), "steps": steps, "metrics": {"loss": loss}}

    def validate(self, model, settings, data):
        """How good the model is on this data."""
        logs, right = self._logs(model, data["x"])[1], data["y"]
        loss = -logs[np.arange(len(right)), right].mean()
        return {"loss": float(loss), "accuracy": float((logs.argmax(1) == right).mean()), "examples": len(right)}

    def predict(self, model, settings, data):
        """The likeliest class of each example, and its probability."""
        logs = self._logs(model, data["x"])[1]
        return [(int(row.argmax()), float(np.exp(row.max()))) for row in logs]

    def _logs(self, model, x):
        """What the hidden layer passes on, and the logarithms of the probabilities [examples, classes]."""
        hidden = np.maximum(x @ model["w1"] + model["b1"], 0)
        scores = hidden @ model["w2"] + model["b2"]
        scores -= scores.max(1, keepdims=True)
        return hidden, scores - np.log(np.exp(scores).sum(1, keepdims=True))

    def _gradients(self, model, x, y):
        """The mean loss, and the gradient of each array."""
        hidden, logs = self._logs(model, x)
        slope = np.exp(logs)
        slope[np.arange(len(y)), y] -= 1
        slope /= len(y)
        below = (slope @ model["w2"].T) * (hidden > 0)
        gradients = {"w1": x.T @ below, "b1": below.sum(0), "w2": hidden.T @ slope, "b2": slope.sum(0)}
        return -logs[np.arange(len(y)), y].mean(), gradients


def read_model(path):
    with safe_open(path, framework="numpy") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dictionary


def read_data(settings, part):
    path = Path(os.environ["DATA_PATH"], settings["dataset"], f"{part}.npz")
    if not path.exists():
        sys.exit(f"there is no {path}: the data set {settings['dataset']} must hold train.npz and test.npz")
    with np.load(path) as file:
        return {"x": file["x"], "y": file["y"]}


def main(command, *paths):
    client, settings = Client(), json.loads(Path(os.environ["FEM_SETTINGS"]).read_text())
    if command == "seed":
        save_file(client.seed(settings), paths[0])
        return
    model, data = read_model(paths[0]), read_data(settings, "train" if command == "train" else "test")
    if command == "train":
        update, said = client.train(model, settings, data)
        save_file(update, paths[1], {name: json.dumps(value) for name, value in said.items()})
    elif command == "validate":
        Path(paths[1]).write_text(json.dumps(client.validate(model, settings, data)))
    elif command == "predict":
        rows = client.predict(model, settings, data)
        lines = ["class,probability", *(f"{label},{probability:.6f}" for label, probability in rows)]
        Path(paths[1]).write_text("\n".join(lines) + "\n")
    else:
        sys.exit(f"{command}: there are train, validate, predict and seed")


if __name__ == "__main__":
    main(*sys.argv[1:])
