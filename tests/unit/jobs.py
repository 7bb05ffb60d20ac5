"""Executions of a tool that the tests of suspension, waking and the reconciler bring into one situation or another."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from fdn_worker.protocol import State, now
from federation import execution
from federation.catalogue.tool import Tool
from federation.centre import Centre
from federation.execution import Job
from federation.tool_request import ToolRequest
from storage.records import ExecutionRow
from tests.unit.helpers import an_event

PLAIN = Tool.model_validate({"name": "plain", "tasks": [{"id": "main", "command": {"base": ["true"]}}]})
SERVED = Tool.model_validate(
    {
        "name": "served",
        "tasks": [
            {"id": "server", "single_node": True, "ports": [{"container_port": 8000}], "command": {"base": ["serve"]}},
            {"id": "client", "command": {"base": ["join", "%%server_host%%"]}},
        ],
    }
)
NODES = ("site-a", "site-b")


def begin(centre: Centre, tool: Tool = PLAIN, *, key: str = "k", flow_run: str = "flow", send: bool = True, **asked: Any) -> Job:
    """Staged in, and as much of it sent as may be at once."""
    server = {"server_node": "site-a"} if tool is SERVED else {}
    fields = {"tool": tool.name, "nodes": NODES} | server | asked
    job = execution.open_job(centre, tool, ToolRequest(**fields), key, flow_run=flow_run)
    for role in job.servers or job.roles:
        submissions = execution.stage_in(centre, job, role)
        if send:
            centre.dispatch_all(submissions[: job.asked.max_parallel], job.execution)
    return job


def says(centre: Centre, job: Job, node: str, *states: State, task: str = "main", **fields: Any) -> None:
    """The node's next events; the fields belong to the last one."""
    (pair,) = [(run, row) for run, row in centre.records.current_attempts(str(job.execution), task) if run.node == node]
    order = centre.order(UUID(pair[0].id), pair[1].attempt)
    first = pair[1].last_number + 1
    events = [
        an_event(order, number, at=now(), state=state, **(fields if state is states[-1] else {}))
        for number, state in enumerate(states, first)
    ]
    centre.records.record_events(events)


def row_of(centre: Centre, job: Job) -> ExecutionRow:
    row = centre.records.execution(str(job.execution))
    assert row is not None
    return row


def states_of(centre: Centre, job: Job) -> list[str]:
    return [run.state for run in centre.records.runs_of(str(job.execution))]
