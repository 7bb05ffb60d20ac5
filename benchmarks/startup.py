"""Start of both commands, `fem --help` and `fdn-worker --help`, against `python -c "import typer, rich"`; the three take turns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Figure, Median, in_turn, milliseconds, timed
from benchmarks.house import Services

COMMANDS = ("fem", "fdn-worker")


def measure(services: Services, quick: bool) -> Iterator[Figure]:  # noqa: ARG001 (every benchmark gets them)
    # Byte code may be written, as at any user's.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}

    def start(*argv: str) -> float:
        return timed(lambda: subprocess.run(argv, env=environment, stdout=subprocess.DEVNULL, check=True))

    folder = Path(sys.executable).parent
    rounds = in_turn(
        5 if quick else 40,
        lambda: start(sys.executable, "-c", "import typer, rich"),
        *(lambda name=name: start(str(folder / name), "--help") for name in COMMANDS),
    )
    floor = Median.of([taken[0] for taken in rounds])
    for number, name in enumerate(COMMANDS, 1):
        yield Figure(
            f"start of `{name} --help`", milliseconds(Median.of([taken[number] for taken in rounds]).value),
            f"`import typer, rich` {milliseconds(floor.value)}", Median.of([taken[number] / taken[0] for taken in rounds]), " x", 1.3,
        )  # fmt: skip
