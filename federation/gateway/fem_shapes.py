"""What the FEM REST interface answers: shapes that existing clients know, made from records and catalogue.

Where these clients read one word and there is more to say, the word is theirs and the rest stands in a field beside it: a run is
`running` until it has ended, and its `state` is the precise one; every `plan_type` is `FL_session`, and `kind` is the catalogue's.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from fdn_worker.protocol import State
from federation.catalogue import tool as catalogue
from federation.catalogue.node import node_id
from federation.catalogue.placeholders import below_data
from federation.gateway.fem_wording import Names
from federation.presence import NodePresence
from storage.accounts import Account
from storage.records import OPEN, AttemptRow, ExecutionRow, RunRow

#: The end of a run -> its word here. Any other word than `running` is an end to existing clients.
ENDS = {
    State.SUCCEEDED: "success", State.FAILED: "failed", State.REJECTED: "rejected", State.CANCELLED: "cancelled", State.LOST: "lost",
}  # fmt: skip
RUNNING = "running"
#: Ends that a new attempt may follow, where the submission allows more than one.
MENDABLE = (State.FAILED, State.LOST)

Id = Annotated[str, Field(alias="_id")]


class Shape(BaseModel):
    model_config = ConfigDict(populate_by_name=True, frozen=True)


class Token(Shape):
    access_token: str
    token_type: Literal["bearer"] = "bearer"


class HealthData(Shape):
    """As the node said it last."""

    last_seen: datetime | None
    version: str
    accepting: bool
    slots: int
    slots_free: int
    cpus: float
    memory: int
    gpus: int
    disk_free: int
    problems: tuple[str, ...]


class Host(Shape):
    """A node. What only its site knows stands here as the variable that the node fills in, or empty."""

    id: Id
    name: str
    accessible_via: Literal["ampq"] = "ampq"
    launchers: tuple[str, ...]
    image_pull_policy: str = ""
    sandbox_root_dir: str = "$SANDBOX_PATH"
    sandbox_persistent: bool = False
    local_data_root_dir: str = "$DATA_PATH"
    whitelist_ip: tuple[str, ...] = ()
    tools: list[str]
    status: Literal["active", "inactive"]
    health_data: HealthData
    datasets: tuple[str, ...]
    presence: str


class Beat(Shape):
    """A connection: `host` and `port` are the broker's, through which the node is connected."""

    user: str
    node: str
    host: str
    port: int
    state: Literal["running"] = "running"


class NodeResources(Shape):
    """Bytes of memory and of free disk."""

    cpus: float
    memory: int
    gpus: int
    disk: int
    status: Literal["active", "inactive"]


class ToolTask(Shape):
    task_id: str
    host_list: list[str]
    single_node: bool


class Tool(Shape):
    id: Id
    name: str
    title: str
    author: str
    version: str
    description: str
    visibility: str
    plan_type: Literal["FL_session"] = "FL_session"
    kind: str
    tasks: list[ToolTask]


class Image(Shape):
    label: str
    name: str
    repository: str
    tag: str
    hash: str


class Argument(Shape):
    id: str
    type: str
    default_value: Any
    position: int | None
    prefix: str
    separate: bool
    required: bool
    description: str


class Command(Shape):
    base: tuple[str, ...]
    args: list[Argument]


class Outputs(Shape):
    """`model_dir` where one folder comes back; `patterns` in every case."""

    model_dir: str
    move_to: str
    patterns: tuple[str, ...]


class PortMapping(Shape):
    host_port: int | None
    container_port: int


class VolumeMapping(Shape):
    host_path: str
    container_path: str


class SourceCode(Shape):
    url: str
    commit: str | None


class Template(Shape):
    """A task template. Its id is TOOL.TASK."""

    id: Id
    name: str
    tool_id: str
    image: Image | None
    port_mappings: list[PortMapping]
    var_envs: dict[str, str]
    volumes: list[VolumeMapping]
    cpus: float
    memory: int
    gpus: int
    inputs: list[str]
    arguments: list[Argument]
    outputs: Outputs
    persistent: bool | str
    pre_checks: list[str]
    source_code: SourceCode | None
    command: Command
    host_list: list[str]
    single_node: bool


