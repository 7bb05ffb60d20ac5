"""A client package as a model: what runs at nodes is simulated as it is, by its class or, a process for each device, by its program.

It is told, over its own settings: features and classes of the data set, epochs, batch_size, learning_rate, proximal and seed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from pydantic import Field, JsonValue

from federation.learning.client_state import PREFIX
from federation.learning.local_client import Arrays, Way, local_client
from federation.learning.package import Package
from federation.simulation.algorithms import Algorithm, Shared, Updates
from federation.simulation.errors import SimulationError
from federation.simulation.models import MODELS, Model
from federation.simulation.streams import Rng
from federation.simulation.training import Learner, Local, Trained


@MODELS.register("package")
class PackageModel(Model):
    """A client package, from where the configuration's file lies."""

    package: Path
    run: Way = "in-process"
    settings: dict[str, JsonValue] = Field(default_factory=dict)

    def learner(self, features: int, classes: int) -> Learner:
        return PackageLearner(self, {"features": features, "classes": classes})


class PackageLearner:
    """Its first model says which arrays there are; weights are all of them, in the order of their names, which files do not keep."""

    metrics: Collection[str] | None = None

    def __init__(self, model: PackageModel, data: dict[str, JsonValue]) -> None:
        package = Package.load(model.package)
        self._name, self._client = package.name, local_client(package, model.run)
        self._settings = package.settings | data | model.settings
        self._first = dict(sorted(self._client.seed(self._settings).items()))
        if wrong := [name for name, array in self._first.items() if array.dtype.kind != "f"]:
            raise SimulationError(f"{self._name}: {wrong[0]} of its model is {self._first[wrong[0]].dtype}, and only floats are simulated")
        self.size = sum(array.size for array in self._first.values())

    def start(self, rng: Rng) -> np.ndarray:
        return self._flat(self._client.seed(self._settings | {"seed": _seed(rng)}))

    def train(self, rule: Algorithm, rate: float, w: np.ndarray, shared: Shared, work: Sequence[Local], *, together: bool) -> Trained:  # noqa: ARG002
        """One after the other. A device's state is looked at before and after, not at each epoch: those are the program's own."""
        if type(rule).correction is not Algorithm.correction:
            raise SimulationError(f"{type(rule).__name__} has a correction that a package cannot be told", remedy="say it by `pull`")
        done = [self._train_one(rule, rate, w, shared, local) for local in work]
        extra = {name: np.stack([more[name] for *_, more in done]) for name in done[0][5]}
        weights, examples, steps, losses, states = (np.array([one[part] for one in done]) for part in range(5))
        return Trained(Updates(w, weights, examples, steps, extra), losses, states)

    def evaluate(
        self, w: np.ndarray, x: np.ndarray, y: np.ndarray, samples: Sequence[np.ndarray], metric: str
    ) -> tuple[np.ndarray, np.ndarray]:
        model = self._arrays(w)
        said = [self._client.validate(model, self._settings, {"x": x[chosen], "y": y[chosen]}) for chosen in samples]
        for name in ("loss", metric):
            if any(name not in one for one in said):
                raise SimulationError(
                    f"simulation.metric: {self._name} tells no {name} when it validates", remedy=f"it tells {', '.join(said[0])}"
                )
        return np.array([one["loss"] for one in said]), np.array([one[metric] for one in said])

    def _train_one(
        self, rule: Algorithm, rate: float, w: np.ndarray, shared: Shared, local: Local
    ) -> tuple[np.ndarray, float, float, float, np.ndarray, dict[str, np.ndarray]]:
        """Weights, examples, steps, loss, state, and what else the device sends."""
        pull, model = rule.pull(local.state, shared), self._arrays(w)
        if pull.constant is not None:
            model |= {PREFIX + name: array for name, array in self._arrays(pull.constant).items()}
        settings = self._settings | {
            "epochs": local.epochs, "batch_size": local.batch_size, "learning_rate": rate, "seed": _seed(local.rng),
            "proximal": 0.0 if pull.proximal is None else float(pull.proximal[0]),
        }  # fmt: skip
        update = self._client.train(model, settings, {"x": local.x, "y": local.y})
        v, info = self._flat(update.model), update.info
        if info.examples is None or info.steps is None or "loss" not in info.metrics:
            raise SimulationError(f"{self._name}: its update says no examples, steps or loss", remedy="see reference/learning.md")
        state = rule.after_epoch(local.state, np.array(info.metrics["loss"]))
        state, extra = rule.after(v, w, state, shared, np.array([info.steps]), rate)
        return v, info.examples, info.steps, info.metrics["loss"], state, extra

    def _arrays(self, w: np.ndarray) -> Arrays:
        """The arrays of a vector, in the dtypes of the package."""
        ends = np.cumsum([array.size for array in self._first.values()])
        parts = np.split(w, ends[:-1])
        return {name: part.reshape(array.shape).astype(array.dtype) for (name, array), part in zip(self._first.items(), parts, strict=True)}

    def _flat(self, arrays: Arrays) -> np.ndarray:
        """The inverse of `_arrays`; SimulationError where they are others."""
        if shapes(arrays) != shapes(self._first):
            raise SimulationError(
                f"{self._name}: its model was {shapes(self._first)}, and now is {shapes(arrays)}", remedy="mend the package"
            )
        return np.concatenate([arrays[name].reshape(-1) for name in self._first]).astype(np.float64)


def shapes(arrays: Arrays) -> dict[str, str]:
    """What arrays look like, for comparison and to be read."""
    return {name: f"{arrays[name].dtype}{list(arrays[name].shape)}" for name in sorted(arrays)}


def _seed(rng: Rng) -> int:
    return int(rng.integers(2**31))
