"""python3 -m deployments.services up | down | status | prefect-seed | with -- COMMAND..."""

from __future__ import annotations

import argparse
import os
import signal
import sys

from deployments.services import lifecycle, prefect_seed
from deployments.services.place import Place, ServiceError


def main() -> int:
    """Exit code 0; 1 for a `status` that is not up and for what went wrong; with `with`, the command's."""
    parser = argparse.ArgumentParser(prog="python3 -m deployments.services", description="The real services for tests and the demo.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up", help="start what is not running; install what is missing, saying so first")
    verbs.add_parser("down", help="end exactly what `up` started")
    verbs.add_parser("status", help="say what runs")
    verbs.add_parser("prefect-seed", help="make the migrated Prefect database that tests and demo copy")
    during = verbs.add_parser("with", help="run a command between up and down")
    during.add_argument("command", nargs="+", metavar="COMMAND")
    arguments = parser.parse_args()
    place = Place.of(os.environ)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # unwinds, so that nothing half started stays
    try:
        match arguments.verb:
            case "up":
                lifecycle.up(place)
            case "down":
                lifecycle.down(place)
            case "status":
                return 0 if lifecycle.status(place) else 1
            case "prefect-seed":
                prefect_seed.ensure(place)
            case "with":
                return lifecycle.during(place, arguments.command)
    except ServiceError as error:
        sys.stderr.write(f"services: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
