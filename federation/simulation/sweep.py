"""A whole file: every variant is simulated, and all of them stand in one report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from federation.simulation import export, report
from federation.simulation.analysis import summary
from federation.simulation.configuration import Configuration, load
from federation.simulation.errors import SimulationError
from federation.simulation.simulator import Seen, Status, check, simulate


@dataclass(frozen=True)
class Done:
    """Configurations and repetitions by variant, and the files that were written."""

    configurations: dict[str, Configuration]
    outcome: dict[str, list[Status]]
    files: list[Path]


def run(path: Path, *, output: Path | None = None, watch: Callable[[str, Seen], None] | None = None) -> Done:
    """Simulate the file; results go to `output`, or else to the `output_folder` it names, variants to folders of their own there."""
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
    folder = output or next(iter(configurations.values())).simulation.output_folder
    outcome: dict[str, list[Status]] = {}
    files: list[Path] = []
    for variant, configuration in configurations.items():

        def told(seen: Seen, variant: str = variant) -> None:
            if watch is not None:
                watch(variant, seen)

        outcome[variant] = simulate(configuration, told)
        files += export.write(configuration, outcome[variant], folder / report.file_name(variant))
    files += report.write(configurations, outcome, folder, f"Simulation {path.stem}")
    return Done(configurations, outcome, files)


def table(done: Done) -> list[dict[str, object]]:
    """The summary's rows."""
    return [{str(key): value for key, value in row.items()} for row in summary(done.outcome).to_dict("records")]
