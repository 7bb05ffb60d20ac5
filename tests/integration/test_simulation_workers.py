"""Workers of a simulation that are processes: the same bits whatever their number, and whoever dies."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.spawn
import os
import signal
import tracemalloc
from typing import Any

import pytest

from federation.simulation.configuration import Configuration
from federation.simulation.errors import WorkersLost
from federation.simulation.executors import Processes
from federation.simulation.simulator import Seen, Status, check, repetitions, simulate


def configured(algorithm: str = "scaffold", rounds: int = 3, **workers: Any) -> Configuration:
    return Configuration.model_validate({
        "simulation": {"repetitions": 2, "num_rounds": rounds}, "devices": {"num": 40},
        "data": {"dataset": "synthetic", "num_examples_mean": 80}, "algorithms": {"federated_algorithm": algorithm},
        "workers": {"chunk": 4} | workers,
    })  # fmt: skip


def bits(statuses: list[Status]) -> list[bytes]:
    return [part.tobytes() for status in statuses for part in (status.weights, status.fit.loss, status.eval.metric)]


@pytest.fixture(scope="module")
def here() -> list[bytes]:
    """What this process makes of it."""
    return bits(simulate(configured(kind="in-process")))


@pytest.mark.parametrize("number", [1, 3])
def test_the_same_bits_whatever_the_number_of_processes(here: list[bytes], number: int) -> None:
    assert bits(simulate(configured(number=number))) == here


def test_the_same_bits_where_workers_are_killed(here: list[bytes]) -> None:
    configuration = configured(number=2)
    killed: list[int] = []
    with contextlib.closing(Processes(configuration.workers)) as jobs:

        def kill(seen: Seen) -> None:
            pid = jobs.pids[seen.round % 2]
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

        assert bits(repetitions(configuration, jobs, kill)) == here
    # Each was another one: those that died were replaced.
    assert len(set(killed)) == 6


def test_the_same_bits_where_a_worker_falls_silent(here: list[bytes]) -> None:
    configuration = configured(number=2, lease=3.0)
    stopped: list[int] = []
    with contextlib.closing(Processes(configuration.workers)) as jobs:

        def stop(seen: Seen) -> None:
            # Both: one of them may not be ready yet, and would never be asked for anything.
            if not stopped:
                stopped.extend(jobs.pids)
                for pid in stopped:
                    os.kill(pid, signal.SIGSTOP)

        assert bits(repetitions(configuration, jobs, stop)) == here
        assert set(stopped) - set(jobs.pids)
    for pid in stopped:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_job_that_no_worker_gets_done_ends_the_simulation_by_name() -> None:
    with pytest.raises(WorkersLost, match=r"2 workers died or fell silent over the devices \d+ to \d+ of round 0"):
        simulate(configured(number=1, lease=1e-6, tries=2))


def test_workers_that_cannot_start_end_the_simulation() -> None:
    python = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable("/bin/false")
    try:
        with pytest.raises(WorkersLost, match="3 workers ended before they were ready"):
            simulate(configured(number=1))
    finally:
        multiprocessing.set_executable(python)


def test_memory_does_not_grow_with_devices_times_weights() -> None:
    configuration = Configuration.model_validate({
        "simulation": {"repetitions": 1, "num_rounds": 3, "model_name": "mlp", "model_params": {"hidden": [200]}},
        "devices": {"num": 10_000, "p_available": 1, "p_fail": 0}, "workers": {"kind": "in-process", "chunk": 16},
        "algorithms": {"fit": {"params": {"n": 300, "epochs": 1, "num_examples": 32}}, "eval": {"params": {"n": 10}}},
        "data": {"dataset": "synthetic", "dataset_params": {"features": 60}, "num_examples_mean": 50},
    })  # fmt: skip
    check(configuration)
    tracemalloc.start()
    [status] = simulate(configuration)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # 13,004 weights: those of the devices of three rounds would be 94 MB, those of all devices 1 GB.
    assert status.fit.answered.sum() == 900
    assert peak < 40_000_000


def test_dask_gives_the_same_bits(here: list[bytes]) -> None:
    assert bits(simulate(configured(kind="dask", number=1))) == here
