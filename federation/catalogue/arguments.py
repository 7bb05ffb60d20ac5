"""From a tool and a submission to one TaskRequest a node: roles, values of arguments, and templates filled in.

A value comes from, first found: the entry of the node, the `server` entry for the server's task, the flat entry, the
default. Values and templates become lists of words and no shell sees them; what a value holds is never filled in again.
"""

from __future__ import annotations

import functools
import hashlib
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from fdn_worker.protocol import Mount, Move, Port, Server
from federation.catalogue.check import problems, program_texts
from federation.catalogue.node import node_id
from federation.catalogue.placeholders import ARGUMENT, FREE, below_data, fill, named
from federation.catalogue.tool import TaskTemplate, Tool
from federation.catalogue.values import Value, chosen, text, words
from federation.nearest import unknown
from federation.request import BadRequest, TaskRequest, build
from federation.tool_request import ToolRequest

#: Name of the arguments' entry for the server's task.
SERVER = "server"
#: What a shell takes as it is.
_PLAIN = re.compile(r"[A-Za-z0-9._@+-]*")
_VARIABLE = re.compile(r"^\$(?:\{(\w+)\}|(\w+))(?:/(.*))?$", re.DOTALL)

Fill = Callable[[str], str]


@dataclass(frozen=True)
class Role:
    """A task of the tool and the nodes at which it runs."""

    task: str
    nodes: tuple[str, ...]
    #: It serves the others: runs at one node, and is started before them.
    server: bool = False


def roles(tool: Tool, asked: ToolRequest) -> tuple[Role, ...]:
    """Where each task runs, servers first. BadRequest where a node is missing, or may not run it."""
    _may_run(tool, asked)
    found = []
    for task in tool.tasks:
        nodes = asked.nodes
        if task.single_node:
            nodes = (asked.server_node,) if asked.server_node else asked.nodes
            if tool.has_server and asked.server_node is None:
                raise BadRequest(f"task {task.id} of {tool.name} is a server's", remedy="say where it runs: server_node")
            if len(nodes) > 1:
                raise BadRequest(f"task {task.id} of {tool.name} runs at one node, {len(nodes)} were named", remedy="name one")
        if outside := sorted(node for node in nodes if not task.allows(node)):
            raise BadRequest(
                f"task {task.id} of {tool.name} does not run at {', '.join(outside)}", remedy=f"it runs at {', '.join(task.host_list)}"
            )
        found.append(Role(task.id, nodes, server=task.single_node and tool.has_server))
    return tuple(sorted(found, key=lambda role: not role.server))


def _may_run(tool: Tool, asked: ToolRequest) -> None:
    if tool.visibility == "project" and asked.project not in tool.projects:
        raise BadRequest(
            f"tool {tool.name} is for projects {', '.join(tool.projects)}, not for {asked.project or 'none'}", code="tool-refused",
            remedy="submit it for one of them",
        )  # fmt: skip
    if tool.visibility == "private" and asked.user != tool.author:
        raise BadRequest(f"tool {tool.name} is private to {tool.author or 'nobody'}", code="tool-refused", remedy="ask its author")


def requests(tool: Tool, task: str, asked: ToolRequest, *, execution: UUID, servers: tuple[Server, ...] = ()) -> dict[str, TaskRequest]:
    """Node -> what is asked of it, for one task. Any wrong argument of the submission is a BadRequest.

    `servers` are handed to the tasks of clients; the first one fills %%server_node%%, %%server_host%% and %%server_port%%.
    """
    for place, why in problems(tool):
        raise BadRequest(f"{tool.name}.{'.'.join(map(str, place))}: {why}")
    (role,) = (role for role in roles(tool, asked) if role.task == task)
    entries = _Entries(tool, asked)
    return {node: _request(tool, tool.task(task), asked, node, role, entries, execution, servers) for node in role.nodes}


class _Entries:
    """The submission's arguments, sorted: a mapping is the entry of a node or of the server, anything else a flat value."""

    def __init__(self, tool: Tool, asked: ToolRequest) -> None:
        self.flat: dict[str, Any] = {}
        self.of: dict[str, Mapping[str, Any]] = {}
        placed = roles(tool, asked)
        nodes = {node for role in placed for node in role.nodes}
        for name, value in asked.arguments.items():
            if isinstance(value, dict):
                place = name if name == SERVER else node_id(name)
                if place != SERVER and place not in nodes:
                    raise BadRequest(f"arguments: {name} is no node of this submission", remedy=unknown(place, {*nodes, SERVER}))
                at = [role for role in placed if (role.server if place == SERVER else place in role.nodes)]
                self._known(f"arguments.{name}.", value, tool, at)
                self.of[place] = {**self.of.get(place, {}), **value}
            else:
                self.flat[name] = value
        self._known("arguments.", self.flat, tool, placed)

    def _known(self, place: str, given: Mapping[str, Any], tool: Tool, at: Sequence[Role]) -> None:
        ids = {argument.id for role in at for argument in tool.task(role.task).command.args}
        for name in given:
            if name not in ids:
                raise BadRequest(f"{place}{name}: unknown argument", remedy=unknown(name, ids) or f"{tool.name} has none there")

    def sources(self, node: str, role: Role) -> list[tuple[str, Mapping[str, Any]]]:
        """Where a value may come from, best first."""
        server = [(f"arguments.{SERVER}", self.of.get(SERVER, {}))] if role.server else []
        return [(f"arguments.{node}", self.of.get(node, {})), *server, ("arguments", self.flat)]


