"""`python -m benchmarks [NAME...] [--quick]`: measure and print; a whole run also writes docs/reference/performance.md anew."""

from __future__ import annotations

import argparse
import sys
import time
from importlib import import_module

from benchmarks.harness import Figure, machine, write
from benchmarks.house import Services

NAMES = ("overhead", "flow", "burst", "upload", "orders", "startup")


def main() -> int:
    """1 when a target was missed in a whole run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; all, if none is named")
    parser.add_argument("--quick", action="store_true", help="few repetitions: shows that all of it works, not what it costs")
    given = parser.parse_args()
    services, began = Services.load(), time.monotonic()
    figures: list[Figure] = []
    for name in given.names or NAMES:
        for figure in import_module(f"benchmarks.{name}").measure(services, given.quick):
            figures.append(figure)
            print(figure.row(), flush=True)
    write(figures, machine(), time.monotonic() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
