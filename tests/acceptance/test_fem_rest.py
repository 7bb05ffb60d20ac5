"""A client that was written from the reference alone, against `fem serve`: over an embedded federation, and over RabbitMQ, MinIO and Docker."""

from __future__ import annotations

import asyncio
import io
import json
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack

import httpx
import pytest

from federation.catalogue.folder import load
from federation.catalogue.tool import Tool
from federation.gateway.users import add_user
from federation.local import LocalFederation
from federation.sync import carry_out, differing
from tests.support.fem_rest_client import FemRestClient
from tests.support.gateway_process import serving
from tests.support.rig import Rig, census, rig
from tests.support.services import serving_rig
from tests.support.shell import shell

from .conftest import BIN, ROOT

PASSWORD = "correct horse battery"
#: Waits to be cancelled, two minutes at most.
WAITS = {
    "name": "waits",
    "tasks": [{"image": "fem-python:1", "timeout": 300, "command": {"base": ["python3", "-c", "import time; time.sleep(120)"]}}],
}
#: Port ranges that no other test uses.
PORTS = {"embedded": "27600-27649", "real": "27650-27699"}


@pytest.fixture(scope="module", params=["embedded", "real"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """Three nodes with a dataset, which people know by names in capitals; the catalogue's tools; anna, of project heart."""
    names = tuple(f"{site}-{time.time_ns():x}" for site in ("a", "b", "c"))
    home = tmp_path_factory.mktemp("fem-rest")
    data, site = census(home, names), {"ports": PORTS[request.param]}
    with ExitStack() as stack:
        if request.param == "real":
            services = request.getfixturevalue("services")
            running = stack.enter_context(serving_rig(services, home / "fem", names, names[0], datasets=data, options=site))
        else:
            options = site | {"address": "localhost", "bind": "127.0.0.1", "allow_network": True}
            running = stack.enter_context(rig(LocalFederation(home / "fem", names, data, options=options)))
        for name in names:
            running.start(name)
        records = running.centre.records
        for row in records.nodes():
            records.enrol_node(row.name, public_key=row.public_key, display_name=row.name.upper())
        catalogue = load(ROOT / "deployments/catalogue")
        carry_out(running.centre, catalogue, differing(running.centre, catalogue))
        records.catalogue.put_tool("waits", Tool.model_validate(WAITS).model_dump_json())
        add_user(records.gateway, "anna", "researcher", PASSWORD, ["heart"], by="test")
        running.federation.wait_connected(running.centre)
        yield running


@pytest.fixture(scope="module")
def address(house: Rig, prefect_api: dict[str, str]) -> Iterator[str]:
    """Of the gateway."""
    with serving(shell(BIN, prefect_api, house.federation.environment()), house.federation.home) as found:
        yield found


@pytest.fixture
async def client(address: str) -> AsyncIterator[FemRestClient]:
    async with httpx.AsyncClient(timeout=60) as http:
        made = FemRestClient(http, f"{address}/heart/API/v1")
        await made.sign_in("anna", PASSWORD)
        yield made


@pytest.fixture
def nodes(house: Rig) -> list[str]:
    return [name.upper() for name in house.federation.nodes]


async def ended(client: FemRestClient, execution: str) -> dict[tuple[str, str], str]:
    """(node, task) -> status, once all have ended."""
    async with asyncio.timeout(100):
        while await client.running(execution):
            await asyncio.sleep(0.2)
    return {(one["node"], one["task_id"]): one["status"] for one in await client.statuses(execution)}


async def test_a_dashboard_looks_around(client: FemRestClient, nodes: list[str]) -> None:
    hosts = await client.get("/hosts")
    assert [(host["name"], host["status"]) for host in hosts] == [(node, "active") for node in nodes]
    assert [host["_id"] for host in hosts] == [node.lower() for node in nodes]
    (beat,) = await client.get("/hosts/heartbeat", node_name=nodes[0])
    assert (beat["node"], beat["state"]) == (nodes[0], "running")
    assert set(await client.get("/hosts/resources", client_nodes=nodes[:2])) == set(nodes[:2])
    health = await client.get("/hosts/health", nodes=nodes[0])
    assert health[nodes[0]]["answered"]
    assert await client.get("/tools/name/hello") == "hello"
    assert {"hello", "fl-demo"} <= {tool["_id"] for tool in await client.get("/tools")}


async def test_a_notebook_runs_a_tool(client: FemRestClient, nodes: list[str]) -> None:
    execution = await client.submit("data-summary", nodes, arguments={"dataset": "census"})
    first = await client.files(execution)
    assert first is None or set(first) == set(nodes)
    assert set((await ended(client, execution)).values()) == {"success"}
    assert await client.files(execution) == {node: ["summary.csv", "summary.json"] for node in nodes}
    told = json.loads(await client.download(execution, nodes[0], "summary.json"))
    assert (told["node"], told["files"]["people.csv"]["rows"]) == (nodes[0].lower(), 10)
    with zipfile.ZipFile(io.BytesIO(await client.download(execution))) as archive:
        assert archive.testzip() is None
        assert set(archive.namelist()) == {f"{node}/summary.{kind}" for node in nodes for kind in ("csv", "json")}
    report = await client.get(f"/executions/report/{execution}")
    assert [(task["node"], task["exit_code"]) for task in report["tasks"]] == [(node, 0) for node in nodes]
    assert all(task["seconds"]["running"] > 0 for task in report["tasks"])


async def test_a_server_and_its_clients(client: FemRestClient, nodes: list[str]) -> None:
    values = {node: {"value": number} for number, node in enumerate(nodes, 1)}
    execution = await client.submit("FL_DEMO", nodes, server=nodes[1], arguments=values)
    assert await ended(client, execution) == {
        (nodes[1], "fl-demo.server"): "success", **{(node, "fl-demo.client"): "success" for node in nodes}
    }  # fmt: skip
    files = await client.files(execution, ",".join(nodes[:2]))
    assert files is not None
    assert {node: sorted(names) for node, names in files.items()} == {nodes[0]: ["result.json"], nodes[1]: ["mean.json", "result.json"]}
    assert json.loads(await client.download(execution, nodes[1], "mean.json"))["mean"] == 2.0
    assert f"{nodes[0]} client | the mean of 3 clients is 2.0\n" in await client.logs(execution)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_cancel(client: FemRestClient, nodes: list[str], method: str) -> None:
    execution = await client.submit("waits", nodes[:1])
    async with asyncio.timeout(100):
        while (await client.statuses(execution))[0]["state"] != "RUNNING":
            await asyncio.sleep(0.2)
    assert await client.files(execution) is None
    await client.cancel(execution, method)
    assert set((await ended(client, execution)).values()) == {"cancelled"}
