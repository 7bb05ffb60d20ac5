"""Data sets by name. A data set is features, classes, and the same for testing."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from federation.simulation.errors import SimulationError
from federation.simulation.plugins import Plugin, Registry
from federation.simulation.streams import Purpose, stream


@dataclass(frozen=True)
class Dataset:
    """`x` [examples, features] of floats, `y` [examples] of classes from 0 on."""

    x: np.ndarray
    y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray

    @property
    def features(self) -> int:
        return int(self.x.shape[1])

    @property
    def classes(self) -> int:
        return int(max(self.y.max(), self.test_y.max())) + 1

    def save(self, folder: Path) -> None:
        """Into files that other processes map, so that all share one copy."""
        for part in fields(self):
            np.save(folder / f"{part.name}.npy", getattr(self, part.name))

    @classmethod
    def map(cls, folder: Path) -> Dataset:
        """What was saved there."""
        return cls(*(np.asarray(np.load(folder / f"{part.name}.npy", mmap_mode="r")) for part in fields(cls)))


class Source(Plugin):
    """A kind of data set."""

    def load(self, seed: int) -> Dataset:
        """The same seed gives the same data, in every process."""
        raise NotImplementedError


DATASETS: Registry[Source] = Registry("datasets")

Share = Annotated[float, Field(gt=0, lt=1)]


@DATASETS.register("digits")
class Digits(Source):
    """1,797 images of handwritten digits that scikit-learn ships, 8 x 8 or enlarged to the 28 x 28 of MNIST."""

    test_share: Share = 0.2
    side: Annotated[int, Field(ge=8, le=64)] = 8

    def load(self, seed: int) -> Dataset:
        bunch = _shipped("load_digits")
        at = np.arange(self.side) * 8 // self.side
        images = (bunch.images / 16.0)[:, at][:, :, at]
        return _split(images.reshape(len(images), -1), bunch.target.astype(np.int64), self.test_share, seed)


@DATASETS.register("breast-cancer")
class BreastCancer(Source):
    """569 tumours that scikit-learn ships, 30 features of each, standardised; class 1 is benign."""

    test_share: Share = 0.2

    def load(self, seed: int) -> Dataset:
        bunch = _shipped("load_breast_cancer")
        x = (bunch.data - bunch.data.mean(0)) / bunch.data.std(0)
        return _split(x, bunch.target.astype(np.int64), self.test_share, seed)


@DATASETS.register("synthetic")
class Synthetic(Source):
    """A cloud of points for each class, around a centre of its own."""

    examples: Annotated[int, Field(ge=10)] = 2000
    features: Annotated[int, Field(ge=1)] = 20
    classes: Annotated[int, Field(ge=2)] = 4
    #: Standard deviation within a class; the centres have 1.
    spread: Annotated[float, Field(gt=0)] = 1.0
    test_share: Share = 0.2

    def load(self, seed: int) -> Dataset:
        rng = stream(seed, Purpose.DATA, 1)
        y = np.arange(self.examples) % self.classes
        x = rng.normal(size=(self.classes, self.features))[y] + self.spread * rng.normal(size=(self.examples, self.features))
        return _split(x, y, self.test_share, seed)


@DATASETS.register("file")
class NumpyFile(Source):
    """An .npz file with the arrays x, y, test_x, test_y; such as MNIST. Features are flattened."""

    path: Path
    #: What features are divided by; 255 for grey levels.
    scale: Annotated[float, Field(gt=0)] = 1.0

    def load(self, seed: int) -> Dataset:  # noqa: ARG002 - the file says what is for testing
        try:
            with np.load(self.path, allow_pickle=False) as file:
                missing = sorted({"x", "y", "test_x", "test_y"} - set(file.files))
                if missing:
                    raise SimulationError(f"{self.path}: there is no array {missing[0]}", remedy="save x, y, test_x and test_y")
                x, y, test_x, test_y = (file[name] for name in ("x", "y", "test_x", "test_y"))
        except (OSError, ValueError) as error:
            raise SimulationError(
                f"data.dataset_params.path: {self.path} cannot be read: {error}", remedy="write it with np.savez"
            ) from error
        for part, features, classes in (("", x, y), ("test_", test_x, test_y)):
            if not len(features) or len(features) != len(classes):
                raise SimulationError(f"{self.path}: {part}x has {len(features)} examples and {part}y {len(classes)}")
            if not np.issubdtype(classes.dtype, np.integer) or classes.min() < 0 or not np.isfinite(features).all():
                raise SimulationError(f"{self.path}: {part}x must be finite numbers, {part}y classes from 0 on")
        if x.shape[1:] != test_x.shape[1:]:
            raise SimulationError(f"{self.path}: examples of x are {x.shape[1:]}, those of test_x {test_x.shape[1:]}")
        return Dataset(_flat(x) / self.scale, y.astype(np.int64), _flat(test_x) / self.scale, test_y.astype(np.int64))


@lru_cache(maxsize=2)
def load(name: str, parameters: str, seed: int) -> Dataset:
    """The data set of that name, its hyperparameters as JSON; the same object for variants that share it, and so one copy for all workers."""
    return DATASETS.make(name, json.loads(parameters), "data.dataset").load(seed)


def _shipped(name: str) -> Any:
    """A data set that comes with scikit-learn."""
    try:
        from sklearn import datasets
    except ImportError as error:
        raise SimulationError("data.dataset: this one comes with scikit-learn", remedy="install the extra `learning`") from error
    return getattr(datasets, name)()


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).astype(np.float64)


def _split(x: np.ndarray, y: np.ndarray, share: float, seed: int) -> Dataset:
    order = stream(seed, Purpose.DATA, 0).permutation(len(y))
    test, rest = np.split(order, [round(share * len(y))])
    return Dataset(x[rest], y[rest], x[test], y[test])
