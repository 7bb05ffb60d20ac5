"""A client package: logistic regression. What it needs is numpy and safetensors.

client.py train MODEL UPDATE | validate MODEL METRICS.json | predict MODEL PREDICTIONS.csv | seed MODEL
"""

import json
import os
import sys
import zlib
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


class Client:
    """The four entry points on arrays: a model is name -> array, data are x [examples, features] and y [examples], 0 or 1."""

    def seed(self, settings):
        """A first model; logistic regression has one best model, so that it may begin at 0."""
        return {"weights": np.zeros(settings["features"], np.float32), "bias": np.zeros(1, np.float32)}

    def train(self, model, settings, data):
        """The model after some epochs on this data, and what is to be said of it."""
        start = {name: array.astype(np.float64) for name, array in model.items() if "/" not in name}
        # What SCAFFOLD and FedDyn add to each step comes with the model; FedProx and FedDyn pull back to where training began.
        corrections = {name: model.get(f"correction/{name}", 0.0) for name in start}
        now, rate, pull = dict(start), settings["learning_rate"], settings["proximal"]
        # Another order of the examples in each round, and the same one when it is run again.
        rng = np.random.default_rng([settings["seed"], zlib.crc32(model["weights"].tobytes())])
        steps, loss = 0, 0.0
        for _ in range(settings["epochs"]):
            order, loss = rng.permutation(len(data["y"])), 0.0
            for batch in np.split(order, range(settings["batch_size"], len(order), settings["batch_size"])):
                x, y = data["x"][batch], data["y"][batch]
                scores = self._scores(now, x)
                slope = (1 / (1 + np.exp(-scores)) - y) / len(y)
                gradients = {"weights": x.T @ slope + settings["ridge"] * now["weights"], "bias": slope.sum(keepdims=True)}
                for name, gradient in gradients.items():
                    now[name] = now[name] - rate * (gradient + corrections[name] + pull * (now[name] - start[name]))
                loss += self._losses(scores, y).sum() / len(order)
                steps += 1
            print("::metrics", json.dumps({"step": steps, "loss": loss}), flush=True)
        update = {name: array.astype(model[name].dtype) for name, array in now.items()}
        return update, {"examples": len(data["y"]), "steps": steps, "metrics": {"loss": loss}}

    def validate(self, model, settings, data):
        """How good the model is on this data."""
        scores, right = self._scores(model, data["x"]), data["y"]
        accuracy = ((scores > 0) == right).mean()
        return {"loss": float(self._losses(scores, right).mean()), "accuracy": float(accuracy), "examples": len(right)}

    def predict(self, model, settings, data):
        """The likelier class of each example, and its probability."""
        scores = self._scores(model, data["x"])
        return [(int(score > 0), float(1 / (1 + np.exp(-abs(score))))) for score in scores]

    def _scores(self, model, x):
        return x @ model["weights"] + model["bias"]

    def _losses(self, scores, y):
        """Minus the logarithm of the right class's probability."""
        return np.logaddexp(0, np.where(y == 1, -scores, scores))


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
