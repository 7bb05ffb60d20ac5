"""Existing FEM documents load as they are, odd spots included; what has no place here is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.protocol import Server
from federation.catalogue import legacy
from federation.catalogue.arguments import requests, roles
from federation.catalogue.document import CatalogueError
from federation.catalogue.folder import as_yaml, load, load_tool, load_tools
from federation.catalogue.node import node_id
from federation.catalogue.tool import Tool
from federation.request import build
from federation.tool_request import ToolRequest
from tests.unit.helpers import EXECUTION

FEM = Path(__file__).parent / "data/fem"
COMMIT = "0f" * 20


def read(*documents: dict[str, Any]) -> tuple[list[Tool], list[str]]:
    found, warnings = legacy.tools([(Path("x.json"), json.loads(json.dumps(list(documents))))])
    return [tool for _, tool in found], warnings


def one(**fields: Any) -> tuple[Tool, list[str]]:
    tools, warnings = read({"name": "t", "command": {"base": "run"}} | fields)
    return tools[0], [warning.removeprefix("x.json: tool t, task t: ") for warning in warnings]


def pin(tool: Tool) -> Tool:
    tasks = tuple(
        task.model_copy(update={"source": task.source and task.source.model_copy(update={"commit": COMMIT})}) for task in tool.tasks
    )
    return tool.model_copy(update={"tasks": tasks})


def test_a_tool_with_server_and_clients() -> None:
    (tool,), warnings = load_tools([FEM / "averaging.json"])
    assert (tool.name, tool.title, tool.version, tool.plan_type) == ("fl-averaging", "FL averaging", "1.2", "FL_session")
    server, client = tool.tasks
    assert (server.id, server.single_node, server.host_list) == ("fl-server", True, ("site-a", "site-b"))
    assert (client.id, client.single_node, client.host_list) == ("fl-client", False, ("*",))
    assert server.image is not None
    assert server.image.reference == "registry.example.org:5000/fl/server:2.1"
    assert server.source is not None
    assert (server.source.url, server.source.branch) == ("https://git.example.org/fl/averaging.git", "release/2.x")
    assert [warning.partition(": ")[2] for warning in warnings] == [
        "tool FL averaging: created_at left out: unknown",
        "tool FL averaging, task fl_client: gpus 'all' taken as 1: write how many",
    ]


def test_its_requests() -> None:
    (tool,), _ = load_tools([FEM / "averaging.json"])
    asked = build(
        ToolRequest, tool="fl", nodes=("site-a", "site-b"), server_node="site-a", user="ada",
        arguments={"SITE_A": {"lr": "0.5"}, "columns": ["age", "sex"], "server": {"rounds": 9}},
    )  # fmt: skip
    assert [role.task for role in roles(tool, asked)] == ["fl-server", "fl-client"]
    server = requests(pin(tool), "fl-server", asked, execution=EXECUTION)["site-a"]
    assert server.argv == ("python3", "$SOURCE_PATH/server.py", "--port=8080", "--rounds", "9")
    assert server.environment == {"ROUNDS_DIR": "$SANDBOX_PATH/rounds", "EXECUTION": str(EXECUTION), "DEBUG": "", "THREADS": "2"}
    assert [(port.container, port.host) for port in server.ports] == [(8080, 20080)]
    assert (server.cpus, server.memory, server.outputs, server.sandbox) == (2.0, 4 * 1000**3, ("model/**",), None)
    assert [(move.source, move.shelf, move.to) for move in server.moves] == [("model", "models", "fl-averaging")]
    listening = Server(node="site-a", host="10.1.1.1", ports={8080: 20080})
    clients = requests(pin(tool), "fl-client", asked, execution=EXECUTION, servers=(listening,))
    assert clients["site-b"].argv == (
        "python3", "$SOURCE_PATH/client.py", "--server", "10.1.1.1:20080", "--lr=0.01", "--columns", "age", "sex",
    )  # fmt: skip
    assert "--lr=0.5" in clients["site-a"].argv
    assert clients["site-a"].environment == {"NODE": "site-a", "USER_NAME": "ada"}
    assert [(mount.kind, mount.source) for mount in clients["site-a"].mounts] == [
        ("dataset", "census"),
        ("sandbox", "out"),
        ("host", "/opt/models"),
    ]
    assert (clients["site-a"].checks, clients["site-a"].sandbox, clients["site-a"].gpus) == (("census/*.csv",), f"{EXECUTION}.fl-client", 1)


def test_a_task_template_alone_is_a_tool_of_one_task() -> None:
    (tool,), warnings = load_tools([FEM / "count-rows.json"])
    task = tool.tasks[0]
    assert (tool.name, tool.title, tool.author, task.id) == ("count-rows", "Count_Rows", "ada", "count-rows")
    assert (task.host_list, task.source, task.outputs) == (("site-a", "site-b"), None, ())
    assert task.image is not None
    assert task.image.digest == "sha256:" + "0f" * 32
    assert [warning.partition("Count_Rows: ")[2] for warning in warnings] == [
        "argument file: type 'path' is unknown, and taken as str",
        "volume {'host_path': '/tmp/x', 'container_path': ''} left out: it needs a host_path, and a container_path that begins with /",
        "outputs.model_dir '/elsewhere' left out: write a folder below $SANDBOX_PATH",
        "pre_check /etc/passwd left out: write a path below $DATA_PATH",
        "memory 4 left out: it is no number of bytes; write a size such as 4GB",
        "colour left out: unknown",
    ]
    request = requests(tool, "count-rows", build(ToolRequest, tool="x", nodes=("site-a",)), execution=EXECUTION)["site-a"]
    assert request.argv == ("count", "--where", f"site-a of {EXECUTION}", "people.csv")
    assert [mount.target for mount in request.mounts] == ["/mnt/data/census", "/mnt/data/patients"]


@pytest.mark.parametrize(
    ("host_list", "nodes"),
    [("*", ("*",)), ([], ("*",)), (None, ("*",)), (["A"], ("a",)), (["A,B"], ("a", "b")), ("A, B_1", ("a", "b-1")), (["A", "*"], ("*",))],
)
def test_host_list_in_all_its_forms(host_list: Any, nodes: tuple[str, ...]) -> None:
    assert one(host_list=host_list)[0].tasks[0].host_list == nodes


@pytest.mark.parametrize(
    ("source", "url", "branch"),
    [
        ({"url": "https://x.org/y --branch main"}, "https://x.org/y", "main"),
        ({"url": "https://x.org/y  -b v1.0 "}, "https://x.org/y", "v1.0"),
        ({"url": "https://x.org/y", "branch": "dev"}, "https://x.org/y", "dev"),
        ("https://x.org/y", "https://x.org/y", None),
    ],
)
def test_source_in_all_its_forms(source: Any, url: str, branch: str | None) -> None:
    found = one(source_code=source)[0].tasks[0].source
    assert found is not None
    assert (found.url, found.branch) == (url, branch)


@pytest.mark.parametrize(
    "url",
    [
        "--upload-pack=touch /tmp/x",
        "ext::sh -c id",
        "https://x.org/y --branch --upload-pack=id",
        "https://x.org/y --depth 1",
        "git@x.org:y",
    ],
)
def test_a_source_that_git_would_take_for_something_else_is_refused(url: str) -> None:
    with pytest.raises(CatalogueError, match="source"):
        one(source_code={"url": url})


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"image": {"name": "x", "hash": "md5:1"}}, "image.hash 'md5:1' left out: it is no SHA-256"),
        ({"outputs": {"model_dir": "m", "move_to": "/mnt/m"}}, "outputs.move_to '/mnt/m' left out: "),
        ({"inputs": ["x"]}, "inputs left out: name datasets, or files beside the tool"),
        ({"volumes": 7}, "volumes left out: '7' is of a form that nobody knows"),
        ({"arguments": ["x"]}, "arguments left out: they are no list of objects"),
    ],
)
def test_what_has_no_place_is_left_out_with_a_warning(fields: dict[str, Any], warning: str) -> None:
    _, warnings = one(**fields)
    assert [text[: len(warning)] for text in warnings] == [warning]


def test_other_spellings() -> None:
    tool, warnings = one(
        volumes=["$SANDBOX_PATH:/w:rw"], port_mappings=["20080:80", 443], var_envs=["A=b=c", {"name": "B", "value": 1}], gpus=["0", "1"],
        persistent="true", single_node="false", arguments=[{"id": "n", "type": "Integer", "default_value": "", "required": None}],
        image={"name": "img:1", "tag": None}, outputs=["$SANDBOX_PATH/a.csv", {"path": "./b.csv"}],
    )  # fmt: skip
    task = tool.tasks[0]
    assert warnings == []
    assert [(volume.host_path, volume.container_path) for volume in task.volumes] == [("$SANDBOX_PATH", "/w")]
    assert [(port.container_port, port.host_port) for port in task.ports] == [(80, 20080), (443, None)]
    assert (task.environment, task.resources.gpus, task.persistent, task.single_node) == ({"A": "b=c", "B": "1"}, 2, True, False)
    assert [(argument.id, argument.type, argument.default) for argument in task.command.args] == [("n", "int", None)]
    assert (task.image and task.image.reference, task.outputs) == ("img:1", ("a.csv", "b.csv"))


def test_a_tool_for_projects_that_it_does_not_name_is_private() -> None:
    tool, warnings = one(visibility="project")
    assert tool.visibility == "private"
    assert "visibility 'project' names no projects" in warnings[0]


def test_a_reference_to_a_task_that_is_not_there_is_an_error() -> None:
    task = {"task_id": "count", "command": {"base": "count"}}
    with pytest.raises(CatalogueError, match=r"x.json: tool t: task cuont is not among the documents \(there are: count\)"):
        read({"name": "t", "tasks": [{"task_id": "cuont"}]}, task)
    with pytest.raises(CatalogueError, match=r"task x is not among the documents \(there are no task templates\)"):
        read({"name": "t", "tasks": ["x"]})


def test_every_error_of_every_document_is_told() -> None:
    with pytest.raises(CatalogueError) as caught:
        read({"name": "a", "image": "x"}, {"name": "b", "tasks": [{"task_id": "no"}]}, {"name": "c", "command": {"base": "'"}})
    assert caught.value.problems == (
        "x.json: tool b: task no is not among the documents (there are: a, c)",
        "x.json: tool a: tasks.0.command: is required",
        "x.json: tool c: tasks.0.command.base: No closing quotation",
    )


def test_names_of_nodes() -> None:
    assert [node_id(name) for name in ("SITE_A", "site-a", "Site B.2", "_X_")] == ["site-a", "site-a", "site-b-2", "x"]


def test_hosts(tmp_path: Path) -> None:
    (tmp_path / "nodes").mkdir()
    (tmp_path / "nodes/hosts.json").write_text((FEM / "hosts.json").read_text())
    catalogue = load(tmp_path)
    assert [(node.id, node.display_name, node.region) for node in catalogue.nodes.values()] == [
        ("site-a", "SITE_A", ""),
        ("site-b", "Site B", "north"),
    ]
    assert "sandbox_root_dir" in catalogue.warnings[0]
    assert catalogue.warnings[2].endswith("node Site B: weather left out: unknown")


@pytest.mark.parametrize("name", ["averaging.json", "count-rows.json"])
def test_an_imported_tool_is_the_same_from_its_yaml(name: str, tmp_path: Path) -> None:
    tool = load_tool(FEM / name)
    path = tmp_path / "tool.yaml"
    path.write_text(as_yaml(tool, "x.schema.json"))
    assert path.read_text().startswith("# yaml-language-server: $schema=x.schema.json\n")
    assert load_tool(path) == tool
