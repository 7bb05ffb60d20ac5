"""A burst of 50 no-op containers at a node of 4 slots, against the Docker SDK alone with 4 threads.

Ours is the time from the first order's publish until the last event of the last run was delivered to the relay and
nothing of any container is left; the floor is 50 bare containers (see `bare`) through a pool of 4 threads. RabbitMQ and
the folder store. The two take turns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks.bare import NOTHING, Bare
from benchmarks.harness import Figure, Median, in_turn
from benchmarks.house import Services, house

SLOTS = 4


def measure(services: Services, quick: bool) -> Iterator[Figure]:
    count = 12 if quick else 50
    with ExitStack() as stack:
        bare = Bare(services, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fem-bench-"))))
        stack.callback(bare.close)
        one = stack.enter_context(house(services, slots=SLOTS, heartbeat=10.0))

        def ours(containers: int = count) -> float:
            burst = [one.stage(*NOTHING, image=services.images["busybox"]) for _ in range(containers)]
            began = time.perf_counter()
            for submission in burst:
                one.send(submission)
            for submission in burst:
                one.inbox.end_of(submission)
            for submission in burst:
                one.settled(submission)
            return time.perf_counter() - began

        def floor(containers: int = count) -> float:
            began = time.perf_counter()
            with ThreadPoolExecutor(SLOTS) as pool:
                list(pool.map(lambda _: bare.run(), range(containers)))
            return time.perf_counter() - began

        ours(8)
        floor(8)
        rounds = in_turn(1 if quick else 8, ours, floor, warm=0)
    mine, theirs = (Median.of([count / taken[which] for taken in rounds]) for which in range(2))
    yield Figure(
        f"burst of {count} no-op containers at {SLOTS} slots", f"{mine.value:.2f} containers/s",
        f"Docker SDK, {SLOTS} threads {theirs.value:.2f} containers/s",
        Median.of([100 * taken[1] / taken[0] for taken in rounds]), " %", 85.0, most=False,
    )  # fmt: skip
