"""The queue of a phase's jobs. A worker leases a job; what a dead or silent worker had is leased again. Pure: the caller has the clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from federation.simulation.errors import WorkersLost
from federation.simulation.worker import Job, Result


@dataclass
class Lease:
    """A job at a worker."""

    job: Job
    worker: int
    until: float


class JobQueue:
    """Jobs are drawn from `jobs` when they are asked for, at most `window` ahead of the first result that is missing.

    So neither jobs nor results pile up, and results come out in the order of the jobs, whoever was quickest.
    """

    def __init__(self, jobs: Iterator[Job], *, lease: float, tries: int, window: int) -> None:
        self._jobs, self._lease, self._tries, self._window = jobs, lease, tries, window
        self._again: deque[Job] = deque()
        self._leases: dict[int, Lease] = {}
        self._results: dict[int, Result] = {}
        self._losses: dict[int, int] = {}
        self._order: deque[int] = deque()
        self._drained = False

    @property
    def finished(self) -> bool:
        """Nothing is left to be leased, done or taken."""
        return self._drained and not self._order

    def next(self, worker: int, now: float) -> Job | None:
        """A job for that worker, or None if there is none at the moment."""
        job = self._again.popleft() if self._again else self._new()
        if job is not None:
            self._leases[job.number] = Lease(job, worker, now + self._lease)
        return job

    def done(self, worker: int, result: Result) -> None:
        """A result of the worker that has the lease; another's came too late, and counts for nothing."""
        lease = self._leases.get(result.number)
        if lease is not None and lease.worker == worker:
            del self._leases[result.number]
            self._results[result.number] = result

    def lost(self, worker: int) -> None:
        """The worker is gone. WorkersLost if one of its jobs has cost too many."""
        for lease in [lease for lease in self._leases.values() if lease.worker == worker]:
            number = lease.job.number
            del self._leases[number]
            self._losses[number] = self._losses.get(number, 0) + 1
            if self._losses[number] >= self._tries:
                devices = [task.device for task in lease.job.tasks]
                raise WorkersLost(
                    f"{self._tries} workers died or fell silent over the devices {devices[0]} to {devices[-1]} of round {lease.job.round}",
                    remedy="see what the workers wrote on standard error; give them memory, a smaller workers.chunk or a longer workers.lease",
                )
            self._again.append(lease.job)

    def expired(self, now: float) -> set[int]:
        """Workers whose lease has run out."""
        return {lease.worker for lease in self._leases.values() if lease.until <= now}

    def patience(self, now: float) -> float | None:
        """Seconds until the first lease runs out."""
        return max(min(lease.until for lease in self._leases.values()) - now, 0) if self._leases else None

    def ready(self) -> Iterator[Result]:
        """Results whose turn it is."""
        while self._order and self._order[0] in self._results:
            yield self._results.pop(self._order.popleft())

    def _new(self) -> Job | None:
        if self._drained or len(self._order) >= self._window:
            return None
        job = next(self._jobs, None)
        if job is None:
            self._drained = True
        else:
            self._order.append(job.number)
        return job
