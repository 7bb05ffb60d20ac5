"""The tools that come with the catalogue, run by real workers: as processes, and in Docker's containers."""

from __future__ import annotations

import json
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.protocol import Server, State
from fdn_worker.protocol.names import execution_id
from federation.catalogue.arguments import requests
from federation.catalogue.folder import load
from federation.catalogue.tool import Tool
from federation.centre import Submission
from federation.local import LocalFederation
from federation.request import build
from federation.results import TaskResult
from federation.tool_request import ToolRequest
from tests.support.rig import Rig, census, rig
from tests.support.services import serving_rig

TOOLS = load(Path(__file__).resolve().parents[2] / "deployments/catalogue").tools
#: A port range that no other test uses.
SITE = {"keep_sandboxes": True, "address": "127.0.0.1", "ports": "27400-27449", "allow_network": True}


@pytest.fixture(scope="module", params=["process", "docker"])
def house(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Two nodes with a dataset."""
    names = tuple(f"{site}-{time.time_ns():x}" for site in ("a", "b"))
    with tempfile.TemporaryDirectory(prefix="fem-tools-") as folder:
        home, data = Path(folder), census(Path(folder), names)
        if request.param == "process":
            made = rig(LocalFederation(home / "fem", names, data, options=SITE))
        else:
            made = serving_rig(request.getfixturevalue("services"), home / "fem", names, names[0], datasets=data, options=SITE)
        with made as running:
            for name in names:
                running.start(name)
            yield running


def send(house: Rig, tool: Tool, task: str, node: str, key: str = "", servers: tuple[Server, ...] = (), **fields: Any) -> Submission:
    key = key or uuid.uuid4().hex
    asked = build(ToolRequest, tool=tool.name, **{"nodes": (node,), "user": "ada"} | fields)
    made = requests(tool, task, asked, execution=execution_id(asked.user, key), servers=servers)
    submission = house.centre.stage_in(made[node], key)
    assert house.centre.dispatch(submission)
    return submission


def succeeded(house: Rig, submission: Submission) -> TaskResult:
    result = house.result(submission)
    assert result.state is State.SUCCEEDED, (result.reason, result.tail)
    return result


def test_hello(house: Rig) -> None:
    node = house.federation.nodes[0]
    result = succeeded(house, send(house, TOOLS["hello"], "hello", node, arguments={"greeting": "$(id); good day"}))
    assert house.output(result, "outputs/greeting.txt").decode() == f"$(id); good day from {node}\n"


def test_data_summary(house: Rig) -> None:
    node = house.federation.nodes[0]
    result = succeeded(house, send(house, TOOLS["data-summary"], "summary", node, arguments={"dataset": "census", "k": 3}))
    told = json.loads(house.output(result, "outputs/summary.json"))
    assert (told["node"], told["k"], told["files"]["people.csv"]["rows"]) == (node, 3, 10)
    assert told["files"]["people.csv"]["columns"] == [{"column": "age", "type": "int", "present": 10, "missing": 0, "min": 20, "max": 29}]


def test_get_output_fetches_what_was_kept(house: Rig) -> None:
    node, key = house.federation.nodes[0], uuid.uuid4().hex
    hello = TOOLS["hello"].tasks[0].model_copy(update={"persistent": True, "outputs": ()})
    kept = TOOLS["hello"].model_copy(update={"tasks": (hello,)})
    first = send(house, kept, "hello", node, key)
    assert succeeded(house, first).outputs == ()
    wanted = {"execution_id": str(first.execution), "task": "hello", "pattern": "*.txt"}
    result = succeeded(house, send(house, TOOLS["get-output"], "fetch", node, arguments=wanted))
    assert house.output(result, "outputs/greeting.txt").decode() == f"hello from {node}\n"
    other = house.result(send(house, TOOLS["get-output"], "fetch", node, arguments=wanted, user="bob"))
    assert other.state is State.FAILED, "another user's sandbox of that name is another one, and empty"


def test_server_and_clients(house: Rig) -> None:
    nodes, key, values = house.federation.nodes, uuid.uuid4().hex, {}
    fields: dict[str, Any] = {"nodes": nodes, "server_node": nodes[0], "arguments": values}
    values |= {node: {"value": number} for number, node in enumerate(nodes, 1)}
    server = send(house, TOOLS["fl-demo"], "server", nodes[0], f"{key}-server", **fields)
    listening = house.hear(server, lambda event: bool(event.listening)).listening
    where = Server(node=nodes[0], host=listening[0].host, ports={end.port: end.published for end in listening})
    clients = [send(house, TOOLS["fl-demo"], "client", node, f"{key}-{node}", servers=(where,), **fields) for node in nodes]
    for client in clients:
        assert json.loads(house.output(succeeded(house, client), "outputs/result.json")) == {"mean": 1.5, "clients": 2}
    assert json.loads(house.output(succeeded(house, server), "outputs/mean.json")) == {"mean": 1.5, "nodes": sorted(nodes)}
