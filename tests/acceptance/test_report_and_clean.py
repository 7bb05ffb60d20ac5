"""`fem report` and `fem clean` after a real run, as an operator types them."""

from __future__ import annotations

import json
from pathlib import Path

from .conftest import Run


def test_a_run_is_accounted_for_and_its_outputs_are_deleted(run: Run, tmp_path: Path, unique: str) -> None:
    script = "echo 1 > a.csv; while [ $((i += 1)) -lt 200000 ]; do :; done"
    ran = run("fem", "run", "--node", "site-a", "--project", unique, "--output", "*.csv", "--json", "--", "/bin/sh", "-c", script)
    assert ran.returncode == 0, ran.stderr
    execution = json.loads(ran.stdout)["execution"]

    [row] = json.loads(run("fem", "report", "--by", "node,state", "--project", unique, "--json").stdout)
    assert (row["node"], row["state"], row["attempts"], row["runs"], row["bytes_out"] >= 2) == ("site-a", "SUCCEEDED", 1, 1, True)
    assert 0 < row["cpu_hours"] < 0.1
    page = run("fem", "report", "--project", unique, "--period", "day", "--html", "usage.html")
    assert (page.returncode, page.stderr) == (0, "wrote usage.html\n")
    assert "Usage by user and day" in (tmp_path / "usage.html").read_text()
    wrong = run("fem", "report", "--by", "nodes")
    assert (wrong.returncode, wrong.stderr) == (2, "fem: report by 'nodes': unknown (did you mean node?)\n")

    clean = ("fem", "clean", "--older-than", "0d", "--project", unique)
    assert "of 1 executions" in run(*clean, "--dry-run").stdout
    assert run("fem", "files", execution).returncode == 0
    assert "of 1 executions" in run(*clean).stdout
    for command in ("files", "download"):
        gone = run("fem", command, execution)
        assert gone.returncode == 2
        assert gone.stderr.startswith("fem: site-a: deleted on 20")
    assert "of 1 executions with their records" in run(*clean, "--records").stdout
    assert run("fem", "status", execution).returncode == 2
    assert json.loads(run("fem", "report", "--by", "node,state", "--project", unique, "--json").stdout) == [row]
