"""Which examples a device holds, and under which labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from federation.simulation.configuration import Configuration, Data
from federation.simulation.datasets import Dataset
from federation.simulation.errors import SimulationError
from federation.simulation.streams import Purpose, Rng, stream


@dataclass(frozen=True)
class Partition:
    """The shares of one repetition. Where `table` is None a device's share is drawn when it is wanted, from a stream of its own."""

    seed: int
    repetition: int
    sizes: np.ndarray
    mislabelling: float
    table: tuple[np.ndarray, ...] | None = None

    def share(self, dataset: Dataset, device: int) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the device's examples, and their labels as the device has them."""
        if self.table is not None:
            held = self.table[device]
        else:
            rng = stream(self.seed, Purpose.PARTITION, self.repetition, device)
            held = rng.choice(len(dataset.y), self.sizes[device], replace=False)
        labels = dataset.y[held]
        if self.mislabelling:
            labels = mislabelled(stream(self.seed, Purpose.LABELS, self.repetition, device), labels, self.mislabelling)
        return held, labels


def partition(configuration: Configuration, dataset: Dataset, sizes: np.ndarray, repetition: int) -> Partition:
    """IID, each device samples without replacement and devices may overlap; or by a Dirichlet distribution, each example once."""
    data, seed = configuration.data, configuration.simulation.seed
    if data.non_iid_partitions:
        rng = stream(seed, Purpose.PARTITION, repetition)
        table = dirichlet(rng, dataset.y, configuration.devices.num, data)
        return Partition(seed, repetition, np.array([len(held) for held in table]), data.mislabelling_percentage, table)
    if sizes.max() > len(dataset.y):
        raise SimulationError(
            f"data.num_examples_mean: a device is to hold {sizes.max()} examples, and {data.dataset} has {len(dataset.y)} to train on",
            remedy="lower num_examples_mean and num_examples_var",
        )
    return Partition(seed, repetition, sizes, data.mislabelling_percentage)


def dirichlet(rng: Rng, y: np.ndarray, devices: int, data: Data) -> tuple[np.ndarray, ...]:
    """Each class is shared out by Dirichlet(alpha); drawn again until every device has enough."""
    if devices * data.min_examples > len(y):
        raise SimulationError(
            f"data.non_iid_partitions: {devices} devices with {data.min_examples} examples or more do not fit into {len(y)} examples",
            remedy="lower devices.num or data.min_examples, or take a larger data set",
        )
    for _ in range(data.tries):
        table = _dirichlet_once(rng, y, devices, data.non_iid_partitions)
        if table is not None and min(map(len, table)) >= data.min_examples:
            return table
    raise SimulationError(
        f"data.non_iid_partitions: alpha {data.non_iid_partitions:g} gave some device fewer than {data.min_examples} examples, {data.tries} times",
        remedy="raise alpha, or lower devices.num or data.min_examples",
    )


def _dirichlet_once(rng: Rng, y: np.ndarray, devices: int, alpha: float) -> tuple[np.ndarray, ...] | None:
    parts: list[list[np.ndarray]] = [[] for _ in range(devices)]
    held = np.zeros(devices, dtype=np.int64)
    for label in range(int(y.max()) + 1):
        mine = rng.permutation(np.flatnonzero(y == label))
        # Nobody gets more of a class once it holds its share of all examples.
        shares = rng.dirichlet(np.full(devices, alpha)) * (held < len(y) / devices)
        if not shares.sum() > 0:
            return None  # with a small alpha all the weight can lie on those that are full
        cuts = np.rint(np.cumsum(shares / shares.sum())[:-1] * len(mine)).astype(np.int64)
        for device, part in enumerate(np.split(mine, cuts)):
            if len(part):
                parts[device].append(part)
                held[device] += len(part)
    if not all(parts):
        return None
    return tuple(np.concatenate(own) for own in parts)


def mislabelled(rng: Rng, labels: np.ndarray, percentage: float) -> np.ndarray:
    """That percentage of the labels is permuted among themselves."""
    chosen = rng.choice(len(labels), round(len(labels) * percentage / 100), replace=False)
    wrong = labels.copy()
    wrong[chosen] = labels[rng.permutation(chosen)]
    return wrong
