"""The centre of a simulation: repetitions, rounds, and the two phases of each."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from federation.nearest import unknown
from federation.simulation import costs, devices, selection_by_history
from federation.simulation.algorithms import Algorithm, Shared, Sums
from federation.simulation.configuration import Configuration, Evaluation, Fit
from federation.simulation.costs import Orders
from federation.simulation.datasets import Dataset, load
from federation.simulation.devices import Devices, Trace
from federation.simulation.errors import NoClient, SimulationError
from federation.simulation.executors import Executor, executor
from federation.simulation.history import History
from federation.simulation.partitions import partition
from federation.simulation.selection import SELECTIONS, Round, Selection, chosen
from federation.simulation.streams import Purpose, stream
from federation.simulation.training import Learner
from federation.simulation.updates import UPDATES, Given, Update, orders
from federation.simulation.worker import Job, Phase, Result, Task, initialisation, parts


@dataclass(frozen=True)
class Status:
    """A repetition that ended, as the centre saw it. Histories hold the first `rounds` rounds."""

    repetition: int
    rounds: int
    #: metric, loss or rounds: what ended it.
    stopped: str
    devices: Devices
    #: Examples of each class at each device [devices, classes].
    local_data_stats: np.ndarray
    weights: np.ndarray
    fit: History
    eval: History


@dataclass(frozen=True)
class Seen:
    """A round that ended, for who watches."""

    repetition: int
    round: int
    selected: int
    answered: int
    metric: float
    loss: float
    #: Simulated seconds since the repetition began.
    clock: float


Watch = Callable[[Seen], None]

#: Modules that register plug-ins, and of which nothing else is wanted.
REGISTERED = (selection_by_history,)


def check(configuration: Configuration) -> Dataset:
    """The data set. SimulationError for a name or hyperparameter that is wrong, before anything is trained."""
    algorithms, run, data = configuration.algorithms, configuration.simulation, configuration.data
    dataset = load(data.dataset, json.dumps(data.dataset_params), run.seed)
    shares = partition(configuration, dataset, devices.draw(configuration, 0).local_data_sizes, 0)
    learner, rule, aggregation = parts(initialisation(configuration, shares), dataset)
    if rule is not aggregation and not (rule.divisible and aggregation.divisible):
        raise SimulationError(
            f"algorithms.fit.aggregation: {algorithms.fit.aggregation} does not go with {algorithms.federated_algorithm}",
            remedy="leave it out: each algorithm has its own",
        )
    if learner.metrics is not None and run.metric not in learner.metrics:
        raise SimulationError(f"simulation.metric: there is no {run.metric!r}", remedy=unknown(run.metric, learner.metrics))
    for name in ("fit", "eval"):
        _rules(getattr(algorithms, name), name)
    return dataset


def simulate(configuration: Configuration, watch: Watch | None = None) -> list[Status]:
    """All repetitions, with workers of their own."""
    with contextlib.closing(executor(configuration.workers)) as jobs:
        return repetitions(configuration, jobs, watch)


def repetitions(configuration: Configuration, jobs: Executor, watch: Watch | None = None) -> list[Status]:
    """All repetitions. Results do not depend on who runs the jobs, but on `workers.chunk`, which is the order that sums are made in."""
    dataset = check(configuration)
    watch = watch or (lambda _: None)
    return [_Repetition(configuration, number, dataset, jobs, watch).run() for number in range(configuration.simulation.repetitions)]


class States:
    """What the algorithm keeps for each device, in a file: written for devices that took part, and no larger than they are many."""

    def __init__(self, folder: Path, rule: Algorithm, devices: int, size: int) -> None:
        self._fresh = rule.fresh(size)
        self._known = np.zeros(devices, dtype=bool)
        self._file = None
        if len(self._fresh):
            self._file = np.memmap(folder / "states", dtype=np.float64, mode="w+", shape=(devices, len(self._fresh)))

    def of(self, device: int) -> np.ndarray:
        """The device's state, or a fresh one."""
        return np.array(self._file[device]) if self._file is not None and self._known[device] else self._fresh

    def put(self, devices: np.ndarray, states: np.ndarray) -> None:
        """New states [devices, S]."""
        if self._file is not None:
            self._file[devices] = states
            self._known[devices] = True


