"""Where jobs run: in this process, in processes of their own, or by Dask. Results come in the order of the jobs from each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from itertools import islice
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol

from fdn_worker.errors import FdnError, SystemFault
from federation.simulation.configuration import Workers
from federation.simulation.datasets import Dataset
from federation.simulation.errors import WorkersLost
from federation.simulation.queue import JobQueue
from federation.simulation.worker import Initialisation, Job, Result, Worker, one_thread

#: Jobs under way for each worker: the next one is ready when a result comes.
AHEAD = 4


class Executor(Protocol):
    """Runs jobs."""

    def begin(self, told: Initialisation, dataset: Dataset) -> None:
        """Before the jobs of a repetition."""

    def run(self, jobs: Iterator[Job]) -> Iterator[Result]:
        """All results, in the order of the jobs, which are drawn as they are needed."""

    def close(self) -> None:
        """End what was started."""


def executor(workers: Workers) -> Executor:
    """As the section `workers` says."""
    if workers.kind == "in-process":
        return InProcess()
    return Dask(workers) if workers.kind == "dask" else Processes(workers)


class InProcess:
    """One after the other, here."""

    def begin(self, told: Initialisation, dataset: Dataset) -> None:
        self._worker = Worker(told, dataset)

    def run(self, jobs: Iterator[Job]) -> Iterator[Result]:
        with one_thread():
            yield from map(self._worker.run, jobs)

    def close(self) -> None:
        pass


class Processes:
    """Processes that pull jobs through a pipe each. One that dies or falls silent is replaced, and its job leased again."""

    def __init__(self, workers: Workers) -> None:
        self._settings = workers
        #: Data sets in files, until the end: a worker that starts slowly may still be on its way to an earlier one.
        self._folder = tempfile.TemporaryDirectory(prefix="fem-simulation-")
        self._datasets: list[Dataset] = []
        self._number = workers.number or os.cpu_count() or 1
        self._context = multiprocessing.get_context("spawn")
        self._started = 0
        #: Workers that ended before they were ready, since the last one that was.
        self._stillborn = 0
        self._told: tuple[Initialisation, Path] | None = None
        self._pipes: dict[int, Connection] = {}
        self._processes: dict[int, Any] = {}
        self._ready: set[int] = set()
        self._idle: set[int] = set()

    @property
    def pids(self) -> list[int]:
        """Of the processes that run."""
        return [process.pid for process in self._processes.values()]

    def begin(self, told: Initialisation, dataset: Dataset) -> None:
        if not self._datasets or dataset is not self._datasets[-1]:
            self._datasets.append(dataset)
            self._files.mkdir()
            dataset.save(self._files)
        self._told = (told, self._files)
        self._idle.clear()
        for worker in list(self._pipes):
            try:
                self._pipes[worker].send(self._told)
            except OSError:
                self._forget(worker)
        while len(self._pipes) < self._number:
            self._start()

    def run(self, jobs: Iterator[Job]) -> Iterator[Result]:
        queue = JobQueue(jobs, lease=self._settings.lease, tries=self._settings.tries, window=AHEAD * self._number)
        while not queue.finished:
            self._hand_out(queue)
            if not queue.finished:
                self._listen(queue)
            yield from queue.ready()

    def close(self) -> None:
        for worker in list(self._pipes):
            self._forget(worker)
        self._folder.cleanup()

    @property
    def _files(self) -> Path:
        return Path(self._folder.name, str(len(self._datasets)))

    def _hand_out(self, queue: JobQueue) -> None:
        for worker in sorted(self._idle):
            job = queue.next(worker, time.monotonic())
            if job is None:
                return
            self._idle.discard(worker)
            try:
                self._pipes[worker].send(job)
            except OSError:
                self._replace(worker, queue)

    def _listen(self, queue: JobQueue) -> None:
        """Wait for word of a worker, the end of one, or of a lease."""
        heard = wait(list(self._pipes.values()), queue.patience(time.monotonic()))
        for worker, pipe in [(worker, pipe) for worker, pipe in self._pipes.items() if pipe in heard]:
            try:
                said = pipe.recv()
            except (EOFError, OSError):
                self._replace(worker, queue)
                continue
            if isinstance(said, FdnError):
                raise said
            if isinstance(said, Result):
                queue.done(worker, said)
            else:
                self._ready.add(worker)
                self._stillborn = 0
            self._idle.add(worker)
        for worker in queue.expired(time.monotonic()):
            self._replace(worker, queue)

    def _start(self) -> None:
        here, there = self._context.Pipe()
        process = self._context.Process(target=serve, args=(there,), daemon=True, name=f"simulation-{self._started}")
        process.start()
        there.close()
        self._pipes[self._started], self._processes[self._started] = here, process
        self._started += 1
        # One that has ended already is noticed where it is listened to.
        with contextlib.suppress(OSError):
            here.send(self._told)

    def _replace(self, worker: int, queue: JobQueue) -> None:
        self._stillborn += worker not in self._ready
        if self._stillborn >= self._settings.tries:
            raise WorkersLost(f"{self._stillborn} workers ended before they were ready", remedy="see what they wrote on standard error")
        self._forget(worker)
        queue.lost(worker)
        self._start()

    def _forget(self, worker: int) -> None:
        """End it: it holds nothing that another could not do again."""
        self._idle.discard(worker)
        self._pipes.pop(worker).close()
        process = self._processes.pop(worker)
        process.kill()
        process.join()


def serve(pipe: Connection) -> None:
    """A worker process: what it is told, then jobs, until the pipe is closed."""
    # Ctrl-C is the parent's to answer.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    worker: Worker | None = None
    with one_thread():
        while True:
            try:
                said = pipe.recv()
            except EOFError:
                return
            try:
                if isinstance(said, tuple):
                    told, folder = said
                    worker = Worker(told, Dataset.map(folder))
                    pipe.send(None)
                elif worker is not None:
                    pipe.send(worker.run(said))
            except FdnError as error:
                pipe.send(error)


class Dask:
    """Jobs as tasks of Dask, whose scheduler gives those of a dead worker to another."""

    def __init__(self, workers: Workers) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise SystemFault("workers.kind: dask is not installed", code="extra-missing", remedy="install the extra `dask`") from error
        if workers.scheduler:
            self._client = Client(workers.scheduler)
        else:
            self._client = Client(n_workers=workers.number, threads_per_worker=1, dashboard_address=None)

    def begin(self, told: Initialisation, dataset: Dataset) -> None:
        self._told, self._dataset = self._client.scatter([told, dataset], broadcast=True)

    def run(self, jobs: Iterator[Job]) -> Iterator[Result]:
        ahead = AHEAD * max(sum(self._client.nthreads().values()), 1)
        # Of all the jobs only those that are under way exist.
        under_way = deque(self._submit(job) for job in islice(jobs, ahead))
        while under_way:
            result: Result = under_way.popleft().result()
            under_way.extend(self._submit(job) for job in islice(jobs, 1))
            yield result

    def close(self) -> None:
        self._client.close()

    def _submit(self, job: Job) -> Any:
        return self._client.submit(run_job, self._told, self._dataset, job, pure=False)


def run_job(told: Initialisation, dataset: Dataset, job: Job) -> Result:
    """One job at a worker of Dask."""
    with one_thread():
        return Worker(told, dataset).run(job)
