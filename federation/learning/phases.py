"""A phase of a round: one command of the client package at many nodes. It is an execution like any other, so `fem status`, the reconciler and
each site's policy (tool: the package's name, task: the command) know it; but its inputs lie in the store already, and may differ from node to node.

The execution's id follows from session, round and command: a process that takes a session up finds what was ordered, and listens to it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from uuid import UUID

from pydantic import Field, JsonValue

from fdn_worker.errors import Fault
from fdn_worker.protocol import InputFile, Reason, State, TaskEvent, now, pack
from fdn_worker.protocol.names import execution_id, run_id
from federation import execution, following
from federation.catalogue.arguments import Role, requests
from federation.catalogue.node import node_id
from federation.catalogue.tool import TaskTemplate, Tool
from federation.centre import Centre, Submission
from federation.execution import Job
from federation.learning.at_node import MASKED, PARTIAL, answered
from federation.learning.package import SETTINGS_INPUT, SETTINGS_VARIABLE, Entry
from federation.learning.session import Part, SessionConfiguration
from federation.request import build
from federation.tool_request import ToolRequest
from storage.records import NewAttempt

#: A package's command, or one of the federation's own program (at_node.py).
Step = Entry | Literal["combine", "keys", "shares", "masked", "reveal"]
#: What each leaves, below the sandbox.
OUTPUTS: dict[Step, str] = {
    "train": "update.safetensors", "validate": "metrics.json", "seed": "model.safetensors", "combine": PARTIAL,
    "keys": answered("keys"), "shares": answered("shares"), "masked": MASKED, "reveal": answered("reveal"),
}  # fmt: skip
#: Ends that only say that nobody wanted a run: the reconciler ends what a killed process has left.
UNWANTED = frozenset({State.CANCELLED, State.LOST})
#: The model among the inputs of a command.
MODEL_INPUT = "model.safetensors"


class StoredPackage(Part):
    """A client package whose files lie in the store."""

    name: str
    checksum: str
    #: Command -> its whole command line at a node.
    commands: dict[Entry, tuple[str, ...]]
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    image: str | None = None
    image_digest: str | None = None
    files: tuple[InputFile, ...]


class StoredSession(SessionConfiguration):
    """What the records keep of a session: all that is needed to run it anywhere."""

    client: StoredPackage

    @property
    def reference(self) -> str | None:
        """The image of its clients, NAME:TAG@DIGEST."""
        image, digest = self.image or self.client.image, self.image_digest or self.client.image_digest
        return (f"{image}@{digest}" if digest else image) if image else None

    def tool(self, entry: Entry) -> Tool:
        """The command as a tool, which no catalogue has."""
        secret = self.secure_sum is not None and entry == "train"
        template = build(
            TaskTemplate, id=entry, image=self.reference, command={"base": list(self.client.commands[entry])}, datasets=self.datasets,
            environment={SETTINGS_VARIABLE: f"$INPUT_PATH/{SETTINGS_INPUT}"}, resources=self.resources, timeout=self.timeout,
            # In a secure sum the update stays in the sandbox, for the steps that follow.
            outputs=() if secret else (OUTPUTS[entry],), persistent=secret,
        )  # fmt: skip
        return Tool(name=node_id(self.client.name)[:63].strip("-"), title=self.client.name, tasks=(template,))


class Ended(NamedTuple):
    """A client's run has come to its end, and no further attempt is made."""

    phase: Phase
    client: str
    state: State
    reason: Reason | None
    attempt: int

    @property
    def submission(self) -> Submission:
        """Of the attempt that counts."""
        job, task = self.phase.job, self.phase.entry
        return Submission(job.execution, run_id(job.execution, task, self.client), task, self.client, self.attempt)


