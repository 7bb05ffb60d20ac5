"""Tracing from the command line on: the flow's process tells its spans before it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest

from tests.acceptance.conftest import Run
from tests.support.collector import Collector, collecting


@pytest.fixture
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


TOOL = """
name: nothing
tasks:
  - id: main
    command: {base: ["true"]}
"""
SPANS = {"flow", "stage-in", "dispatch", "stage-out"}


def test_each_run_of_a_tool_is_a_trace(run: Run, collector: Collector, tmp_path: Path) -> None:
    (tmp_path / "nothing.yaml").write_text(TOOL)
    words = ["fem", "run", "nothing.yaml", "--node", "site-a", "--node", "site-b", "--json"]
    done = run(*words, env={"FEM_TRACE_ENDPOINT": collector.address})
    assert done.returncode == 0, done.stderr
    runs = {UUID(row["run"]) for row in json.loads(done.stdout)["runs"]}
    assert len(runs) == 2
    for one in runs:
        spans = collector.complete(one, SPANS)
        assert {span.parent_span_id for name, span in spans.items() if name != "flow"} == {spans["flow"].span_id}