def _request(
    tool: Tool, template: TaskTemplate, asked: ToolRequest, node: str, role: Role, entries: _Entries, execution: UUID,
    servers: tuple[Server, ...],
) -> TaskRequest:  # fmt: skip
    texts = {
        "execution_id": str(execution), "user_id": asked.user, "task_id": template.id, "node_name": node, "project_id": asked.project,
        "tool_id": tool.name, "node_count": str(len(asked.nodes)), **_of_server(servers),
    }  # fmt: skip
    try:
        args = template.command.args
        values = chosen(args, entries.sources(node, role), texts)
        texts |= {ARGUMENT + argument.id: _text(values.get(argument.id)) for argument in args}
        _check_program_texts(template, texts)
        return _filled(tool, template, asked, node, functools.partial(fill, values=texts), words(args, values, texts), servers)
    except BadRequest as error:
        raise BadRequest(f"{tool.name}, task {template.id} at {node}: {error.message}", code=error.code, remedy=error.remedy) from error


def _check_program_texts(template: TaskTemplate, texts: Mapping[str, str]) -> None:
    """Existing documents name the user in the text of a shell's program; so a name may hold nothing that a shell would act on."""
    for name in {name for word in program_texts(template.command.base) for name in named(word)} & set(FREE):
        if not _PLAIN.fullmatch(texts[name]):
            raise BadRequest(
                f"%%{name}%% stands in a program's text, and {texts[name][:80]!r} is more than a plain name",
                remedy="use letters, digits and ._@+-",
            )


def _text(value: Value | None) -> str:
    return "" if value is None else text(value)


def _of_server(servers: tuple[Server, ...]) -> dict[str, str]:
    if not servers:
        return {}
    first = servers[0]
    port = {"server_port": str(next(iter(first.ports.values())))} if first.ports else {}
    return {"server_node": first.node, "server_host": first.host, **port}


def _filled(
    tool: Tool, template: TaskTemplate, asked: ToolRequest, node: str, filled: Fill, arguments: Sequence[str], servers: tuple[Server, ...]
) -> TaskRequest:
    image, code, needs = template.image, template.source, template.resources
    if code is not None and code.commit is None:
        raise BadRequest(f"source {code.url} is not pinned to a commit", remedy="name one, or pin the tool (federation.catalogue.source)")
    datasets = tuple(map(filled, template.datasets))
    kept = "%%execution_id%%.%%task_id%%" if template.persistent is True else template.persistent or None
    network = template.network if template.network is not None else bool(template.ports) or tool.has_server
    return build(
        TaskRequest, node=node, argv=(*map(filled, template.command.base), *arguments), image=filled(image.reference) if image else None,
        image_digest=image.digest if image else None, image_signature=image.signature if image else None,
        environment={name: filled(value) for name, value in template.environment.items()}, datasets=datasets,
        inputs=(*asked.inputs, *_shipped(tool, template)), outputs=tuple(map(filled, template.outputs)), cpus=needs.cpus, memory=needs.memory,
        gpus=needs.gpus, disk=needs.disk, network=network, timeout=template.timeout, deadline=asked.deadline,
        repository=code.url if code else None, commit=code.commit if code else None, retries=asked.retries, task=template.id,
        user=asked.user, project=asked.project, tool=tool.name,
        ports=tuple(build(Port, container=port.container_port, host=port.host_port) for port in template.ports),
        listen_within=template.listen_within, servers=servers,
        mounts=tuple(mount for volume in template.volumes for mount in _mounts(filled(volume.host_path), filled(volume.container_path), datasets)),
        secrets=tuple(map(filled, template.secrets)),
        checks=tuple(below_data(filled(pattern)) for pattern in template.pre_checks), sandbox=filled(kept) if kept else None,
        moves=tuple(build(Move, source=filled(move.source), shelf=filled(move.shelf), to=filled(move.to)) for move in template.move_to),
    )  # fmt: skip


def _mounts(host: str, target: str, datasets: Sequence[str]) -> list[Mount]:
    """`$DATA_PATH` alone is every dataset of the template, each in a folder of its name."""
    target = target.rstrip("/") or "/"
    found = _VARIABLE.match(host.rstrip("/"))
    variable, below = (found[1] or found[2], found[3] or "") if found else ("", "")
    if variable == "SANDBOX_PATH":
        return [build(Mount, kind="sandbox", source=below, target=target)]
    if variable != "DATA_PATH":
        return [build(Mount, kind="host", source=host, target=target)]
    if below:
        return [build(Mount, kind="dataset", source=below, target=target)]
    if not datasets:
        raise BadRequest(
            "volumes: $DATA_PATH stands for the task's datasets, and it names none", remedy="name them, or write $DATA_PATH/NAME"
        )
    return [build(Mount, kind="dataset", source=name, target=f"{target}/{name}") for name in datasets]


def _shipped(tool: Tool, template: TaskTemplate) -> list[str]:
    """The template's files as inputs, NAME=PATH."""
    if lost := sorted(set(template.files.values()) - set(tool.contents)):
        raise BadRequest(f"the tool was loaded without its file {lost[0]}", remedy="load it from its folder")
    return [f"{name}={_kept(tool.contents[path])}" for name, path in template.files.items()]


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Files of tools for the orders of this process, and gone with it: what counts is the content in the tool's document."""
    return tempfile.TemporaryDirectory(prefix="fem-files-")


def _kept(content: bytes) -> Path:
    path = Path(_folder().name) / hashlib.sha256(content).hexdigest()
    if not path.exists():
        path.write_bytes(content)
    return path
