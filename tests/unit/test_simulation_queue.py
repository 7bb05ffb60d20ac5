"""The queue of jobs: leases, those that run out, and the order of results."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from federation.simulation.errors import WorkersLost
from federation.simulation.queue import JobQueue
from federation.simulation.worker import Job, Result, Task

NOTHING = np.empty(0)


def jobs(count: int, drawn: list[int] | None = None) -> Iterator[Job]:
    for number in range(count):
        if drawn is not None:
            drawn.append(number)
        yield Job(number, "fit", 4, (Task(number * 10, 1, 1, 1, NOTHING), Task(number * 10 + 1, 1, 1, 1, NOTHING)), NOTHING, {})


def result(number: int) -> Result:
    return Result(number, NOTHING, NOTHING, NOTHING, {})


def numbers(queue: JobQueue) -> list[int]:
    return [ready.number for ready in queue.ready()]


def leased(queue: JobQueue, worker: int, now: float = 0) -> int | None:
    job = queue.next(worker, now)
    return None if job is None else job.number


def a_queue(count: int, **settings: int) -> JobQueue:
    return JobQueue(jobs(count), **({"lease": 10, "tries": 3, "window": 100} | settings))


def test_results_come_in_the_order_of_the_jobs() -> None:
    queue = a_queue(3)
    assert [leased(queue, worker) for worker in (0, 1, 2, 3)] == [0, 1, 2, None]
    queue.done(2, result(2))
    assert (numbers(queue), queue.finished) == ([], False)
    queue.done(0, result(0))
    queue.done(1, result(1))
    assert (numbers(queue), queue.finished) == ([0, 1, 2], True)


def test_a_dead_workers_job_is_leased_again() -> None:
    queue = a_queue(2)
    assert (leased(queue, 0), leased(queue, 1)) == (0, 1)
    queue.lost(0)
    assert leased(queue, 1) == 0


def test_a_silent_workers_lease_runs_out_and_what_it_says_later_counts_for_nothing() -> None:
    queue = a_queue(1)
    assert leased(queue, 0, now=5) == 0
    assert (queue.patience(8), queue.expired(14), queue.expired(15)) == (7, set(), {0})
    queue.lost(0)
    assert leased(queue, 1, now=15) == 0
    queue.done(0, result(0))
    assert numbers(queue) == []
    queue.done(1, result(0))
    assert numbers(queue) == [0]


def test_a_job_that_ends_its_workers_ends_the_simulation() -> None:
    queue = a_queue(2)
    for worker in (0, 1):
        assert leased(queue, worker) == 0
        queue.lost(worker)
    leased(queue, 2)
    with pytest.raises(WorkersLost, match="3 workers died or fell silent over the devices 0 to 1 of round 4"):
        queue.lost(2)


def test_jobs_are_drawn_when_they_are_wanted_and_no_further_than_the_window() -> None:
    drawn: list[int] = []
    queue = JobQueue(jobs(100, drawn), lease=10, tries=3, window=4)
    assert [leased(queue, 0) for _ in range(6)] == [0, 1, 2, 3, None, None]
    assert drawn == [0, 1, 2, 3]
    for number in (1, 2, 3):
        queue.done(0, result(number))
    # The first result is missing: nothing goes on past the window.
    assert (numbers(queue), leased(queue, 0)) == ([], None)
    queue.done(0, result(0))
    assert (numbers(queue), leased(queue, 0)) == ([0, 1, 2, 3], 4)


@given(data=some.data())
def test_whatever_workers_do_each_result_comes_once_and_in_order(data: some.DataObject) -> None:
    queue, seen, busy = a_queue(12, tries=1000, window=5), [], {}
    for _ in range(400):
        worker = data.draw(some.integers(0, 3))
        if worker not in busy:
            number = leased(queue, worker)
            if number is not None:
                busy[worker] = number
        elif data.draw(some.booleans()):
            queue.done(worker, result(busy.pop(worker)))
        else:
            busy.pop(worker)
            queue.lost(worker)
        seen += numbers(queue)
        assert seen == list(range(len(seen)))
        if queue.finished:
            assert len(seen) == 12
            return