@dataclass
class _Phase:
    """A phase of all rounds of a repetition, with plug-ins that may remember."""

    name: Phase
    settings: Evaluation
    history: History
    selection: Selection = field(init=False)
    update: Update = field(init=False)

    def __post_init__(self) -> None:
        self.selection, self.update = _rules(self.settings, self.name)


class _Repetition:
    """One repetition."""

    def __init__(self, configuration: Configuration, number: int, dataset: Dataset, jobs: Executor, watch: Watch) -> None:
        self._configuration, self._number, self._jobs, self._watch = configuration, number, jobs, watch
        drawn = devices.draw(configuration, number)
        shares = partition(configuration, dataset, drawn.local_data_sizes, number)
        self._devices = drawn.with_sizes(shares.sizes)
        self._stats = np.stack(
            [np.bincount(shares.share(dataset, device)[1], minlength=dataset.classes) for device in range(configuration.devices.num)]
        )
        told = initialisation(configuration, shares)
        #: Examples that a device can use in a phase: its own, and all there are for testing.
        self._examples = {"fit": shares.sizes, "eval": np.full(len(shares.sizes), len(dataset.test_y))}
        self._learner, self._rule, self._aggregation = parts(told, dataset)
        jobs.begin(told, dataset)
        self._trace = Trace.read(configuration.devices.trace, configuration.devices.num) if configuration.devices.trace else None
        self._clock = 0.0

    def run(self) -> Status:
        """All rounds, or until a condition stops it."""
        run, number = self._configuration.simulation, self._configuration.devices.num
        w = _first_weights(self._learner, self._configuration, self._number)
        self._aggregation.begin(len(w), number)
        fit = _Phase("fit", self._configuration.algorithms.fit, History(run.num_rounds, number))
        evaluation = _Phase("eval", self._configuration.algorithms.eval, History(run.num_rounds, number))
        stopped = "rounds"
        with tempfile.TemporaryDirectory(prefix="fem-simulation-") as folder:
            states = States(Path(folder), self._rule, number, len(w))
            for at in range(run.num_rounds):
                self._look_at_the_trace(at)
                w = self._run_phase(fit, at, w, states)
                self._run_phase(evaluation, at, w, states)
                self._clock += fit.history.times[at] + evaluation.history.times[at]
                metric, loss = float(evaluation.history.agg_metric[at]), float(evaluation.history.agg_loss[at])
                took = fit.history
                self._watch(Seen(self._number, at, int(took.selected[at].sum()), int(took.answered[at].sum()), metric, loss, self._clock))
                # NaN, where nobody evaluated, is neither.
                stopped = "metric" if metric >= run.stop_conds.metric else "loss" if loss <= run.stop_conds.loss else "rounds"
                if stopped != "rounds":
                    break
        return Status(self._number, fit.history.count, stopped, self._devices, self._stats, w, fit.history, evaluation.history)

    def _look_at_the_trace(self, at: int) -> None:
        """Who is there now; the clock goes on to when somebody is."""
        if self._trace is not None:
            moment = self._trace.next(self._clock)
            self._clock = self._clock if moment is None else moment
            self._devices.availability[at] = self._trace.at(self._clock)

    def _run_phase(self, phase: _Phase, at: int, w: np.ndarray, states: States) -> np.ndarray:
        """The next model; after an evaluation the same one."""
        history = phase.history
        selected, told = self._orders(phase, at, len(w))
        answering = selected[~self._devices.failures[at, selected]]
        shared = self._aggregation.shared() if phase.name == "fit" else {}
        groups: dict[int, np.ndarray] = {}
        sums: Sums = {}
        for result in self._jobs.run(self._make_jobs(phase.name, at, answering, told, w, shared, states, groups)):
            group = groups.pop(result.number)
            self._check(result, group, at)
            history.answers(group, result.losses, result.metrics)
            if phase.name == "fit":
                states.put(group, result.states)
                sums = {name: sums[name] + value if sums else value for name, value in result.sums.items()}
        if len(answering):
            weights = history.num_examples[at, answering]
            history.agg_loss[at] = np.average(history.loss[at, answering], weights=weights)
            history.agg_metric[at] = np.average(history.metric[at, answering], weights=weights)
        history.count += 1
        return self._aggregation.close(w, sums) if sums else w

    def _orders(self, phase: _Phase, at: int, size: int) -> tuple[np.ndarray, Orders]:
        """Who takes part in the phase, and what each is told; the costs go into the history."""
        drawn, params, seed, kind = self._devices, phase.settings.params, self._configuration.simulation.seed, int(phase.name == "eval")
        traffic = size * (self._rule.traffic if phase.name == "fit" else 1)
        iterations = costs.fit_iterations if phase.name == "fit" else costs.eval_iterations
        power = self._configuration.energy

        def price(told: Orders) -> costs.Costs:
            return costs.costs(iterations(told), drawn.ips, drawn.net_speed[at], traffic, traffic, power)

        def given(selected: np.ndarray) -> Given:
            return Given(params, selected, drawn.ips, stream(seed, Purpose.UPDATE, self._number, at, kind))

        available = np.flatnonzero(drawn.availability[at])
        everyone = orders(UPDATES.make("static", {}, "algorithms"), given(available), self._examples[phase.name])
        rng = stream(seed, Purpose.SELECTION, self._number, at, kind)
        now = Round(
            at, available, params.wanted(len(available)), rng, drawn.ips, drawn.energy, drawn.net_speed[at], drawn.local_data_sizes,
            price(everyone), traffic, phase.history,
        )  # fmt: skip
        selected = chosen(phase.selection, phase.settings.selection, now) if now.n else available[:0]
        if not len(selected) and self._configuration.simulation.empty_rounds == "error":
            raise NoClient(
                f"repetition {self._number}, round {at}, {phase.name}: no client takes part ({len(available)} of {len(drawn.ips)} devices are "
                f"available, {now.n} asked for)",
                remedy="raise devices.p_available or k, mend the trace, or say simulation.empty_rounds: skip",
            )
        told = orders(phase.update, given(selected), self._examples[phase.name])
        phase.history.order(selected, told, price(told), traffic, traffic)
        return selected, told

    def _make_jobs(
        self, phase: Phase, at: int, answering: np.ndarray, told: Orders, w: np.ndarray, shared: Shared, states: States,
        groups: dict[int, np.ndarray],
    ) -> Iterator[Job]:  # fmt: skip
        """One for each group of devices, made when it is asked for; `groups` says who is in those that are under way."""
        # As equal as can be: where the last job is a small one, workers wait for each other.
        count = -(-len(answering) // self._configuration.workers.chunk)
        for number, group in enumerate(np.array_split(answering, count) if count else []):
            groups[number] = group
            tasks = tuple(
                Task(
                    device, int(told.epochs[device]), int(told.batch_size[device]), int(told.num_examples[device]),
                    states.of(device) if phase == "fit" else np.empty(0),
                )
                for device in group.tolist()
            )  # fmt: skip
            yield Job(number, phase, at, tasks, w, shared)

    def _check(self, result: Result, group: np.ndarray, at: int) -> None:
        if not all(np.isfinite(values).all() for values in (result.losses, *result.sums.values())):
            wrong = group[~np.isfinite(result.losses)]
            which = f"device {wrong[0]}" if len(wrong) else f"a device of {group[0]} to {group[-1]}"
            raise SimulationError(
                f"repetition {self._number}, round {at}: {which} trained to weights or a loss that are no finite numbers",
                remedy="lower algorithms.optimizer_params.learning_rate",
            )


def _rules(settings: Evaluation | Fit, name: str) -> tuple[Selection, Update]:
    """Fresh plug-ins of a phase."""
    return (
        SELECTIONS.make(settings.selection, settings.selection_params, f"algorithms.{name}.selection"),
        UPDATES.make(settings.update, settings.update_params, f"algorithms.{name}.update"),
    )


def _first_weights(learner: Learner, configuration: Configuration, repetition: int) -> np.ndarray:
    if configuration.simulation.initializer == "zeros":
        return np.zeros(learner.size)
    return learner.start(stream(configuration.simulation.seed, Purpose.WEIGHTS, repetition))
