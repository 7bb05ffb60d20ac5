"""An execution of a tool: one run for each of its tasks at each node, under one id; its four steps, each for a whole task.

Each step may be taken again: ids are derived, what was written stands, and orders that were recorded are sent as they
are. The tool is written down with the execution, so a flow that is resumed does not see what the catalogue says today.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from fdn_worker.errors import Fault, FdnError, SystemFault
from fdn_worker.protocol import Reason, Server, State, now, pack
from fdn_worker.protocol.names import execution_id, run_id
from federation.catalogue.arguments import Role, requests, roles
from federation.catalogue.source import pinned
from federation.catalogue.tool import Tool
from federation.centre import RETRIED, Centre, Submission, described
from federation.presence import presence
from federation.results import TaskResult, describe, traced
from federation.tool_request import ToolRequest
from federation.verdict import Tally, Verdict, judge
from storage.records import NewAttempt

if TYPE_CHECKING:
    from federation.waiting import Watch

log = logging.getLogger(__name__)

#: Stands for a server's address where none is known yet: an execution is checked as a whole before anything is sent.
NOWHERE = "0.0.0.0"


class NodeOffline(SystemFault):
    """A node is gone, and the submission wants it there."""

    code = "node-offline"
    retryable = False


class ExecutionResult(BaseModel):
    """What an execution came to. `runs` are partial results where `state` is Degraded, Failed or Cancelled."""

    model_config = ConfigDict(frozen=True)

    execution: UUID
    tool: str
    #: Succeeded, Degraded, Failed or Cancelled.
    state: str
    #: Such as 80/100.
    message: str
    runs: tuple[TaskResult, ...] = ()

    @property
    def partial(self) -> bool:
        """Whether something is missing."""
        return any(run.state is not State.SUCCEEDED for run in self.runs)

    def explain(self) -> str:
        """One line for people."""
        kept = sum(len(run.outputs) for run in self.runs)
        return f"{self.tool}: {self.state}, {self.message}, {kept} output{'' if kept == 1 else 's'}{' (partial)' * self.partial}"


class NotCompleted(FdnError):
    """An execution failed or was cancelled; `result` has all that is known of it."""

    code = "not-completed"

    def __init__(self, result: ExecutionResult) -> None:
        super().__init__(result.explain())
        self.result = result


@dataclass(eq=False)
class Job:
    """An execution in the hands of one process. Prefect passes it on as it is."""

    execution: UUID
    tool: Tool
    asked: ToolRequest
    roles: tuple[Role, ...]
    #: Ends after which a run is given a new attempt: a person's retry. Empty when nothing is done again.
    renewed: frozenset[State] = frozenset()
    #: (task, node) -> how it stands.
    states: dict[tuple[str, str], State] = field(default_factory=dict)
    #: Server's task -> where it listens, once it does.
    listening: dict[str, asyncio.Future[Server]] = field(default_factory=dict)
    #: Why it is to end before its time; "" while it may go on.
    ending: str = ""
    #: Cancelled as a whole, by a person.
    cancelled: bool = False
    watches: list[Watch] = field(default_factory=list)

    @property
    def servers(self) -> tuple[Role, ...]:
        return tuple(role for role in self.roles if role.server)

    @property
    def clients(self) -> tuple[Role, ...]:
        return tuple(role for role in self.roles if not role.server)

    def tally(self) -> Tally:
        """Of the nodes that the quorum is about."""
        of = {role.task for role in self.clients}
        return Tally.of((node, state) for (task, node), state in self.states.items() if task in of)

    def verdict(self) -> Verdict:
        """Once all has ended."""
        ends = {
            node: State.SUCCEEDED
            if self.may_be_ended(role) and self.states[role.task, node] is State.CANCELLED
            else self.states[role.task, node]
            for role in self.servers
            for node in role.nodes
        }
        return judge(self.tally(), self.asked.needed, servers=ends, cancelled=self.cancelled)

    def may_be_ended(self, role: Role) -> bool:
        """Whether the server's task never ends by itself, so that being ended is its success."""
        return self.tool.task(role.task).ends_with_clients


def open_job(centre: Centre, tool: Tool, asked: ToolRequest, key: str, *, flow_run: str = "", again: bool = False) -> Job:
    """Check the whole submission and write its record, or find the one that stands. Nothing is sent, nothing stored.

    The same user and key give the execution that stands already, with the tool as it was; another request under that key
    is refused. `flow_run` is the Prefect flow run that wants it; with `again` runs that ended badly are done again.
    """
    execution = execution_id(asked.user, key)
    standing = centre.records.execution(str(execution))
    if standing is not None and standing.document is not None:
        tool = Tool.model_validate_json(standing.document)
    else:
        tool = pinned(tool, allow_file=centre.settings.source_allow_file)
    found = roles(tool, asked)
    if standing is None:
        nodes = tuple(dict.fromkeys(node for role in found for node in role.nodes))
        centre.enrolled(nodes)
        if asked.on_node_offline == "fail" and (gone := offline(centre, nodes)):
            raise NodeOffline(f"not connected: {', '.join(sorted(gone))}", remedy="wait for them, or say what to do: on_node_offline")
        for role in found:
            for request in requests(tool, role.task, asked, execution=execution, servers=_placeholders(tool, found, role)).values():
                request.order(execution, run_id(execution, role.task, request.node), 1, (), now())
    runs = [(str(run_id(execution, role.task, node)), role.task, node) for role in found for node in role.nodes]
    centre.records.create_execution(
        str(execution), user=asked.user, project=asked.project, tool=tool.name, key=key, request_json=asked.model_dump_json(), runs=runs,
        document=tool.model_dump_json(), flow_run=flow_run or None,
    )  # fmt: skip
    job = Job(execution, tool, asked, found)
    if again:
        ends = {State(row.state) for role in job.servers for _, row in centre.records.current_attempts(str(execution), role.task)}
        # A server that has ended serves nobody: then all of its job is done again.
        job.renewed = RETRIED | {State.SUCCEEDED} if ends and all(state.terminal for state in ends) else RETRIED
    return job


