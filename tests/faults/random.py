"""Random faults for a given time: `python -m tests.faults.random --seconds N --seed S`, which is what `make faults` does.

Each lane has services and nodes of its own and draws from the seed and its number; some rounds make two or three faults at
once. With `--write` the result is written into docs/reference/reliability.md. Exit code 1 when something did not hold.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks.harness import ROOT, machine
from deployments.services.place import ServiceError
from fdn_worker.errors import FdnError
from tests.faults.ground import Ground, ground
from tests.faults.matrix import Fault, all_faults, endure
from tests.faults.own import running

PAGE = ROOT / "docs/reference/reliability.md"
BEGIN, END = "<!-- written by `make faults` -->\n", "<!-- end -->\n"
#: Of the rounds with a fault that mixes, those in which others come along.
MIXED = 0.3


class Tally:
    """What came of the faults, by their ids; a lane adds to its own."""

    def __init__(self) -> None:
        #: Seconds until all runs had ended; None where something did not hold.
        self.seconds: defaultdict[str, list[float | None]] = defaultdict(list)
        self.problems: list[str] = []

    def __iadd__(self, other: Tally) -> Tally:
        for name, seconds in other.seconds.items():
            self.seconds[name] += seconds
        self.problems += other.problems
        return self


def draw(faults: Sequence[Fault], chance: random.Random) -> list[Fault]:
    """One fault, or a few that mix."""
    (first,) = chance.choices(faults, [one.weight for one in faults])
    others = [one for one in faults if one.mixes and one.kind == first.kind and one is not first]
    if not first.mixes or chance.random() > MIXED:
        return [first]
    drawn = [first, *chance.sample(others, chance.randint(1, 2))]
    # What needs a worker that lives comes before what kills it.
    return sorted(drawn, key=lambda one: one.number == 1)


def lane(folder: Path, seed: str, seconds: float, number: int, stop: threading.Event) -> Tally:
    """Make faults until the time is over, or `stop` is set."""
    tally, chance, faults = Tally(), random.Random(f"{seed}.{number}"), all_faults()
    with ExitStack() as undo:
        own = undo.enter_context(running(folder / f"own-{number}"))
        end = time.monotonic() + seconds
        grounds: dict[str, Ground] = {}
        while time.monotonic() < end and not stop.is_set():
            drawn = draw(faults, chance)
            kind, names = drawn[0].kind, " + ".join(one.id for one in drawn)
            if kind not in grounds:
                place = Path(tempfile.mkdtemp(dir=folder, prefix=f"{kind}-"))
                grounds[kind] = undo.enter_context(ground(own, place, kind, chance))
            try:
                took: float | None = endure(grounds[kind], drawn)
            except (AssertionError, OSError, FdnError, ServiceError, subprocess.SubprocessError) as error:
                took = None
                tally.problems.append(f"lane {number}, {names}: {error}")
                say(f"FAILED {tally.problems[-1]}\n{traceback.format_exc()}see {grounds[kind].rig.federation.home}")
                del grounds[kind]  # what is left of it says nothing of the next fault
            for one in drawn:
                tally.seconds[one.id].append(took)
            say(f"lane {number}: {names}: {'failed' if took is None else f'{took:.1f} s'}")
    return tally


def table(seconds: Mapping[str, Sequence[float | None]]) -> str:
    """A line for each fault: how often, survived, recovery."""
    lines = ["| fault | made | survived | recovery, median | p95 |", "|---|---|---|---|---|"]
    for name, all_ in sorted(seconds.items()):
        good = sorted(one for one in all_ if one is not None)
        figures = f"{statistics.median(good):.1f} s | {good[math.ceil(0.95 * len(good)) - 1]:.1f} s" if good else "|"
        lines.append(f"| {name} | {len(all_)} | {len(good)} | {figures} |")
    made = sum(map(len, seconds.values()))
    survived = sum(one is not None for all_ in seconds.values() for one in all_)
    return "\n".join([*lines, f"| all | **{made}** | **{survived}** | | |"])


def write_page(found: str, told: str) -> None:
    """The table in the page, between its marks."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{found}\n\n{told}\n{END}{rest.partition(END)[2]}")


def say(text: str) -> None:
    print(text, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.random", description="Random faults, and what must hold after each.")
    parser.add_argument("--seconds", type=float, default=1200.0)
    parser.add_argument("--seed", default=str(random.SystemRandom().randrange(10**6)), help="draws the same faults again")
    parser.add_argument("--lanes", type=int, default=3, help="how many federations at once")
    parser.add_argument("--write", action="store_true", help=f"write the result into {PAGE.relative_to(ROOT)}")
    given = parser.parse_args()
    say(f"seed {given.seed}")
    logging.disable(logging.ERROR)  # that connections break is the point
    facts, total = machine(), Tally()
    folder = Path(tempfile.mkdtemp(prefix="fem-faults-"))
    stop = threading.Event()
    # A lane ends what it has started: so does Ctrl-C, after the round in hand.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with ThreadPoolExecutor(given.lanes) as pool:
        lanes = [pool.submit(lane, folder, given.seed, given.seconds, number, stop) for number in range(given.lanes)]
        try:
            for one in lanes:
                total += one.result()
        finally:
            stop.set()
    found = table(total.seconds)
    told = f"{given.seconds / 60:.0f} minutes, {given.lanes} lanes, seed {given.seed}: " + "; ".join(
        f"{name} {value}" for name, value in facts.items()
    )
    say(f"{found}\n\n{told}.")
    for problem in total.problems:
        say(f"FAILED {problem}")
    if not total.problems:
        shutil.rmtree(folder)
    if given.write:
        write_page(found, f"{told}.")
    return 1 if total.problems else 0


if __name__ == "__main__":
    sys.exit(main())
