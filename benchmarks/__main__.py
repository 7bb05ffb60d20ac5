"""`python -m benchmarks [NAME...] [--quick]`: measure and print; what is not quick also writes its table of docs/reference/performance.md
anew, or of another page that a benchmark names.

All results of the last run stand in .cache/benchmarks.json.
"""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module

from benchmarks.harness import HEADER, PAGE, Figure, machine, write, write_page
from benchmarks.house import Services, versions

NAMES = (
    "startup",
    "overhead",
    "flow",
    "burst",
    "upload",
    "broker_transfer",
    "orders",
    "report",
    "fleet",
    "first",
    "idle",
    "aggregation",
    "simulation",
    "session",
    "accuracy",
    "trust",
    "gateway",
)


def main() -> int:
    """A missed target is a result, and no error."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all, if none is named")
    parser.add_argument("--quick", action="store_true", help="few repetitions: shows that all of it works, not what it costs")
    given = parser.parse_args()
    if unknown := sorted(set(given.names) - set(NAMES)):
        parser.error(f"there is no benchmark {unknown[0]!r}; there are {', '.join(NAMES)}")
    services, began = Services.load(), time.monotonic()
    facts: dict[str, str] = {}
    all_figures: list[Figure] = []
    print(HEADER, flush=True)
    for name in given.names or NAMES:
        # The load before each tells how quiet the machine was.
        facts, began_this = machine() | versions(services), time.monotonic()
        figures, module = [], import_module(f"benchmarks.{name}")
        for figure in module.measure(services, given.quick):
            figures.append(figure)
            print(figure.row(), flush=True)
        all_figures += figures
        if not given.quick:
            page, header = getattr(module, "PAGE", PAGE), getattr(module, "HEADER", HEADER)
            write_page(name, figures, facts, time.monotonic() - began_this, page=page, header=header)
    write(all_figures, facts, time.monotonic() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
