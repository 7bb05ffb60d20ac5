"""A worker: it is told once how to train and what each device holds, then gets jobs.

It never sees availability, energy, speeds or what became of other jobs: the centre's status and a worker's are different things.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from fdn_worker.errors import SystemFault
from federation.simulation import package_model
from federation.simulation.algorithms import ALGORITHMS, Algorithm, Shared, Sums
from federation.simulation.configuration import Configuration
from federation.simulation.datasets import Dataset
from federation.simulation.models import MODELS
from federation.simulation.partitions import Partition
from federation.simulation.streams import Purpose, Rng, stream
from federation.simulation.training import Learner, Local

#: Modules that register models, and of which nothing else is wanted.
REGISTERED = (package_model,)

Phase = Literal["fit", "eval"]


@dataclass(frozen=True)
class Initialisation:
    """What a worker is told before a repetition. Hyperparameters are JSON."""

    seed: int
    repetition: int
    model: tuple[str, str]
    algorithm: tuple[str, str]
    aggregation: str
    metric: str
    rate: float
    vectorised: bool
    partition: Partition


@dataclass(frozen=True)
class Task:
    """A device's part of a job."""

    device: int
    epochs: int
    batch_size: int
    num_examples: int
    state: np.ndarray


@dataclass(frozen=True)
class Job:
    """Some devices' part of a round. `number` counts within the phase of the round."""

    number: int
    phase: Phase
    round: int
    tasks: tuple[Task, ...]
    weights: np.ndarray
    shared: Shared


@dataclass(frozen=True)
class Result:
    """What a job came to, in the order of its tasks: losses and metrics, new states [C, S], and sums over the updates."""

    number: int
    losses: np.ndarray
    metrics: np.ndarray
    states: np.ndarray
    sums: Sums


def initialisation(configuration: Configuration, partition: Partition) -> Initialisation:
    """What the workers of a repetition are told."""
    run, algorithms = configuration.simulation, configuration.algorithms
    return Initialisation(
        seed=run.seed, repetition=partition.repetition, partition=partition, metric=run.metric,
        model=(run.model_name, json.dumps(run.model_params)),
        algorithm=(algorithms.federated_algorithm, json.dumps(algorithms.federated_algorithm_params)),
        aggregation=algorithms.fit.aggregation or algorithms.federated_algorithm, rate=algorithms.optimizer_params.learning_rate,
        vectorised=configuration.workers.vectorised,
    )  # fmt: skip


def parts(initialisation: Initialisation, dataset: Dataset) -> tuple[Learner, Algorithm, Algorithm]:
    """The model, the devices' part of the algorithm, and the one that aggregates; often the same."""
    name, parameters = initialisation.model
    learner = MODELS.make(name, json.loads(parameters), "simulation.model_name").learner(dataset.features, dataset.classes)
    name, parameters = initialisation.algorithm
    rule = ALGORITHMS.make(name, json.loads(parameters), "algorithms.federated_algorithm")
    other = initialisation.aggregation
    return learner, rule, rule if other == name else ALGORITHMS.make(other, {}, "algorithms.fit.aggregation")


class Worker:
    """Runs the jobs of one repetition."""

    def __init__(self, told: Initialisation, dataset: Dataset) -> None:
        self._told, self._dataset = told, dataset
        self._learner, self._rule, self._aggregation = parts(told, dataset)
        self._rate = self._rule.rate(told.rate)

    def run(self, job: Job) -> Result:
        """Train, or evaluate, the devices of the job."""
        return self._fit(job) if job.phase == "fit" else self._evaluate(job)

    def _fit(self, job: Job) -> Result:
        work = [self._local(job, task) for task in job.tasks]
        trained = self._learner.train(self._rule, self._rate, job.weights, job.shared, work, together=self._told.vectorised)
        return Result(job.number, trained.losses, np.full(len(work), np.nan), trained.states, self._aggregation.terms(trained.updates))

    def _local(self, job: Job, task: Task) -> Local:
        """Some of what the device holds, at random."""
        rng = self._stream(Purpose.TRAINING, job, task)
        held, labels = self._told.partition.share(self._dataset, task.device)
        chosen = rng.choice(len(held), task.num_examples, replace=False)
        return Local(self._dataset.x[held[chosen]], labels[chosen], task.epochs, task.batch_size, task.state, rng)

    def _evaluate(self, job: Job) -> Result:
        """The global model on test data, a sample for each device."""
        x, y = self._dataset.test_x, self._dataset.test_y
        samples = [self._stream(Purpose.EVALUATION, job, task).choice(len(y), task.num_examples, replace=False) for task in job.tasks]
        losses, metrics = self._learner.evaluate(job.weights, x, y, samples, self._told.metric)
        return Result(job.number, losses, metrics, np.empty((len(job.tasks), 0)), {})

    def _stream(self, purpose: Purpose, job: Job, task: Task) -> Rng:
        return stream(self._told.seed, purpose, self._told.repetition, job.round, task.device)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Linear algebra on one thread: workers are what runs side by side, and the last bit depends on no number of processors."""
    with _libraries().limit(limits=1):
        yield


@lru_cache(maxsize=1)
def _libraries() -> Any:
    """Looking for them takes milliseconds."""
    try:
        from threadpoolctl import ThreadpoolController
    except ImportError as error:
        raise SystemFault("threadpoolctl is missing", code="extra-missing", remedy="install the extra `learning`") from error
    return ThreadpoolController()
