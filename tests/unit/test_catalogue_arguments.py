"""From a tool and a submission to requests: where values come from, their types, the words they make, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdn_worker.protocol import Server, now
from fdn_worker.protocol.names import run_id
from federation.catalogue.arguments import Role, requests, roles
from federation.catalogue.tool import Tool
from federation.request import BadRequest, build
from federation.tool_request import ToolRequest
from tests.unit.helpers import EXECUTION
from tests.unit.strategies import text

#: As a client finds it.
SERVER = Server(node="site-s", host="10.0.0.1", ports={8080: 20001, 9090: 20002})


def a_tool(*args: dict[str, Any], base: Any = ("run",), **fields: Any) -> Tool:
    return build(Tool, name="t", tasks=[{"command": {"base": base, "args": args}, **fields}])


def with_server(**of_client: Any) -> Tool:
    server = {"id": "server", "single_node": True, "command": {"base": "serve", "args": [{"id": "n", "type": "int"}]},
              "ports": [{"container_port": 8080}]}  # fmt: skip
    client = {"id": "client", "command": {"base": "learn", "args": [{"id": "n", "type": "int"}, {"id": "own"}]}} | of_client
    return build(Tool, name="fl", tasks=[client, server])


def asked(nodes: tuple[str, ...] = ("site-a", "site-b"), **fields: Any) -> ToolRequest:
    return build(ToolRequest, tool="t", nodes=nodes, **fields)


def argv(tool: Tool, node: str = "site-a", task: str = "main", servers: tuple[Server, ...] = (), **fields: Any) -> tuple[str, ...]:
    return requests(tool, task, asked(**fields), execution=EXECUTION, servers=servers)[node].argv


# Where a value comes from


def test_a_value_comes_from_node_then_flat_then_default() -> None:
    tool = a_tool({"id": "n", "type": "int", "default": 1})
    assert argv(tool) == ("run", "1")
    assert argv(tool, arguments={"n": 2}) == ("run", "2")
    assert argv(tool, arguments={"n": 2, "site-a": {"n": 3}}) == ("run", "3")
    assert argv(tool, node="site-b", arguments={"n": 2, "site-a": {"n": 3}}) == ("run", "2")
    assert argv(tool, arguments={"n": None}) == ("run", "1")
    assert argv(tool, arguments={"SITE_A": {"n": 4}}) == ("run", "4"), "as existing clients name nodes"


def test_the_server_entry_is_for_the_servers_task() -> None:
    where = {"server_node": "site-s", "arguments": {"server": {"n": 5}, "n": 2}}
    assert argv(with_server(), node="site-s", task="server", **where) == ("serve", "5")
    assert argv(with_server(), task="client", **where) == ("learn", "2")
    both = where | {"arguments": {"server": {"n": 5}, "site-s": {"n": 7}}}
    assert argv(with_server(), node="site-s", task="server", **both) == ("serve", "7")
    assert argv(with_server(), task="client", **both) == ("learn",)


def test_defaults_may_name_other_arguments_and_placeholders() -> None:
    tool = a_tool({"id": "out", "default": "%%args.name%%-%%node_name%%.csv"}, {"id": "name", "default": "x"})
    assert argv(tool) == ("run", "x-site-a.csv", "x")
    assert argv(tool, arguments={"name": "y"}) == ("run", "y-site-a.csv", "y")


def test_a_required_one_that_is_missing_is_named() -> None:
    tool = a_tool({"id": "n", "type": "int", "required": True})
    for given_ in ({}, {"n": []}, {"site-b": {"n": 1}}):
        with pytest.raises(BadRequest, match="task main at site-a: argument n is required, and has no value"):
            argv(tool, arguments=given_)


# Types


@pytest.mark.parametrize(
    ("kind", "value", "word"),
    [
        ("int", 3, "3"), ("int", "3", "3"), ("int", " -7 ", "-7"), ("int", 3.0, "3"), ("float", "3", "3.0"), ("float", 1e-3, "0.001"),
        ("bool", True, "true"), ("bool", "False", "false"), ("str", 3, "3"), ("str", True, "true"), ("str", "a b", "a b"), ("str", "", ""),
    ],
)  # fmt: skip
def test_a_value_becomes_its_type(kind: str, value: Any, word: str) -> None:
    assert argv(a_tool({"id": "x", "type": kind}), arguments={"x": value}) == ("run", word)


@pytest.mark.parametrize(
    ("kind", "value", "what"),
    [
        ("int", "3.5", "a whole number"), ("int", 3.5, "a whole number"), ("int", True, "a whole number"), ("int", "", "a whole number"),
        ("int", float("inf"), "a whole number"), ("int", "9" * 5000, "a whole number"),
        ("float", "x", "a number"), ("float", "nan", "a number"), ("float", True, "a number"),
        ("bool", 1, "true or false"), ("bool", "yes", "true or false"), ("str", [["a"]], "a text"), ("int", [1, "x"], "a whole number"),
    ],
)  # fmt: skip
def test_a_value_of_another_type_is_refused(kind: str, value: Any, what: str) -> None:
    with pytest.raises(BadRequest) as caught:
        argv(a_tool({"id": "x", "type": kind}), arguments={"site-a": {"x": value}})
    assert "t, task main at site-a: arguments.site-a.x: " in str(caught.value)
    assert f"is not {what} (argument x is of type {kind})" in str(caught.value)


def test_choices() -> None:
    tool = a_tool({"id": "m", "choices": ["mean", "median"]})
    assert argv(tool, arguments={"m": "mean"}) == ("run", "mean")
    with pytest.raises(BadRequest, match=r"'meam' is not among the choices of m \(choose from: mean, median\)"):
        argv(tool, arguments={"m": "meam"})


# Words


def test_arguments_stand_by_position_with_their_prefix() -> None:
    tool = a_tool(
        {"id": "last"}, {"id": "b", "position": 2, "prefix": "--b", "separate": True}, {"id": "a", "position": 1, "prefix": "--a"},
        {"id": "c", "position": 3, "prefix": "c="}, {"id": "hidden", "argv": False},
    )  # fmt: skip
    assert argv(tool, arguments={"a": 1, "b": 2, "c": 3, "last": 4, "hidden": 5}) == ("run", "--a=1", "--b", "2", "c=3", "4")


def test_a_list_makes_several_words() -> None:
    values = {"arguments": {"x": ["a", "b c"]}}
    assert argv(a_tool({"id": "x"}), **values) == ("run", "a", "b c")
    assert argv(a_tool({"id": "x", "prefix": "-x", "separate": True}), **values) == ("run", "-x", "a", "b c")
    assert argv(a_tool({"id": "x", "prefix": "-x"}), **values) == ("run", "-x=a", "-x=b c")
    assert argv(a_tool({"id": "x"}), arguments={"x": []}) == ("run",)


def test_a_bool_with_a_prefix_is_a_switch() -> None:
    tool = a_tool({"id": "v", "type": "bool", "prefix": "--verbose"})
    assert argv(tool, arguments={"v": True}) == ("run", "--verbose")
    assert argv(tool, arguments={"v": False}) == argv(tool) == ("run",)


@given(value=text, base=st.sampled_from([("run",), ("run", "%%args.x%%"), ("sh", "script.sh")]))
def test_a_value_reaches_argv_as_it_is(value: str, base: tuple[str, ...]) -> None:
    shown = argv(a_tool({"id": "x"}, base=base), arguments={"x": value})
    assert shown == (*(value if word == "%%args.x%%" else word for word in base), value)


@pytest.mark.parametrize(
    "value", ["; rm -rf /", "$(id)", "`id`", "a\nb", "'", '"', "&& x", "| y", "> z", "%%user_id%%", "%%nonsense%%", "*", "~", "-x"]
)
def test_shells_and_placeholders_have_no_hold_on_a_value(value: str) -> None:
    tool = a_tool({"id": "x", "prefix": "--x", "separate": True}, base=["run", "a %%args.x%% b"], environment={"X": "%%args.x%%"})
    request = requests(tool, "main", asked(arguments={"x": value}), execution=EXECUTION)["site-a"]
    order = request.order(EXECUTION, run_id(EXECUTION, "main", "site-a"), 1, (), now())
    assert order.argv == ("run", f"a {value} b", "--x", value)
    assert order.environment == {"X": value}


# Unknown names


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"m": 1}, "arguments.m: unknown argument (there are: n, own)"),
        ({"ow": 1}, "arguments.ow: unknown argument (there are: own)"),
        ({"server": {"own": 1}}, "arguments.server.own: unknown argument (there are: n)"),
        ({"site-a": {"onw": 1}}, "arguments.site-a.onw: unknown argument (there are: own)"),
        ({"site-s": {"own": 1}}, "arguments.site-s.own: unknown argument (there are: n)"),
        ({"site-c": {"n": 1}}, "arguments: site-c is no node of this submission (there are: site-a, site-b, site-s)"),
        ({"sever": {"n": 1}}, "arguments: sever is no node of this submission (there are: server)"),
    ],
)
def test_an_unknown_argument_is_named_with_the_nearest(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        argv(with_server(), task="client", server_node="site-s", arguments=arguments)
    assert str(caught.value) == said


# Roles


def test_a_server_comes_first_and_runs_at_its_node() -> None:
    assert roles(with_server(), asked(server_node="site-a")) == (
        Role("server", ("site-a",), server=True),
        Role("client", ("site-a", "site-b")),
    )


def test_a_servers_task_needs_a_node() -> None:
    with pytest.raises(BadRequest, match=r"task server of fl is a server's \(say where it runs: server_node\)"):
        roles(with_server(), asked())


def test_a_single_task_for_one_node_needs_no_server_node() -> None:
    tool = a_tool(single_node=True)
    assert roles(tool, asked(("site-a",))) == (Role("main", ("site-a",)),)
    with pytest.raises(BadRequest, match="runs at one node, 2 were named"):
        roles(tool, asked())


def test_a_task_runs_where_its_host_list_allows() -> None:
    assert roles(a_tool(host_list="*"), asked())[0].nodes == ("site-a", "site-b")
    assert roles(a_tool(host_list=["site-a,site-b"]), asked())[0].nodes == ("site-a", "site-b")
    with pytest.raises(BadRequest, match=r"task main of t does not run at site-b \(it runs at site-a, site-c\)"):
        roles(a_tool(host_list=["site-a", "site-c"]), asked())


def test_a_tool_is_run_by_those_that_it_is_for() -> None:
    of_project = a_tool().model_copy(update={"visibility": "project", "projects": ("p", "q")})
    assert roles(of_project, asked(project="q"))
    with pytest.raises(BadRequest, match="tool t is for projects p, q, not for r"):
        roles(of_project, asked(project="r"))
    private = a_tool().model_copy(update={"visibility": "private", "author": "ada"})
    assert roles(private, asked(user="ada"))
    with pytest.raises(BadRequest, match="tool t is private to ada"):
        roles(private, asked(user="bob"))


# Templates


def test_every_text_of_a_template_is_filled() -> None:
    tool = with_server(
        image="img/%%args.own%%:1", environment={"S": "%%server_node%%@%%server_host%%:%%server_port%%", "N": "%%node_count%%", "D": "$DATA_PATH"},
        datasets="%%args.own%%", outputs=["%%task_id%%/*"], persistent="%%execution_id%%.%%args.own%%", pre_checks=["$DATA_PATH/%%args.own%%/*.csv"],
        move_to={"source": "m", "shelf": "models", "to": "%%project_id%%/%%tool_id%%/%%user_id%%"},
        volumes=[{"host_path": "$DATA_PATH/%%args.own%%/2024", "container_path": "/d/%%node_name%%"}],
    )  # fmt: skip
    submission = asked(server_node="site-s", user="ada", project="p", arguments={"own": "census"})
    request = requests(tool, "client", submission, execution=EXECUTION, servers=(SERVER,))["site-b"]
    assert (request.image, request.datasets, request.outputs) == ("img/census:1", ("census",), ("client/*",))
    assert request.environment == {"S": "site-s@10.0.0.1:20001", "N": "2", "D": "$DATA_PATH"}
    assert (request.sandbox, request.checks) == (f"{EXECUTION}.census", ("census/*.csv",))
    assert [(m.source, m.shelf, m.to) for m in request.moves] == [("m", "models", "p/fl/ada")]
    assert [(m.kind, m.source, m.target) for m in request.mounts] == [("dataset", "census/2024", "/d/site-b")]
    assert (request.servers, request.network, request.user, request.tool) == ((SERVER,), True, "ada", "fl")


def test_volumes_become_mounts() -> None:
    volumes = [
        ("$DATA_PATH/census", "/d"),
        ("${DATA_PATH}/", "/all/"),
        ("$SANDBOX_PATH", "/w"),
        ("$SANDBOX_PATH/a/b", "/x"),
        ("/opt/m", "/m"),
    ]
    tool = a_tool(volumes=[{"host_path": host, "container_path": path} for host, path in volumes], datasets=["census", "extra"])
    mounts = requests(tool, "main", asked(), execution=EXECUTION)["site-a"].mounts
    assert [(m.kind, m.source, m.target) for m in mounts] == [
        ("dataset", "census", "/d"), ("dataset", "census", "/all/census"), ("dataset", "extra", "/all/extra"), ("sandbox", "", "/w"),
        ("sandbox", "a/b", "/x"), ("host", "/opt/m", "/m"),
    ]  # fmt: skip


def test_a_persistent_sandbox_without_a_name_is_the_tasks() -> None:
    assert requests(a_tool(persistent=True), "main", asked(), execution=EXECUTION)["site-a"].sandbox == f"{EXECUTION}.main"
    assert requests(a_tool(), "main", asked(), execution=EXECUTION)["site-a"].sandbox is None


def test_the_network_is_asked_for_by_servers_and_clients_alone() -> None:
    def network(tool: Tool, task: str = "main") -> bool:
        submission = asked(server_node="site-a")
        return requests(tool, task, submission, execution=EXECUTION)["site-a"].network

    assert not network(a_tool())
    assert network(a_tool(network=True))
    assert network(a_tool(ports=[{"container_port": 80}]))
    assert network(with_server(), "server")
    assert network(with_server(), "client")
    assert not network(with_server(network=False), "client")


def test_an_images_digest_and_signature_are_handed_over() -> None:
    image = {"name": "mean", "tag": "1", "digest": f"sha256:{'a' * 64}", "signature": "A" * 86 + "=="}
    asks = requests(a_tool(image=image), "main", asked(), execution=EXECUTION)["site-a"]
    assert (asks.image, asks.image_digest, asks.image_signature) == ("mean:1", image["digest"], image["signature"])


def test_files_of_a_tool_go_with_its_inputs() -> None:
    tool = a_tool(files={"run.py": "scripts/run.py"}).model_copy(update={"contents": {"scripts/run.py": b"print(1)"}})
    files = requests(tool, "main", asked(inputs=("/x/own.csv",)), execution=EXECUTION)["site-a"].files()
    assert sorted(files) == ["own.csv", "run.py"]
    assert files["run.py"].read_bytes() == b"print(1)"
    again = Tool.model_validate_json(tool.model_dump_json())
    assert again == tool, "the record of an execution keeps them"
    assert requests(again, "main", asked(), execution=EXECUTION)["site-a"].files()["run.py"] == files["run.py"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"datasets": ["%%args.x%%"]}, "datasets.0: '../etc' is not allowed"),
        ({"outputs": ["%%args.x%%"]}, "outputs.0: path '../etc' must be relative"),
        ({"persistent": "%%args.x%%"}, "sandbox: '../etc' is not allowed"),
        (
            {"volumes": [{"host_path": "$DATA_PATH", "container_path": "/d"}]},
            "$DATA_PATH stands for the task's datasets, and it names none",
        ),
        ({"volumes": [{"host_path": "/opt", "container_path": "/"}]}, "path '/' must be absolute, and not the root"),
        ({"source": "https://x.org/y --branch main"}, "source https://x.org/y is not pinned to a commit"),
        ({"files": ["a.py"]}, "the tool was loaded without its file a.py"),
    ],
)
def test_what_cannot_be_asked_for_is_told_with_task_and_node(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest) as caught:
        argv(a_tool({"id": "x"}, **fields), arguments={"x": "../etc"})
    assert str(caught.value).startswith("t, task main at site-a: ")
    assert said in str(caught.value)


def test_a_tool_that_no_loader_saw_is_checked_as_well() -> None:
    with pytest.raises(BadRequest, match=r"t.tasks.0.environment.A: unknown placeholder %%node_nam%%, there are: node_count, node_name"):
        argv(a_tool(environment={"A": "%%node_nam%%"}))
    with pytest.raises(BadRequest, match=r"t.tasks.0.command.base: %%args.x%% would be read as program text by sh"):
        argv(a_tool({"id": "x"}, base=["sh", "-c", "echo %%args.x%%"]))
    with pytest.raises(BadRequest, match=r"%%server_host%% has no value here: the task is no client of a server"):
        argv(a_tool(environment={"A": "%%server_host%%"}))
    with pytest.raises(BadRequest, match="task client at site-a: %%server_host%% has no value here"):
        argv(with_server(environment={"A": "%%server_host%%"}), task="client", server_node="site-a")


def test_a_user_in_a_shells_program_has_a_plain_name() -> None:
    tool = a_tool(base="bash -c 'train --user %%user_id%% --at %%node_name%%'")
    assert argv(tool, user="ada@x.org")[2] == "train --user ada@x.org --at site-a"
    with pytest.raises(BadRequest, match="'; id' is more than a plain name"):
        argv(tool, user="; id")


def test_a_thousand_nodes_get_their_requests_from_one_call() -> None:
    nodes = tuple(f"n{number}" for number in range(1000))
    made = requests(a_tool({"id": "x", "default": "%%node_name%%"}), "main", asked(nodes), execution=EXECUTION)
    assert [made[node].argv[1] for node in nodes] == list(nodes)