def offline(centre: Centre, nodes: Sequence[str]) -> set[str]:
    """Those of these nodes that are gone."""
    return {node.name for node in presence(centre.records) if node.presence == "gone"} & set(nodes)


def _placeholders(tool: Tool, found: Sequence[Role], role: Role) -> tuple[Server, ...]:
    if role.server:
        return ()
    return tuple(
        Server(node=node, host=NOWHERE, ports={port.container_port: port.container_port for port in tool.task(other.task).ports})
        for other in found
        if other.server
        for node in other.nodes
    )


def stage_in(centre: Centre, job: Job, role: Role, servers: tuple[Server, ...] = ()) -> list[Submission]:
    """Inputs into the store, and the orders of one task for all its nodes into the records. Nothing is sent.

    A run that ended badly gets its next attempt when the job is done again; a node that is gone ends as LOST (offline)
    where the submission skips such nodes.
    """
    standing = {run.node: (run, row) for run, row in centre.records.current_attempts(str(job.execution), role.task)}
    if missing := [node for node in role.nodes if node not in standing]:
        _first_attempts(centre, job, role, servers or _placeholders(job.tool, job.roles, role), missing)
    for run, row in standing.values():
        if State(row.state) in job.renewed:
            centre.order_again(UUID(run.id), row.attempt + 1, servers=servers)
    found = centre.records.current_attempts(str(job.execution), role.task)
    if job.asked.on_node_offline == "skip" and (gone := offline(centre, role.nodes)):
        for run, row in found:
            if run.node in gone and row.dispatched is None:
                reason = Reason(code="offline", fault=Fault.INFRASTRUCTURE, message=f"node {run.node} was gone, and was skipped")
                centre.records.end_undispatched(run.id, row.attempt, State.LOST, reason)
        found = centre.records.current_attempts(str(job.execution), role.task)
    job.states |= {(role.task, run.node): State(row.state) for run, row in found}
    retries = job.asked.retries
    return [
        Submission(
            job.execution, UUID(run.id), role.task, run.node, row.attempt, retries if job.renewed else max(0, retries + 1 - row.attempt)
        )
        for run, row in found
    ]  # fmt: skip


def _first_attempts(centre: Centre, job: Job, role: Role, servers: tuple[Server, ...], nodes: Sequence[str]) -> None:
    asked = requests(job.tool, role.task, job.asked, execution=job.execution, servers=servers)
    issued = now()
    # The same files for all nodes: stored once.
    files = {name: described(role.task, job.execution, name, path) for name, path in asked[nodes[0]].files().items()}
    for name, path in asked[nodes[0]].files().items():
        with path.open("rb") as source:
            centre.store.put(files[name].where, source, files[name].size)
    orders = [asked[node].order(job.execution, run_id(job.execution, role.task, node), 1, tuple(files.values()), issued) for node in nodes]
    ready = centre.made_ready(orders)
    centre.records.add_attempts(
        [NewAttempt(str(order.run), 1, pack(order, centre.signer), order.issued, order.deadline) for order in ready]
    )
    centre.traces.staged(ready, issued)


def never_started(centre: Centre, job: Job, role: Role, why: str) -> None:
    """End the runs of a task that was not sent at all, so that each has an end."""
    for one in stage_in(centre, job, role):
        reason = Reason(code="not-started", fault=Fault.INFRASTRUCTURE, message=why)
        row = centre.records.end_undispatched(str(one.run), one.attempt, State.CANCELLED, reason)
        job.states[role.task, one.node] = State(row.state)


def stage_out(centre: Centre, job: Job, role: Role) -> list[TaskResult]:
    """What each node's run left, checked against its manifest. A difference makes the run FAILED, and is told."""
    found: dict[str, TaskResult] = {}

    def check(one: Submission) -> None:
        begin = now()
        try:
            found[one.node] = describe(centre, one)
        except FdnError as error:
            if isinstance(error, SystemFault) and error.retryable:
                raise
            log.error("%s at %s: %s", role.task, one.node, error, extra={"action": "manifest-differs"})
            reason = Reason(code=error.code, fault=error.fault, message=str(error))
            found[one.node] = TaskResult(
                execution=job.execution, run=one.run, task=role.task, node=one.node, attempt=one.attempt, state=State.FAILED, reason=reason
            )
        traced(centre, one, found[one.node].state, begin)

    runs = centre.records.current_attempts(str(job.execution), role.task)
    centre.side_by_side([Submission(job.execution, UUID(run.id), role.task, run.node, row.attempt) for run, row in runs], check)
    job.states |= {(role.task, node): result.state for node, result in found.items()}
    return [found[node] for node in sorted(found)]


def close(centre: Centre, job: Job, results: Sequence[TaskResult]) -> ExecutionResult:
    """The verdict, written down."""
    verdict = job.verdict()
    centre.records.close_execution(str(job.execution), verdict.name.upper(), verdict.message)
    return ExecutionResult(execution=job.execution, tool=job.tool.name, state=verdict.name, message=verdict.message, runs=tuple(results))
