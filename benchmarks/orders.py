"""1,000 queued orders for one node, process launcher, against a loop of `subprocess.run(["true"])` that is as durable.

The orders wait in the node's queue while it drains; ours is the time from the first one's being journalled to the last
event's being confirmed (nothing in the outbox any more). A run passes through six states (QUEUED, ACCEPTED, STAGING_IN,
RUNNING, STAGING_OUT, SUCCEEDED), so the loop makes six commits a process in SQLite (WAL, synchronous FULL: one fsync
each); one half of the loop runs before ours, the other after it. The relay is a process of its own (`fem relay`), as
at a centre; it records and passes on meanwhile. Memory is each process's growth (VmRSS) over the thousand, once some
hundreds have warmed it up.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from pathlib import Path

from benchmarks.harness import ROOT, Figure, Median, memory, timed
from benchmarks.house import PATIENCE, House, Services, house
from fdn_worker.journal import Journal
from fdn_worker.protocol import Signer, now, pack
from fdn_worker.protocol.names import command_queue, run_id
from fdn_worker.worker import DRAIN
from federation.presence import presence
from federation.request import TaskRequest

STATES = ("QUEUED", "ACCEPTED", "STAGING_IN", "RUNNING", "STAGING_OUT", "SUCCEEDED")
SLOTS = 4
COMMAND = ("true",)


def measure(services: Services, quick: bool) -> Iterator[Figure]:
    count, warm = (100, 50) if quick else (1000, 400)
    for broker in ("embedded", "rabbitmq"):
        with ExitStack() as stack:
            one = stack.enter_context(house(services, broker=broker, launcher="process", relay="service", slots=SLOTS, heartbeat=10.0))
            centre = stack.enter_context(relay_of(one))
            _work_off(one, warm)
            before = memory(one.worker), memory(centre)
            rounds = []
            for _ in range(1 if quick else 2):
                first = _loop(count // 2)
                taken = _work_off(one, count)
                rounds.append((taken, first + _loop(count // 2)))
            growth = [
                (after - then) / len(rounds) * 1000 / count
                for after, then in zip((memory(one.worker), memory(centre)), before, strict=True)
            ]
        mine, theirs = (Median.of([taken[which] for taken in rounds]) for which in range(2))
        name = "RabbitMQ" if broker == "rabbitmq" else "embedded broker"
        yield Figure(
            f"{count:,} queued orders, process launcher, {name}", f"{mine.value:.1f} s", f"durable loop of `true` {theirs.value:.2f} s",
            Median.of([taken[0] / taken[1] for taken in rounds]), " x", 3.0,
        )  # fmt: skip
        for what, grown in zip(("worker", "centre's relay"), growth, strict=True):
            yield Figure(f"memory growth of the {what} a thousand orders, {name}", f"{grown:.1f} MiB", "", Median.of([grown]), " MiB", None)


@contextmanager
def relay_of(one: House) -> Iterator[int]:
    """The centre's relay as a service; its pid."""
    environment = os.environ | one.federation.environment() | {"FEM_RELAY": "service"}
    with subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "relay"], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            until = time.monotonic() + PATIENCE
            while presence(one.centre.records)[0].presence != "connected":
                if time.monotonic() > until or process.poll() is not None:
                    raise TimeoutError("the relay did not hear the worker")
                time.sleep(0.05)
            yield process.pid
        finally:
            process.terminate()


def _work_off(one: House, count: int) -> float:
    """Queue so many orders, have the node take them; seconds that it took."""
    with closing(Journal(one.site / "journal.db", Signer())) as journal:
        journal.set_flag(DRAIN, "stay")
        _until(lambda: (depth := one.centre.broker.depth(command_queue(one.node))) is not None and depth.consumers == 0)
        began = now().isoformat()
        execution = _queue(one, count)
        journal.set_flag(DRAIN, None)
    with closing(sqlite3.connect(f"file:{one.site}/journal.db?mode=ro", uri=True)) as look:
        pending = "SELECT (SELECT count(*) FROM runs WHERE phase='done' AND received > ?) = ? AND NOT EXISTS (SELECT 1 FROM outbox)"
        _until(lambda: bool(look.execute(pending, (began, count)).fetchone()[0]))
        ended = time.time()
        first, failed = look.execute("SELECT min(received), sum(state != 'SUCCEEDED') FROM runs WHERE received > ?", (began,)).fetchone()
    # Whatever is measured next is not to pay for this.
    _until(lambda: all(row.state.terminal for row in one.centre.records.runs_of(execution)), pause=0.5)
    os.sync()
    if failed:
        raise RuntimeError(f"{failed} of {count} runs did not succeed")
    return ended - datetime.fromisoformat(first).timestamp()


def _queue(one: House, count: int) -> str:
    """One execution of so many tasks: its record and orders written and sent; its id."""
    execution, centre = uuid.uuid4(), one.centre
    tasks = {f"t{number}": run_id(execution, f"t{number}", one.node) for number in range(count)}
    request = TaskRequest(node=one.node, argv=COMMAND)
    runs = [(str(run), task, one.node) for task, run in tasks.items()]
    centre.records.create_execution(
        str(execution), user="", project="", tool="", key=str(execution), request_json=request.model_dump_json(), runs=runs
    )

    def send(task: str) -> None:
        order = request.model_copy(update={"task": task}).order(execution, tasks[task], 1, (), now())
        body = pack(order, centre.signer)
        centre.records.add_attempt(str(order.run), 1, order_body=body, issued=order.issued, deadline=order.deadline)
        centre.broker.publish(body, key=command_queue(one.node), message_id=order.message_id)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send, tasks))
    return str(execution)


def _until(there: Callable[[], bool], pause: float = 0.02) -> None:
    until = time.monotonic() + PATIENCE
    while not there():
        if time.monotonic() > until:
            raise TimeoutError("the orders were not worked off")
        time.sleep(pause)


def _loop(count: int) -> float:
    """Seconds of `count` processes, each state of each in a durable commit of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="fem-bench-") as folder,
        closing(sqlite3.connect(Path(folder) / "loop.db", isolation_level=None)) as db,
    ):
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("CREATE TABLE runs (id INTEGER PRIMARY KEY, state TEXT)")

        def loop() -> None:
            for number in range(count):
                for state in STATES:
                    db.execute("INSERT OR REPLACE INTO runs VALUES (?, ?)", (number, state))
                    if state == "RUNNING":
                        subprocess.run(COMMAND, check=True)

        return timed(loop)
