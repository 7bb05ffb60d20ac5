"""What runs at each node: counts, sums and squares of every column, and nothing of a single patient.

Python's standard library alone, so that it runs in any image that has python3.
"""

import csv
import json
import os
import sys
from pathlib import Path

FEWEST = 5  #: Sites with fewer patients than this say nothing.


def summarise(rows):
    """Column -> count, sum, sum of squares, minimum, maximum."""
    summary = {}
    for row in rows:
        for name, text in row.items():
            value = float(text)
            entry = summary.setdefault(name, {"count": 0, "sum": 0.0, "squares": 0.0, "min": value, "max": value})
            entry["count"] += 1
            entry["sum"] += value
            entry["squares"] += value * value
            entry["min"] = min(entry["min"], value)
            entry["max"] = max(entry["max"], value)
    return summary


def main():
    file = Path(os.environ["DATA_PATH"]) / sys.argv[1] / "patients.csv"
    with file.open(newline="") as source:
        rows = list(csv.DictReader(source))
    print(f"{os.environ['NODE_NAME']}: {len(rows)} patients, {len(rows[0]) if rows else 0} columns")
    if len(rows) < FEWEST:
        sys.exit(f"fewer than {FEWEST} patients: nothing is said of them")
    Path("summary.json").write_text(json.dumps(summarise(rows)))
    print("wrote summary.json")


if __name__ == "__main__":
    main()
