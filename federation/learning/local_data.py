"""Data for nodes on this machine: a data set of the simulation, shared out, as a folder for each node.

    FOLDER/NODE/DATASET/train.npz, test.npz    arrays x [examples, features] of floats, y [examples] of classes from 0 on

The part for testing is dealt out evenly, each example to one node: the nodes' mean accuracy, weighted by examples, is that over all of it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from pydantic import Field

from fdn_worker.protocol.base import Id
from federation.simulation.configuration import Data, Natural, Parameters, Positive, Section
from federation.simulation.datasets import load
from federation.simulation.errors import SimulationError
from federation.simulation.partitions import dirichlet, mislabelled
from federation.simulation.streams import Purpose, stream

Arrays = dict[str, np.ndarray]


class Shares(Section):
    """Which examples a node holds, with the keys of the simulation; each example lies at one node."""

    #: 0 deals them out evenly, anything else is the alpha of a Dirichlet distribution by class.
    non_iid_partitions: float = Field(0.0, ge=0)
    min_examples: Positive = 10
    tries: Positive = 1000
    mislabelling_percentage: float = Field(0.0, ge=0, le=100)


class LocalData(Section):
    """The section `local` of a session file."""

    nodes: Positive = 10
    dataset: Id = "digits"
    dataset_params: Parameters = Field(default_factory=dict)
    partition: Shares = Shares()
    seed: Natural = 123

    def names(self) -> tuple[str, ...]:
        """The nodes: site-01, site-02 and so on."""
        return tuple(f"site-{number:0{max(2, len(str(self.nodes)))}d}" for number in range(1, self.nodes + 1))

    def shares(self) -> dict[str, dict[str, Arrays]]:
        """Node -> train and test -> its arrays. SimulationError where the data set does not go round."""
        data = load(self.dataset, json.dumps(self.dataset_params), self.seed)
        if self.nodes * self.partition.min_examples > len(data.y) or self.nodes > len(data.test_y):
            raise SimulationError(
                f"local.nodes: {self.dataset} has {len(data.y)} examples to train on and {len(data.test_y)} for testing, too few for {self.nodes} "
                f"nodes with {self.partition.min_examples} each",
                remedy="fewer nodes, or a lower partition.min_examples",
            )
        tests = np.array_split(stream(self.seed, Purpose.PARTITION, 1).permutation(len(data.test_y)), self.nodes)
        return {
            node: {"train": {"x": data.x[held], "y": self._labels(number, data.y[held])}, "test": {"x": data.test_x[test], "y": data.test_y[test]}}
            for number, (node, held, test) in enumerate(zip(self.names(), self._held(data.y), tests, strict=True))
        }  # fmt: skip

    def write(self, folder: Path) -> dict[str, dict[str, Path]]:
        """The same as files: node -> name of the data set -> its folder."""
        written = {}
        for node, parts in self.shares().items():
            place = folder / node / self.dataset
            place.mkdir(parents=True, exist_ok=True)
            for part, arrays in parts.items():
                np.savez(place / f"{part}.npz", x=arrays["x"], y=arrays["y"])
            # A container's user is not this one.
            for path in (folder, place.parent, place):
                path.chmod(0o755)
            written[node] = {self.dataset: place}
        return written

    def _held(self, y: np.ndarray) -> tuple[np.ndarray, ...]:
        rng = stream(self.seed, Purpose.PARTITION, 0)
        if not self.partition.non_iid_partitions:
            return tuple(np.array_split(rng.permutation(len(y)), self.nodes))
        return dirichlet(rng, y, self.nodes, Data(dataset=self.dataset, **self.partition.model_dump()))

    def _labels(self, number: int, labels: np.ndarray) -> np.ndarray:
        percentage = self.partition.mislabelling_percentage
        return mislabelled(stream(self.seed, Purpose.LABELS, 0, number), labels, percentage) if percentage else labels
