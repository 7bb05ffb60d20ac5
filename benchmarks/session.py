"""A FedAvg session over ten nodes, digits, embedded broker, folder store, process launcher: what a round costs beyond the training itself.

After each round the floor: the same commands on the same files as bare processes, side by side as the nodes run them. Besides, what the runs
themselves say: from a round's length is taken the time in which at least one of its commands ran. Then the same session as the Prefect flow.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from uuid import UUID

from benchmarks.harness import ROOT, Figure, Median
from benchmarks.house import Services, variables
from federation.centre import Centre
from federation.learning import opening
from federation.learning.local_client import local_client
from federation.learning.models import save
from federation.learning.package import Entry, Package
from federation.learning.phases import phase_execution
from federation.learning.running import Learner
from federation.learning.session import SessionConfiguration, load_session
from federation.local import LocalFederation
from storage import accounts

FILE, SEED = ROOT / "examples/learning/digits.yaml", ROOT / ".cache/prefect-seed.db"
#: Of each round, and what a session has to say of it at its end.
COMMANDS: tuple[Entry, ...] = ("train", "validate")


def measure(services: Services, quick: bool) -> Iterator[Figure]:  # noqa: ARG001 (every benchmark gets them)
    from flows.server import prefect_server

    asked = load_session(FILE)
    local = asked.local
    assert local is not None
    nodes = local.names()
    asked = asked.model_copy(update={"rounds": 2 if quick else 10, "clients_required": len(nodes)})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fem-bench-")))
        # Before Prefect is imported, which reads them once.
        quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
        stack.enter_context(variables(quiet | stack.enter_context(prefect_server(folder / "prefect", seed=SEED))))
        data = local.write(folder / "data")
        # Its clients' programs want the numpy of this environment.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        federation = stack.enter_context(LocalFederation(folder / "home", nodes, datasets=data, launcher_options={"path": path}))
        stack.enter_context(variables(federation.environment()))
        with federation.connected() as centre:
            rounds = asyncio.run(_session(centre, asked, Bare(asked, folder / "data", folder / "bare")))
        by_flow = asyncio.run(_flow(asked))
    whole, bare, ran = (Median.of([one[which] for one in rounds]).value for which in range(3))
    what = f"a round of a FedAvg session over {len(nodes)} nodes"
    yield Figure(
        f"{what}, beyond its commands as bare processes", f"{whole:.2f} s", f"{2 * len(nodes)} bare processes {bare:.2f} s",
        Median.of([one[0] - one[1] for one in rounds]), " s", None,
    )  # fmt: skip
    yield Figure(
        f"{what}, beyond the time in which its commands ran", f"{whole:.2f} s", f"by the runs' own stage times {ran:.2f} s",
        Median.of([one[0] - one[2] for one in rounds]), " s", None,
    )  # fmt: skip
    yield Figure(f"{what}, as a Prefect flow", "", f"without Prefect {whole:.2f} s", Median.of(by_flow), " s", None)


class Bare:
    """The commands of a round without a federation: those of all nodes at once, first one command and then the other."""

    def __init__(self, asked: SessionConfiguration, data: Path, folder: Path) -> None:
        folder.mkdir()
        self._package, self._data, self._folder = Package.load(Path(asked.package)), data, folder
        settings = self._package.settings | asked.settings
        (folder / "settings.json").write_text(json.dumps(settings))
        save(folder / "model.safetensors", local_client(self._package, "in-process").seed(settings))

    def __call__(self) -> float:
        """Seconds of a round."""
        began = time.perf_counter()
        for command in COMMANDS:
            running = [self._start(command, node) for node in sorted(self._data.iterdir())]
            if set(map(subprocess.Popen.wait, running)) != {0}:
                raise RuntimeError(f"a bare process of {command} failed")
        return time.perf_counter() - began

    def _start(self, command: Entry, node: Path) -> subprocess.Popen[bytes]:
        # As bare as at a node.
        environment = {"PATH": os.environ["PATH"], "FEM_SETTINGS": str(self._folder / "settings.json"), "DATA_PATH": str(node)}
        files = [self._folder / "model.safetensors", self._folder / f"{command}-{node.name}"]
        words = [sys.executable, *self._package.words(command)[1:], *map(str, files)]
        return subprocess.Popen(words, cwd=self._package.folder, env=environment, stdout=subprocess.DEVNULL)


async def _session(centre: Centre, asked: SessionConfiguration, bare: Bare) -> list[tuple[float, float, float]]:
    """Of each round the seconds of ours, of the floor, and those in which its commands ran."""
    row = opening.begin(centre, asked, "bench")
    rounds = []
    async with Learner(centre, row) as learner:
        await learner.seed()
        while (number := await learner.next()) is not None:
            began = time.perf_counter()
            await learner.train(number)
            await learner.validate(number)
            await learner.conclude(number)
            whole = time.perf_counter() - began
            ran = math.fsum(_busy(centre, phase_execution(asked.user, row.id, number, command)) for command in COMMANDS)
            rounds.append((whole, await asyncio.to_thread(bare), ran))
    return rounds


def _busy(centre: Centre, execution: UUID) -> float:
    """Seconds in which at least one of its runs was RUNNING."""
    found = accounts.of_execution(centre.records.database, str(execution)).values()
    ends = [one.ended - timedelta(seconds=one.staging_out + one.releasing) for one in found]
    busy, until = 0.0, datetime.min.replace(tzinfo=ends[0].tzinfo)
    for began, end in sorted((end - timedelta(seconds=one.running), end) for one, end in zip(found, ends, strict=True)):
        busy += max(0.0, (end - max(began, until)).total_seconds())
        until = max(until, end)
    return busy


async def _flow(asked: SessionConfiguration) -> list[float]:
    """Seconds of each round of the flow, from one's end to the next one's, by the records."""
    from flows import connection
    from flows.federated_learning import federated_learning

    try:
        centre = connection.centre()
        row = opening.begin(centre, asked, "bench-flow")
        state = await federated_learning(session=row.id, return_state=True)
        if not state.is_completed():
            raise RuntimeError(f"the flow ended {state.name}: {state.message}")
        ends = sorted(one.ended for one in centre.records.learning.rounds(row.id) if one.ended is not None)
    finally:
        await asyncio.to_thread(connection.close)
    return [(after - before).total_seconds() for before, after in pairwise(ends)]