class Process(Shape):
    """One task at one node."""

    execution_id: str
    action: Literal["submit_run", "cancel_run"] = "submit_run"
    tool_id: str
    task_id: str
    user_id: str
    node: str
    status: str
    #: The precise one.
    state: str
    attempt: int
    since: datetime | None
    reason: str | None
    message: str | None


class Submitted(Shape):
    execution_id: str
    tool_id: str
    user_id: str
    process_info: list[Process]


class SubmittedAnswer(Shape):
    status: Literal["success"] = "success"
    execution_id: str
    result: Submitted


class Cancelled(Shape):
    status: Literal["success"] = "success"
    execution_id: str
    process_info: list[Process]


class Seconds(Shape):
    waiting: float
    staging_in: float
    running: float
    staging_out: float
    releasing: float


class RunReport(Shape):
    """What a task at a node used. Null where it has not ended, or where nothing of it is known."""

    node: str
    task_id: str
    status: str
    state: str
    attempt: int
    reason: str | None
    message: str | None
    exit_code: int | None = None
    issued: datetime | None = None
    ended: datetime | None = None
    seconds: Seconds | None = None
    cpu_seconds: float | None = None
    peak_memory: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    #: Some figure could not be read exactly.
    estimated: bool | None = None
    launcher: str | None = None
    image_digest: str | None = None


class Report(Shape):
    execution_id: str
    tool_id: str
    user_id: str
    project: str
    status: str
    state: str
    outcome: str | None
    created: datetime
    closed: datetime | None
    tasks: list[RunReport]


class NodeFiles(Shape):
    files: list[str]
    #: What is wrong with the others.
    problem: str | None = None


class NothingYet(Shape):
    """What these clients take for "ask again later": a dict that holds user_id."""

    user_id: str
    execution_id: str
    status: Literal["running"] = "running"


def active(node: NodePresence) -> Literal["active", "inactive"]:
    return "active" if node.presence == "connected" else "inactive"


def host(node: NodePresence, names: Names, tools: list[catalogue.Tool]) -> Host:
    return Host(
        id=node.name, name=names.shown(node.name), launchers=node.launchers, status=active(node), datasets=node.datasets, presence=node.presence,
        tools=[tool.name for tool in tools if any(task.allows(node.name) for task in tool.tasks)],
        health_data=HealthData(**{field: getattr(node, field) for field in HealthData.model_fields}),
    )  # fmt: skip


def resources(node: NodePresence) -> NodeResources:
    return NodeResources(cpus=node.cpus, memory=node.memory, gpus=node.gpus, disk=node.disk_free, status=active(node))


@lru_cache(maxsize=500)
def parsed(document: str) -> catalogue.Tool:
    """A tool of the records; dashboards ask for all of them every few seconds."""
    return catalogue.Tool.model_validate_json(document)


def tool(entry: catalogue.Tool, names: Names) -> Tool:
    return Tool(
        # A title is a name where it spells the id, as an existing document's does; others are sentences.
        id=entry.name, name=entry.title if node_id(entry.title) == entry.name else entry.name, title=entry.title,
        author=entry.author, version=entry.version, description=entry.description,
        visibility=entry.visibility, kind=entry.plan_type,
        tasks=[
            ToolTask(task_id=task_id(entry.name, task.id), host_list=_hosts(task, names), single_node=task.single_node)
            for task in entry.tasks
        ],
    )  # fmt: skip


def task_id(tool: str, task: str) -> str:
    """Of one among all tools' tasks: a task's own id is unique in its tool alone. Neither holds a dot."""
    return f"{tool}.{task}" if tool else task


def _hosts(task: catalogue.TaskTemplate, names: Names) -> list[str]:
    return [names.shown(node) for node in task.host_list]


