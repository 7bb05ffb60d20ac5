"""One output of 1 GiB from a node to MinIO, against hashing the file and the minio client's own `fput_object`.

The task is a process that writes 1 GiB of random bytes. Ours is the time from its exit, as its keeper wrote it down, to
the run's last event at the relay: collecting and hashing it (SHA-256), the grant of signed URLs, the parts through the
worker's Transfers, completion, manifest and events. The floor hashes such a file, freshly written as well, and puts it
with parts of the same size (16 MiB) and as many at once (4). Memory is the worker's own peak (VmHWM).
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import datetime
from pathlib import Path

from benchmarks.harness import Figure, Median, in_turn, memory, timed
from benchmarks.house import House, Services, client, house
from fdn_worker.protocol.names import container_name
from federation.centre import Submission
from storage.keys import attempt_prefix

PART, PARALLEL = 16 * 1024**2, 4


def measure(services: Services, quick: bool) -> Iterator[Figure]:
    size = (128 if quick else 1024) * 1024**2
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fem-bench-")))
        one = stack.enter_context(
            house(
                services, store="minio", launcher="process", transfer={"part_size": PART, "parallel": PARALLEL}, limits={"disk_reserve": 0}
            )
        )
        store, bucket = client(services), one.node

        def ours() -> float:
            submission = one.stage("/bin/sh", "-c", f"head -c {size} /dev/urandom > out", outputs=("out",), disk=2 * size, timeout=300)
            one.send(submission)
            one.inbox.end_of(submission)
            ended = time.time()
            one.settled(submission)
            clear(one, submission)
            return ended - _exit(one, submission)

        def floor() -> float:
            with tempfile.NamedTemporaryFile(dir=folder) as file:
                subprocess.run(["head", "-c", str(size), "/dev/urandom"], stdout=file, check=True)
                seconds = timed(lambda: _hash_and_put(Path(file.name)))
            store.remove_object(bucket, "floor")
            return seconds

        def _hash_and_put(path: Path) -> None:
            with path.open("rb") as source:
                hashlib.file_digest(source, "sha256")
            store.fput_object(bucket, "floor", str(path), part_size=PART, num_parallel_uploads=PARALLEL)

        rounds = in_turn(2 if quick else 5, ours, floor, warm=0)
        peak = memory(one.worker, "VmHWM")
    mine, theirs = (Median.of([size / taken[which] / 1024**2 for taken in rounds]) for which in range(2))
    yield Figure(
        f"upload of one output of {size // 1024**2} MiB to MinIO", f"{mine.value:.0f} MiB/s", f"SHA-256 + `fput_object` {theirs.value:.0f} MiB/s",
        Median.of([100 * taken[1] / taken[0] for taken in rounds]), " %", 80.0, most=False,
    )  # fmt: skip
    yield Figure("peak memory of the node process meanwhile", f"{peak:.0f} MiB", "", Median.of([peak]), " MiB", 200.0)


def _exit(one: House, submission: Submission) -> float:
    """The wall-clock second at which the task ended."""
    with closing(sqlite3.connect(f"file:{one.site}/journal.db?mode=ro", uri=True)) as journal:
        name = container_name(submission.run, submission.attempt)
        (told,) = journal.execute("SELECT exit_json FROM runs WHERE name=?", (name,)).fetchone()
    return datetime.fromisoformat(json.loads(told)["finished"]).timestamp()


def clear(one: House, submission: Submission) -> None:
    """Take what the attempt left out of the store."""
    prefix = attempt_prefix(submission.execution, submission.task, submission.node, submission.attempt)
    one.centre.store.delete([found.key for found in one.centre.store.list(prefix)])
    os.sync()
