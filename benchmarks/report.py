"""`fem report` over a million attempts in SQLite: as a command, and the function alone; against a bare GROUP BY of the same table."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from benchmarks.harness import Figure, Median, in_turn, timed
from benchmarks.house import Services
from storage.records import Records
from storage.reports import report

FLOOR = "SELECT tool, node, count(*), sum(cpu_seconds), max(peak_memory) FROM accounts GROUP BY 1, 2"
#: Column of `accounts` -> what SQL makes of row number `n` and of the numbers from 0 to 99 in `a` to `f`.
VALUES = {
    "run": "lower(hex(randomblob(16)))", "attempt": "1 + (a < 2)", "execution": "lower(hex(randomblob(16)))", '"user"': "'user-' || (n % 40)",
    "project": "'project-' || (n % 12)", "tool": "'tool-' || (b % 15)", "task": "'main'", "node": "'site-' || (c % 30)",
    "state": "CASE WHEN d < 88 THEN 'SUCCEEDED' WHEN d < 96 THEN 'FAILED' WHEN d < 98 THEN 'CANCELLED' ELSE 'LOST' END",
    "launcher": "'docker'", "image_digest": "'sha256:' || hex(randomblob(32))", "exit_code": "0", "cpu_seconds": "e * 7.3", "peak_memory": "f << 26",
    "estimated": "a = 99", "bytes_in": "e << 20", "bytes_out": "f << 16", "issued": "datetime(1735689600 + n * 31, 'unixepoch') || '.000000'",
    "ended": "datetime(1735689600 + n * 31 + e * 9, 'unixepoch') || '.000000'", "waiting": "10.0", "staging_in": "5.0", "running": "e * 9.0",
    "staging_out": "2.0", "releasing": "0.0",
}  # fmt: skip
DICE = ", ".join(f"abs(random()) % 100 AS {die}" for die in "abcdef")


def measure(services: Services, quick: bool) -> Iterator[Figure]:  # noqa: ARG001 (every benchmark gets them)
    count = 20_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory(prefix="fem-bench-") as folder:
        records = Records.open(f"sqlite:///{folder}/records.db")
        fill(f"{folder}/records.db", count)
        environment = os.environ | {"FEM_HOME": folder, "FEM_RECORDS_URL": f"sqlite:///{folder}/records.db", "COLUMNS": "120"}
        command = (str(Path(sys.executable).parent / "fem"), "report", "--by", "tool,node", "--period", "month")
        bare = sqlite3.connect(f"{folder}/records.db")

        def whole() -> float:
            return timed(lambda: subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True))

        def function() -> float:
            return timed(lambda: report(records, ("tool", "node"), period="month"))

        def floor() -> float:
            return timed(lambda: bare.execute(FLOOR).fetchall())

        rounds = in_turn(1 if quick else 6, whole, function, floor)
        bare.close()
        records.close()
    seconds = [Median.of([taken[which] for taken in rounds]) for which in range(3)]
    for what, figure in (("`fem report`", seconds[0]), ("`storage.reports.report`", seconds[1])):
        yield Figure(
            f"{what} of {count:,} attempts by tool, node and month", f"{figure.value:.2f} s",
            f"bare GROUP BY {seconds[2].value:.2f} s", figure, " s", 5.0,
        )  # fmt: skip


def fill(database: str, count: int) -> None:
    """Write so many accounts: 40 users, 12 projects, 15 tools, 30 nodes, a year; of a hundred 8 failed, 2 were cancelled, 2 were tried again."""
    names = ", ".join(VALUES)
    with closing(sqlite3.connect(database)) as db, db:
        db.execute(
            f"WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < ?), "
            f"drawn AS MATERIALIZED (SELECT n, {DICE} FROM numbers) INSERT INTO accounts ({names}) SELECT {', '.join(VALUES.values())} FROM drawn",
            (count,),
        )
