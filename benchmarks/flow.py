"""One no-op container through one whole run of `federated_task`, against what cannot be saved of it.

The floor is the sum of two, measured in turn with ours, in this process and on the same Prefect server: an async flow of
four empty tasks that leaves the same Markdown artifact, and the bare container (see `bare`). RabbitMQ, folder store,
the relay in this process; all imports are done and every flow has run before the clock starts.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.bare import NOTHING, Bare
from benchmarks.harness import ROOT, Figure, Median, milliseconds
from benchmarks.house import House, Services, house, variables
from federation.results import TaskResult

SEED = ROOT / ".cache/prefect-seed.db"


def measure(services: Services, quick: bool) -> Iterator[Figure]:
    from flows.server import prefect_server

    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fem-bench-")))
        # Before Prefect is imported, which reads them once.
        quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
        stack.enter_context(variables(quiet | stack.enter_context(prefect_server(folder / "prefect", seed=SEED))))
        one = stack.enter_context(house(services, relay="service", heartbeat=10.0))
        stack.enter_context(variables(one.federation.environment()))
        bare = Bare(services, folder)
        stack.callback(bare.close)
        rounds = asyncio.run(_rounds(services, one, bare, 3 if quick else 30))
    whole, empty, container = (Median.of([taken[which] for taken in rounds]) for which in range(3))
    over = Median.of([100 * (taken[0] / (taken[1] + taken[2]) - 1) for taken in rounds])
    yield Figure(
        "one no-op container through one whole flow run", milliseconds(whole.value),
        f"flow of four empty tasks {milliseconds(empty.value)} + bare container {milliseconds(container.value)}", over, " %", 10.0,
    )  # fmt: skip


async def _rounds(services: Services, one: House, bare: Bare, count: int) -> list[tuple[float, float, float]]:
    from prefect import flow, task
    from prefect.artifacts import acreate_markdown_artifact
    from prefect.cache_policies import NO_CACHE

    from federation.centre import Submission
    from flows import connection
    from flows.federated_task import federated_task
    from flows.report import markdown

    last: TaskResult | None = None

    async def ours() -> None:
        nonlocal last
        last = await federated_task(node=one.node, argv=list(NOTHING), image=services.images["busybox"])  # type: ignore[assignment]

    @task(cache_policy=NO_CACHE, persist_result=False)
    async def nothing() -> None:
        pass

    @task(cache_policy=NO_CACHE, persist_result=False)
    async def account() -> None:
        assert last is not None
        await acreate_markdown_artifact(markdown(last, {}), key=f"task-{last.run}", description=last.explain())

    @flow(persist_result=False)
    async def empty() -> None:
        for _ in range(3):
            await nothing()
        await account()

    async def taken(work: Callable[[], Awaitable[None]]) -> float:
        began = time.perf_counter()
        await work()
        seconds = time.perf_counter() - began
        if work is ours:
            assert last is not None
            await asyncio.to_thread(one.settled, Submission(last.execution, last.run, last.task, last.node, last.attempt))
        return seconds

    async def container() -> None:
        await asyncio.to_thread(bare.run)

    try:
        rounds = []
        for number in range(-2, count):
            works: list[Callable[[], Awaitable[None]]] = [ours, empty, container]
            order = [works[(number + step) % 3] for step in range(3)] if number >= 0 else works
            found = {work: await taken(work) for work in order}
            if number >= 0:
                rounds.append((found[ours], found[empty], found[container]))
        return rounds
    finally:
        await asyncio.to_thread(connection.close)
