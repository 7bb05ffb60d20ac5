"""A whole file: every variant is simulated, and all of them stand in one report."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from federation.simulation import export, report
from federation.simulation.analysis import summary
from federation.simulation.configuration import Configuration, Workers, load
from federation.simulation.errors import SimulationError
from federation.simulation.executors import Executor, executor
from federation.simulation.simulator import Seen, Status, check, repetitions


@dataclass(frozen=True)
class Done:
    """Configurations and repetitions by variant, and the files that were written."""

    configurations: dict[str, Configuration]
    outcome: dict[str, list[Status]]
    files: list[Path]


def checked(path: Path) -> dict[str, Configuration]:
    """The configurations of a file by variant; SimulationError for anything that can be known to be wrong before it runs."""
    configurations = load(path)
    export.check()
    for variant, configuration in configurations.items():
        try:
            check(configuration)
        except SimulationError as error:
            raise SimulationError(f"{path}: {f'variant {variant}: ' if variant else ''}{error.message}", remedy=error.remedy) from error
    names = [report.file_name(variant) for variant in configurations]
    if len(set(names)) < len(names) or ("" in names and len(names) > 1):
        raise SimulationError(
            f"{path}: variants: {', '.join(configurations)} would share a folder", remedy="name them by letters and digits"
        )
    return configurations


def run(
    path: Path, configurations: dict[str, Configuration], *, output: Path | None = None, watch: Callable[[str, Seen], None] | None = None
) -> Done:
    """Simulate what was read from the file. Results go to `output`, or else to the `output_folder` it names, variants to folders of their own."""
    folder = output or next(iter(configurations.values())).simulation.output_folder
    outcome: dict[str, list[Status]] = {}
    files: list[Path] = []
    with contextlib.ExitStack() as started:
        # Variants that want the same workers share them: their start takes longer than many a simulation.
        executors: dict[Workers, Executor] = {}
        for variant, configuration in configurations.items():

            def told(seen: Seen, variant: str = variant) -> None:
                if watch is not None:
                    watch(variant, seen)

            jobs = executors.get(configuration.workers)
            if jobs is None:
                jobs = executors[configuration.workers] = started.enter_context(contextlib.closing(executor(configuration.workers)))
            outcome[variant] = repetitions(configuration, jobs, told)
            files += export.write(configuration, outcome[variant], folder / report.file_name(variant))
    files += report.write(configurations, outcome, folder, f"Simulation {path.stem}")
    return Done(configurations, outcome, files)


def table(done: Done) -> list[dict[str, Any]]:
    """The summary's rows, as JSON knows them."""
    frame = summary(done.outcome).astype(object)
    return [{str(name): value for name, value in row.items()} for row in frame.where(frame.notna(), None).to_dict("records")]
