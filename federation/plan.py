"""The plan: what would come of a submission, answered before anything is sent. Each node's own policy is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from uuid import uuid5

from pydantic import BaseModel, ConfigDict

from fdn_worker.errors import Fault, FdnError
from fdn_worker.protocol import Answer, OrderPlan, Reason, Server, TaskOrder, now
from fdn_worker.protocol.names import NAMESPACE, run_id
from federation.catalogue.arguments import Role, requests, roles
from federation.catalogue.source import pinned
from federation.catalogue.tool import Tool
from federation.centre import Centre
from federation.inquiry import PATIENCE, ask
from federation.presence import NodePresence, presence
from federation.tool_request import ToolRequest

#: Stands for the execution, of which there is none yet.
PLANNED = uuid5(NAMESPACE, "a plan")


class PlanRefused(FdnError):
    """The plan says that the submission would not succeed; says why for each node."""

    code = "plan-refused"
    fault = Fault.POLICY


class RunPlan(BaseModel):
    """One task at one node."""

    model_config = ConfigDict(frozen=True)

    task: str
    node: str
    server: bool = False
    #: connected, suspect or gone.
    presence: str
    #: Whether the node takes the order: False with `reasons`; None when it was not asked or did not answer.
    accepts: bool | None = None
    reasons: tuple[Reason, ...] = ()
    launcher: str = ""
    image_here: bool | None = None
    slots_free: int | None = None
    #: The node's word on orders in general: False while it drains, is paused or its disk is full.
    accepting: bool | None = None
    argv: tuple[str, ...] = ()
    environment: dict[str, str] = {}
    image: str = ""
    datasets: tuple[str, ...] = ()

    def says(self) -> str:
        """In a few words for people."""
        if self.reasons:
            return "; ".join(reason.message for reason in self.reasons)
        if self.presence == "gone":
            return "not connected"
        if self.accepts is None:
            return "did not answer"
        notes = ["would accept"]
        if self.image_here is False:
            notes.append("has yet to pull the image")
        if not self.accepting:
            notes.append("takes no orders at present")
        elif self.slots_free == 0:
            notes.append("has no free slot at present")
        return ", ".join(notes)


class Plan(BaseModel):
    """All tasks at all nodes."""

    model_config = ConfigDict(frozen=True)

    tool: str
    needed: int
    runs: tuple[RunPlan, ...]
    on_node_offline: str

    @property
    def nodes(self) -> tuple[str, ...]:
        """Those that the quorum is about."""
        return tuple(dict.fromkeys(run.node for run in self.runs if not run.server))

    def hopeful(self, node: str) -> bool:
        """Whether the node may succeed as far as is known: it accepts all, or is to be waited for."""
        mine = [run for run in self.runs if run.node == node]
        return all(run.accepts or (run.accepts is None and self.on_node_offline == "wait") for run in mine)

    def check(self) -> None:
        """Raise PlanRefused, with each node's reasons, unless enough nodes may succeed."""
        bad = [run for run in self.runs if not run.accepts and not (run.accepts is None and self.on_node_offline == "wait")]
        hopeful = sum(self.hopeful(node) for node in self.nodes)
        servers = [run for run in bad if run.server]
        if hopeful >= self.needed and not servers and not (bad and self.on_node_offline == "fail" and any(r.accepts is None for r in bad)):
            return
        why = "; ".join(f"{run.node} ({run.task}): {run.says()}" for run in bad)
        raise PlanRefused(f"{hopeful} of {len(self.nodes)} nodes would run {self.tool}, {self.needed} are needed: {why}")


async def plan(centre: Centre, tool: Tool, asked: ToolRequest, *, seconds: float = PATIENCE) -> Plan:
    """Ask the nodes. Errors of the submission itself (arguments, names, quorum) are raised as they would be by its run."""
    tool = await asyncio.to_thread(pinned, tool, allow_file=centre.settings.source_allow_file)
    found = roles(tool, asked)
    nodes = tuple(dict.fromkeys(node for role in found for node in role.nodes))
    centre.enrolled(nodes)
    present = {node.name: node for node in presence(centre.records)}
    servers = tuple(
        Server(
            node=node, host=present[node].address or "0.0.0.0",
            ports={port.container_port: port.host_port or port.container_port for port in tool.task(role.task).ports},
        )
        for role in found if role.server
        for node in role.nodes
    )  # fmt: skip
    orders: dict[tuple[str, str], TaskOrder] = {}
    for role in found:
        for node, request in requests(tool, role.task, asked, execution=PLANNED, servers=() if role.server else servers).items():
            orders[role.task, node] = request.order(PLANNED, run_id(PLANNED, role.task, node), 1, (), now())
    connected = [node for node in nodes if present[node].presence != "gone"]
    of_node = {node: [order for (_, at), order in orders.items() if at == node] for node in connected}
    answers = await ask(centre, connected, "plan", seconds=seconds, orders=of_node, user=asked.user)
    runs = [_run(role, node, orders[role.task, node], present[node], answers.get(node), tool) for role in found for node in role.nodes]
    return Plan(tool=tool.name, needed=asked.needed, runs=tuple(runs), on_node_offline=asked.on_node_offline)


def _run(role: Role, node: str, order: TaskOrder, present: NodePresence, answer: Answer | None, tool: Tool) -> RunPlan:
    said = _of_task(answer.plans, role.task) if answer else None
    reasons = said.reasons if said else (answer.refused,) if answer and answer.refused else ()
    accepts = said.accepts if said else False if reasons else None
    if role.server and len(tool.tasks) > 1 and answer and not answer.address:
        no_address = "it declares no address at which a server could be reached (address in its settings)"
        reasons, accepts = (*reasons, Reason(code="no-address", fault=Fault.POLICY, message=no_address)), False
    return RunPlan(
        task=role.task, node=node, server=role.server, presence=present.presence, accepts=accepts, reasons=reasons,
        launcher=said.launcher if said else "", image_here=said.image_here if said else None,
        slots_free=answer.slots_free if answer else None, accepting=answer.accepting if answer else None, argv=order.argv,
        environment=order.environment, image=order.image or "", datasets=order.datasets,
    )  # fmt: skip


def _of_task(plans: Sequence[OrderPlan], task: str) -> OrderPlan | None:
    return next((one for one in plans if one.task == task), None)
