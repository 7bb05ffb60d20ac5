"""Rows, columns, types, ranges and missing values of each CSV file of a dataset; small counts are suppressed.

Python's standard library alone, so that it runs in any image that has python3. Files are read as a stream.
A count from 1 to k-1 is told as null. Missing and present values add up to the rows, so if either is that small, both
are null. A range is made of at least k values, and of numbers alone: the least of some texts is somebody's text.
"""

import argparse
import csv
import json
import math
import os
import sys
from pathlib import Path

MISSING = ("", "na", "n/a", "nan", "null", "none")
FIELDS = ("file", "rows", "column", "type", "present", "missing", "min", "max")


class Column:
    """What is known of a column so far."""

    def __init__(self):
        self.present, self.finite, self.kind = 0, 0, "int"
        self.least, self.most = math.inf, -math.inf

    def add(self, text):
        if text.strip().lower() in MISSING:
            return
        self.present += 1
        if self.kind == "text":
            return
        try:
            value = int(text) if self.kind == "int" else float(text)
        except ValueError:
            try:
                value, self.kind = float(text), "float"
            except ValueError:
                self.kind = "text"
                return
        if math.isfinite(value):
            self.finite += 1
            self.least, self.most = min(self.least, value), max(self.most, value)

    def told(self, rows, k):
        missing = rows - self.present
        small = 0 < self.present < k or 0 < missing < k
        ranged = self.finite >= k and self.kind != "text" and not small
        return {
            "type": self.kind if self.present >= k else None,
            "present": None if small else self.present,
            "missing": None if small else missing,
            "min": self.least if ranged else None,
            "max": self.most if ranged else None,
        }


def summarise(file, k):
    """Of one file. With fewer than k rows nothing is told but the names of its columns."""
    with file.open(newline="", encoding="utf-8", errors="replace") as source:
        reader = csv.reader(source)
        names = next(reader, [])
        columns, rows = [Column() for _ in names], 0
        for row in reader:
            if row:
                rows += 1
                for column, text in zip(columns, row, strict=False):
                    column.add(text)
    few = rows < k
    nothing = dict.fromkeys(("type", "present", "missing", "min", "max"))
    told = [{"column": name, **(nothing if few else column.told(rows, k))} for name, column in zip(names, columns, strict=True)]
    return {"rows": None if 0 < rows < k else rows, "columns": told}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("-k", type=int, default=5)
    parser.add_argument("--pattern", default="**/*.csv")
    asked = parser.parse_args()
    if asked.k < 2:
        sys.exit("k must be at least 2: below it, single rows would be told")
    folder = Path(os.environ["DATA_PATH"]) / asked.dataset
    files = sorted(file for file in folder.glob(asked.pattern) if file.is_file())
    if not files:
        sys.exit(f"dataset {asked.dataset} has no file that matches {asked.pattern}")
    found = {file.relative_to(folder).as_posix(): summarise(file, asked.k) for file in files}
    Path("summary.json").write_text(
        json.dumps({"node": os.environ["NODE_NAME"], "dataset": asked.dataset, "k": asked.k, "files": found}, indent=2)
    )
    with Path("summary.csv").open("w", newline="") as target:
        writer = csv.DictWriter(target, FIELDS)
        writer.writeheader()
        for name, summary in found.items():
            writer.writerows({"file": name, "rows": summary["rows"], **column} for column in summary["columns"])
    print(f"{os.environ['NODE_NAME']}: {len(found)} file{'s' * (len(found) != 1)} of {asked.dataset} summarised")


if __name__ == "__main__":
    main()
