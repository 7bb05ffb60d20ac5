"""What all benchmarks share: pairs taken in turn, medians with their intervals, rows of figures, and the machine's account."""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
#: Written anew by each run.
RESULTS = ROOT / ".cache/benchmarks.json"
#: Chance that an interval does not hold the median.
RISK = 0.05


@dataclass(frozen=True)
class Median:
    """A median with an interval from order statistics: distribution-free, at least 95 %; of fewer than six values all of their range."""

    value: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Median:
        found, count = sorted(values), len(values)
        # The largest rank k for which both tails of Binomial(n, 1/2) below k together stay within RISK.
        rank, tail = 0, 0.5**count
        while 2 * tail <= RISK:
            rank += 1
            tail += math.comb(count, rank) * 0.5**count
        rank = max(rank - 1, 0)
        return cls(statistics.median(found), found[rank], found[-1 - rank], count)


@dataclass(frozen=True)
class Figure:
    """One row. `value` is held against `target`; `most` tells whether the target is the most or the least it may be."""

    what: str
    ours: str
    floor: str
    value: Median
    unit: str
    target: float | None
    most: bool = True

    @property
    def verdict(self) -> str:
        if self.target is None:
            return ""
        return "met" if (self.value.value <= self.target if self.most else self.value.value >= self.target) else "missed"

    def row(self) -> str:
        """A line of the table."""
        value = self.value
        figure = f"**{_short(value.value)}{self.unit}** ({_short(value.low)} to {_short(value.high)}, n = {value.count})"
        target = "" if self.target is None else f"{'≤' if self.most else '≥'} {_short(self.target)}{self.unit}"
        return f"| {self.what} | {self.ours} | {self.floor} | {figure} | {target} | {self.verdict} |"


HEADER = "| what | ours | floor in the same run | figure (95 % interval) | target | |\n|---|---|---|---|---|---|"
#: The page with a table for each benchmark, between marks of its own, which each run that is not quick writes anew.
PAGE = ROOT / "docs/reference/performance.md"
BEGIN, END = "<!-- written by the benchmark {} -->\n", "<!-- end of {} -->\n"


def _short(number: float) -> str:
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.1f}" if abs(number) >= 10 else f"{number:.2f}"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.0f} ms" if seconds >= 0.1 else f"{seconds * 1e3:.1f} ms"


def timed(work: Callable[[], object]) -> float:
    """Seconds that `work` took."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def in_turn(count: int, *works: Callable[[], float], warm: int = 1) -> list[tuple[float, ...]]:
    """`count` tuples of seconds, one of each work; after every round another begins, so that none always comes first."""
    for work in works * warm:
        work()
    rounds = []
    for number in range(count):
        order = [(number + step) % len(works) for step in range(len(works))]
        taken = {which: works[which]() for which in order}
        rounds.append(tuple(taken[which] for which in range(len(works))))
    return rounds


def memory(pid: int, name: str = "VmRSS") -> float:
    """MiB that a process has, or with `VmHWM` had at most."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"process {pid} has no {name}")


def machine() -> dict[str, str]:
    """When and where it was measured."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    processor = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    load = Path("/proc/loadavg").read_text().split()[0]
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": f"{os.cpu_count()} cores ({processor}), {gib:.0f} GiB, load {load} before the run",
        "kernel": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "Prefect": version("prefect"),
    }


def write(figures: Sequence[Figure], facts: dict[str, str], seconds: float) -> None:
    """The results as JSON."""
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    found = {"facts": facts, "seconds": round(seconds), "figures": [asdict(figure) | {"verdict": figure.verdict} for figure in figures]}
    RESULTS.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def write_page(
    name: str, figures: Sequence[Figure], facts: dict[str, str], seconds: float, *, page: Path = PAGE, header: str = HEADER
) -> None:  # fmt: skip
    """A benchmark's results as a table in the page, between its marks."""
    begin, end = BEGIN.format(name), END.format(name)
    before, marked, rest = page.read_text().partition(begin)
    if not marked:
        raise LookupError(f"{page} has no line {begin.strip()!r}: say there what {name} is, and where its table stands")
    after = rest.partition(end)[2]
    table = "\n".join([header, *(figure.row() for figure in figures)])
    told = "; ".join(f"{what} {value}" for what, value in facts.items())
    page.write_text(f"{before}{begin}{table}\n\nMeasured in {math.ceil(seconds / 60)} min: {told}.\n{end}{after}")
