"""Worker overhead: a no-op container ordered from a node, against the same container run bare through the Docker SDK.

Ours is the time from the start of the order's publish to the run's last event (SUCCEEDED), taken where that is delivered
to the relay, in this process; RabbitMQ delivers it no sooner than it confirms it to the node. In between lie the order's
publish and confirm, the journal's commits, the container from create to its end, outputs and manifest staged out by
signed URLs that the relay grants, and five events. Bare is create, start, wait, logs and remove. The two take turns, and
a turn begins only once the worker has cleared the one before away.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.bare import NOTHING, Bare
from benchmarks.harness import Figure, Median, in_turn, milliseconds, timed
from benchmarks.house import House, Services, house


def measure(services: Services, quick: bool) -> Iterator[Figure]:
    with ExitStack() as stack:
        bare = Bare(services, Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fem-bench-"))))
        stack.callback(bare.close)
        houses = {store: stack.enter_context(house(services, store=store, heartbeat=10.0)) for store in ("folder", "minio")}

        def ours(one: House) -> float:
            submission = one.stage(*NOTHING, image=services.images["busybox"])
            began = one.send(submission)
            ended = one.inbox.end_of(submission)
            one.settled(submission)
            return ended - began

        works = [lambda one=one: ours(one) for one in houses.values()]
        rounds = in_turn(8 if quick else 120, lambda: timed(bare.run), *works, warm=3)
    floor = Median.of([taken[0] for taken in rounds])
    for number, store in enumerate(houses, 1):
        whole = Median.of([taken[number] for taken in rounds])
        over = Median.of([(taken[number] - taken[0]) * 1e3 for taken in rounds])
        yield Figure(
            f"worker overhead, RabbitMQ, {'folder store' if store == 'folder' else 'MinIO'}",
            milliseconds(whole.value), f"bare container {milliseconds(floor.value)}",
            over, " ms", 30.0 if store == "folder" else None,
        )  # fmt: skip