def template(entry: catalogue.Tool, task: catalogue.TaskTemplate, names: Names) -> Template:
    image, code, needs = task.image, task.source, task.resources
    args = [
        Argument(
            id=argument.id, type=argument.type, default_value=argument.default, position=argument.position, prefix=argument.prefix,
            separate=argument.separate, required=argument.required, description=argument.description,
        )
        for argument in task.command.args
    ]  # fmt: skip
    folders = [pattern.removesuffix("**").rstrip("/") for pattern in task.outputs if pattern == "**" or pattern.endswith("/**")]
    return Template(
        id=task_id(entry.name, task.id), name=task.id, tool_id=entry.name,
        image=Image(label=image.label, name=image.name, repository=image.repository, tag=image.tag, hash=image.digest or "") if image else None,
        port_mappings=[PortMapping(host_port=port.host_port, container_port=port.container_port) for port in task.ports],
        var_envs=task.environment, cpus=needs.cpus, memory=needs.memory, gpus=needs.gpus, inputs=list(task.files), arguments=args,
        volumes=[VolumeMapping(host_path=volume.host_path, container_path=volume.container_path) for volume in task.volumes],
        outputs=Outputs(
            model_dir=f"$SANDBOX_PATH/{folders[0]}".rstrip("/") if folders else "",
            move_to=f"{task.move_to[0].shelf}/{task.move_to[0].to}" if task.move_to else "", patterns=task.outputs,
        ),
        persistent=task.persistent, pre_checks=[f"$DATA_PATH/{below_data(pattern)}" for pattern in task.pre_checks],
        source_code=SourceCode(url=f"{code.url} --branch {code.branch}" if code.branch else code.url, commit=code.commit) if code else None,
        command=Command(base=task.command.base, args=args), host_list=_hosts(task, names), single_node=task.single_node,
    )  # fmt: skip


class Told:
    """An execution in these words."""

    def __init__(self, row: ExecutionRow, names: Names) -> None:
        self.row, self._names = row, names
        self._retries = json.loads(row.request).get("retries", 0) if row.state == OPEN else 0

    def process(self, run: RunRow, attempt: AttemptRow | None, action: Literal["submit_run", "cancel_run"] = "submit_run") -> Process:
        return Process(
            execution_id=self.row.id, action=action, tool_id=self.row.tool, task_id=task_id(self.row.tool, run.task), user_id=self.row.user,
            node=self._names.shown(run.node), status=self.status(run), state=run.state, attempt=run.attempt,
            since=attempt.state_at if attempt else None, reason=attempt.reason_code if attempt else None,
            message=attempt.reason_message if attempt else None,
        )  # fmt: skip

    def status(self, run: RunRow) -> str:
        """`running` as long as anything may still come of the run."""
        if self.row.state != OPEN and not run.state.terminal:
            return self.whole()  # the execution ended without it
        if run.state in MENDABLE and run.attempt <= self._retries:
            return RUNNING
        return ENDS.get(run.state, RUNNING)

    def whole(self) -> str:
        """Of the execution as one."""
        if self.row.state == OPEN:
            return RUNNING
        return {"SUCCEEDED": "success", "DEGRADED": "success", "CANCELLED": "cancelled"}.get(self.row.state, "failed")

    def report(self, run: RunRow, attempt: AttemptRow | None, account: Account | None) -> RunReport:
        figures: dict[str, Any] = {}
        if account is not None:
            same = (
                "exit_code",
                "issued",
                "ended",
                "cpu_seconds",
                "peak_memory",
                "bytes_in",
                "bytes_out",
                "estimated",
                "launcher",
                "image_digest",
            )
            figures = {name: getattr(account, name) for name in same}
            figures["seconds"] = Seconds(**{name: getattr(account, name) for name in Seconds.model_fields})
        told = self.process(run, attempt)
        shared = ("node", "task_id", "status", "state", "attempt", "reason", "message")
        return RunReport(**{name: getattr(told, name) for name in shared}, **figures)
