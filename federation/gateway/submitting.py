"""Submission: checked and on record before it is answered; then a flow run, which somebody else starts, takes it up."""

from __future__ import annotations

from typing import Protocol
from uuid import uuid4

from fdn_worker.errors import SystemFault
from fdn_worker.protocol.names import execution_id
from federation.catalogue.find import find_tool, is_path
from federation.centre import Centre
from federation.execution import Job, open_job
from federation.request import BadRequest
from federation.tool_request import ToolRequest
from storage.learning_rows import SessionRow
from storage.records import OPEN, ExecutionRow

#: What the keys of executions begin with that the gateway submits: a start takes up those that an earlier one left.
OURS = "gateway:"


class Submitter(Protocol):
    """Starts and ends the flow runs of executions. All but `page` block; call them off the event loop."""

    def start(self, row: ExecutionRow) -> None:
        """Have a flow run take up the execution, which is on record; again is no harm. SystemFault if nothing can be started."""

    def cancel(self, row: ExecutionRow, why: str) -> None:
        """Ask the nodes to end it, and the flow run to close it as Cancelled. Idempotent."""

    def retry(self, row: ExecutionRow) -> None:
        """Have a flow run do again what ended badly. BadRequest while it is still going on."""

    def learn(self, row: SessionRow) -> None:
        """Have a flow run go on with the session, where none has it; again is no harm."""

    def page(self, row: ExecutionRow | SessionRow) -> str | None:
        """Address of its flow run in Prefect's UI, or None."""

    def close(self) -> None:
        """Let go of what is under way, without ending it: the next start takes it up."""


def submit(centre: Centre, submitter: Submitter, asked: ToolRequest, key: str = "") -> Job:
    """Check the submission as a whole, write its record, and have it started. The same user and key give the same execution.

    Errors of the request are raised as its run would raise them, and then nothing is on record. What cannot be started waits for
    the same key to be sent again; without a key nobody could, so it is closed.
    """
    # Both would be of this machine's disk, which is not the caller's.
    if is_path(asked.tool):
        raise BadRequest(f"tool {asked.tool!r} is a path", remedy="name a tool of the catalogue")
    if asked.inputs:
        raise BadRequest("inputs name files of the gateway's machine", remedy="hand small values over as arguments")
    named = f"{OURS}{key or uuid4().hex}"
    before = centre.records.execution(str(execution_id(asked.user, named)))
    job = open_job(centre, find_tool(centre.records, asked.tool), asked, named)
    row = centre.records.execution(str(job.execution))
    assert row is not None, "open_job wrote it"
    # One that is over, or that somebody runs, is told about and no more.
    if before is None or (before.state == OPEN and before.flow_run is None):
        try:
            submitter.start(row)
        except SystemFault as error:
            if not key:
                centre.records.close_execution(row.id, "FAILED", f"not started: {error}")
            raise
    return job