@dataclass(eq=False)
class Phase:
    """One execution of a session."""

    number: int
    entry: Step
    job: Job
    role: Role
    submissions: Sequence[Submission]
    #: Clients whose end was not taken yet.
    open: set[str] = field(default_factory=set)

    async def follow(self, centre: Centre, heard: Callable[[Phase, TaskEvent], Awaitable[None]], ended: Callable[[Ended], None]) -> None:
        """Tell of every event, and of every client's end once, to the last one; then write the execution's verdict."""
        told = set()
        async for event in following.follow(centre, self.job, self.role, self.submissions):
            await heard(self, event)
            if event.state is not None and event.state.terminal and event.node not in told and not self._again(event):
                told.add(event.node)
                ended(Ended(self, event.node, event.state, event.reason, event.attempt))
        # What the centre itself has ended is told by no event.
        for run, row in await asyncio.to_thread(centre.records.current_attempts, str(self.job.execution)):
            if run.node not in told:
                known = row.reason_code and row.reason_fault
                reason = Reason(code=row.reason_code, fault=row.reason_fault, message=row.reason_message or "") if known else None
                ended(Ended(self, run.node, State(row.state), reason, row.attempt))
        await asyncio.to_thread(execution.close, centre, self.job, [])

    def _again(self, event: TaskEvent) -> bool:
        """Whether another attempt follows, as `following` makes them."""
        (first,) = (one for one in self.submissions if one.node == event.node)
        left = first.retries - (event.attempt - first.attempt)
        mendable = event.state in following.MENDABLE and event.reason is not None and event.reason.fault == Fault.INFRASTRUCTURE
        return mendable and left > 0 and not self.job.ending


def phase_execution(user: str, session: str, number: int, step: Step) -> UUID:
    """The id of the execution that a phase is."""
    return execution_id(user, step_key(session, number, step))


def step_key(session: str, number: int, step: Step) -> str:
    """Its idempotency key."""
    return f"{session}/{number}/{step}"


def open_phase(
    centre: Centre, session: str, asked: StoredSession, number: int, entry: Entry, nodes: Sequence[str], inputs: Callable[[str], Mapping[str, InputFile]],
    *, required: int = 1, flow_run: str = "", anew: bool = False,
) -> Phase:  # fmt: skip
    """A command of the client package, by `open_step`; its package's files go along."""
    package = {file.name: file for file in asked.client.files}
    return open_step(
        centre, asked, asked.tool(entry), number, entry, step_key(session, number, entry), nodes, lambda node: {**package, **inputs(node)},
        required=required, retries=asked.retries, flow_run=flow_run, anew=anew,
    )  # fmt: skip


def open_step(
    centre: Centre, asked: StoredSession, tool: Tool, number: int, step: Step, key: str, nodes: Sequence[str],
    inputs: Callable[[str], Mapping[str, InputFile]], *, required: int = 1, retries: int = 0, flow_run: str = "",
    anew: bool = False,
) -> Phase:  # fmt: skip
    """Write the execution with its orders, and send them; or find what was written, and send what was not sent.

    `inputs`: node -> name of an input -> where it lies; asked for those that have no order yet. `anew`: what was cancelled or lost while nobody had
    the session in hand gets another attempt.
    """
    request = build(
        ToolRequest, tool=tool.name, nodes=tuple(nodes), quorum=min(required, len(nodes)), retries=retries, user=asked.user, project=asked.project
    )  # fmt: skip
    job = execution.open_job(centre, tool, request, key, flow_run=flow_run)
    if flow_run:
        centre.records.claim_execution(str(job.execution), flow_run)
    job.renewed = UNWANTED if anew else frozenset()
    (role,) = job.roles
    _order(centre, asked.launcher, job, role, inputs)
    submissions = execution.stage_in(centre, job, role)
    phase = Phase(number, step, job, role, submissions, open={one.node for one in submissions})
    centre.dispatch_all(submissions, job.execution)
    return phase


def _order(
    centre: Centre, launcher: str | None, job: Job, role: Role, inputs: Callable[[str], Mapping[str, InputFile]]
) -> None:  # fmt: skip
    """The first orders of those nodes that have none."""
    there = {run.node for run, _ in centre.records.current_attempts(str(job.execution), role.task)}
    if there.issuperset(role.nodes):
        return
    made, issued, orders = requests(job.tool, role.task, job.asked, execution=job.execution), now(), []
    for node in role.nodes:
        if node not in there:
            request = made[node].model_copy(update={"launcher": launcher})
            orders.append(request.order(job.execution, run_id(job.execution, role.task, node), 1, tuple(inputs(node).values()), issued))
    centre.records.add_attempts(
        [NewAttempt(str(order.run), 1, pack(order, centre.signer), order.issued, order.deadline) for order in centre.made_ready(orders)]
    )
