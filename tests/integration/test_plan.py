"""The plan and other inquiries: real workers are asked over the broker, and answer by their own settings."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from federation.catalogue.find import find_tool
from federation.catalogue.tool import Tool
from federation.inquiry import ask
from federation.local import LocalFederation
from federation.plan import Plan, PlanRefused, plan
from federation.request import BadRequest, build
from federation.tool_request import ToolRequest
from tests.support.rig import Rig, rig
from tests.support.waiting import eventually

TOOL = """\
name: count
tasks:
  - id: main
    datasets: [patients]
    command:
      base: [wc, -l]
      args:
        - {id: file, default: $DATA_PATH/patients/patients.csv}
"""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Rig]:
    data = tmp_path / "data" / "patients"
    data.mkdir(parents=True)
    (data / "patients.csv").write_text("name\nanna\n")
    federation = LocalFederation(tmp_path / "home", ("site-a", "site-b", "site-c"), {"site-a": {"patients": data}})
    with rig(federation) as made:
        for node in ("site-a", "site-b"):
            made.start(node)
        eventually("both are heard", lambda: sum(row.last_seen is not None for row in made.centre.records.nodes()) == 2)
        yield made


@pytest.fixture
def tool(house: Rig, tmp_path: Path) -> Tool:
    file = tmp_path / "count.yaml"
    file.write_text(TOOL)
    return find_tool(house.centre.records, str(file))


def planned(house: Rig, tool: Tool, **fields: Any) -> Plan:
    asked = build(ToolRequest, **{"tool": "count", "nodes": ("site-a", "site-b", "site-c"), "user": "ada"} | fields)
    return asyncio.run(plan(house.centre, tool, asked))


def test_each_nodes_own_word_and_what_would_be_executed(house: Rig, tool: Tool) -> None:
    found = planned(house, tool, quorum=1)
    by_node = {run.node: run for run in found.runs}
    assert by_node["site-a"].accepts is True
    assert by_node["site-a"].says() == "would accept"
    assert by_node["site-a"].argv == ("wc", "-l", "$DATA_PATH/patients/patients.csv")
    assert by_node["site-b"].accepts is False
    assert by_node["site-b"].says() == "node site-b has no dataset 'patients' (it offers none)"
    assert (by_node["site-c"].accepts, by_node["site-c"].says()) == (None, "not connected")
    found.check()
    # nothing was kept or started for it
    for node in ("site-a", "site-b"):
        house.check_clean(node)
    assert house.centre.records.executions() == []


def test_a_plan_that_cannot_succeed_is_refused_with_each_nodes_words(house: Rig, tool: Tool) -> None:
    with pytest.raises(PlanRefused) as caught:
        planned(house, tool).check()
    assert str(caught.value) == (
        "2 of 3 nodes would run count, 3 are needed: site-b (main): node site-b has no dataset 'patients' (it offers none)"
    )
    with pytest.raises(PlanRefused, match=r"1 of 3 nodes would run count, 2 are needed: .*site-c \(main\): not connected"):
        planned(house, tool, quorum=2, on_node_offline="skip").check()
    with pytest.raises(PlanRefused, match=r"site-c .*not connected"):
        planned(house, tool, quorum=1, on_node_offline="fail").check()
    planned(house, tool, quorum=1, on_node_offline="skip").check()


def test_errors_of_the_submission_itself_are_told_as_its_run_would(house: Rig, tool: Tool) -> None:
    with pytest.raises(BadRequest, match="unknown argument"):
        planned(house, tool, arguments={"fiel": "x"})


def test_who_does_not_answer_is_missing(house: Rig) -> None:
    answers = asyncio.run(ask(house.centre, ["site-a", "site-b", "site-c"], "health", seconds=6.0))
    assert sorted(answers) == ["site-a", "site-b"]
    assert all(answer.health is not None for answer in answers.values())
    assert asyncio.run(ask(house.centre, [], "health")) == {}
