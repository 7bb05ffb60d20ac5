"""The FEM REST interface: each endpoint's answer, what its clients are used to, and each kind of bad input."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from fdn_worker.errors import BrokerUnavailable, Fault, StoreUnavailable
from fdn_worker.protocol import Heartbeat, Manifest, ManifestFile, Reason, Report, Signer, State, now, pack
from fdn_worker.protocol.event import Usage
from federation.catalogue import legacy
from federation.catalogue.find import find_tool
from federation.catalogue.folder import load
from federation.catalogue.tool import Tool
from federation.centre import Centre
from federation.execution import open_job, stage_in
from federation.gateway import fem_rest, signing
from federation.sync import carry_out, differing
from federation.tool_request import ToolRequest
from storage.keys import attempt_key
from storage.retention import delete_objects
from tests.support.checkout import ROOT
from tests.unit.gateway import PASSWORD, Remembering, a_gateway, client_of, services_of
from tests.unit.helpers import SHA, an_event

BASE = "/heart/API/v1"
FILES = {"outputs/model/weights.bin": b"w" * 1000, "outputs/a.csv": b"a,b\n"}


@pytest.fixture
def app(centre: Centre) -> FastAPI:
    """With the nodes SITE_A, which was heard, and site-b, which was not; and the catalogue's tools."""
    centre.records.enrol_node("site-a", public_key="", display_name="SITE_A")
    beat = Heartbeat(
        node="site-a", session=uuid4(), number=1, at=now(), interval=3600, worker_version="1.0", launchers=("docker",), datasets=("census",),
        slots=2, slots_free=1, cpus=4, memory=8 * 1024**3, disk_free=10**9, gpus=1,
    )  # fmt: skip
    centre.records.heard([beat], now())
    catalogue = load(ROOT / "deployments/catalogue")
    carry_out(centre, catalogue, differing(centre, catalogue))
    return a_gateway(centre)


@pytest.fixture
async def anna(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app, "anna") as client:
        client.base_url = httpx.URL(f"http://gateway{BASE}/")
        yield client


async def told(client: httpx.AsyncClient, path: str, **more: Any) -> Any:
    answer = await client.get(path, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def refused(client: httpx.AsyncClient, status: int, path: str, method: str = "GET", **more: Any) -> str:
    """The words of the refusal."""
    answer = await client.request(method, path, **more)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"detail"}
    return str(answer.json()["detail"])


async def submitted(client: httpx.AsyncClient, nodes: str = "SITE_A,site-b", **arguments: Any) -> str:
    answer = await client.post("tools/job/hello", params={"client_nodes": nodes}, json=arguments)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["execution_id"])


def leave(centre: Centre, execution: str, node: str, state: State = State.SUCCEEDED, files: dict[str, bytes] = FILES, **event: Any) -> None:
    """What a node would have said and left of its run of `hello`."""
    row = centre.records.execution(execution)
    assert row is not None
    asked = ToolRequest.model_validate_json(row.request)
    job = open_job(centre, find_tool(centre.records, row.tool), asked, row.key)
    (one,) = [one for one in stage_in(centre, job, job.roles[0]) if one.node == node]
    order = centre.order(one.run, one.attempt)
    listed = tuple(ManifestFile(path=path, size=len(data), sha256=hashlib.sha256(data).hexdigest()) for path, data in files.items())
    manifest = Manifest(
        execution=order.execution, task=order.task, node=order.node, run=order.run, attempt=one.attempt, at=now(), exit_code=0, files=listed
    )  # fmt: skip
    sealed = pack(manifest, Signer())
    for path, data in {**files, "manifest.json": sealed}.items():
        centre.store.put(attempt_key(one.execution, one.task, one.node, one.attempt, path), io.BytesIO(data), len(data))
    report = Report(exit_code=0, manifest_sha256=hashlib.sha256(sealed).hexdigest(), usage=Usage(cpu_seconds=0.5, peak_memory=1000))
    events = [an_event(order, 1, state=State.RUNNING, lines=("begin", "go on")), an_event(order, 2, state=state, report=report, **event)]
    centre.records.record_events(events)


def damaged(centre: Centre, execution: str, path: str) -> str:
    """Have other bytes of the same size stand in the store; the key."""
    (key,) = [info.key for info in centre.store.list(f"executions/{execution}/") if info.key.endswith(path)]
    data = b"".join(centre.store.get(key))
    centre.store.put(key, io.BytesIO(bytes(len(data))), len(data))
    return key


# Nodes


async def test_hosts(anna: httpx.AsyncClient) -> None:
    first, second = await told(anna, "hosts")
    fields = (
        "_id",
        "name",
        "accessible_via",
        "launchers",
        "image_pull_policy",
        "sandbox_root_dir",
        "sandbox_persistent",
        "local_data_root_dir",
    )
    assert [first[field] for field in fields] == ["site-a", "SITE_A", "ampq", ["docker"], "", "$SANDBOX_PATH", False, "$DATA_PATH"]
    assert (first["whitelist_ip"], first["status"], first["health_data"]["slots_free"]) == ([], "active", 1)
    assert "hello" in first["tools"]
    assert (second["name"], second["status"]) == ("site-b", "inactive")
    assert await told(anna, "hosts/SITE_A") == await told(anna, "hosts/site-a") == first
    assert "enrolled are: SITE_A" in await refused(anna, 404, "hosts/SITE_C")


async def test_heartbeat(anna: httpx.AsyncClient) -> None:
    (beat,) = await told(anna, "hosts/heartbeat", params={"node_name": "SITE_A"})
    assert {"user", "node", "host", "port", "state"} == set(beat)
    assert (beat["node"], beat["state"]) == ("SITE_A", "running")
    assert await told(anna, "hosts/heartbeat", params={"node_name": "site-b"}) == []
    assert await told(anna, "hosts/heartbeat", params={"node_name": "nowhere"}) == []


async def test_resources(anna: httpx.AsyncClient) -> None:
    both = await told(anna, "hosts/resources?client_nodes=SITE_A&client_nodes=site-b")
    assert both["SITE_A"] == {"cpus": 4.0, "memory": 8 * 1024**3, "gpus": 1, "disk": 10**9, "status": "active"}
    assert both == await told(anna, "hosts/resources?client_nodes=SITE_A,site-b") == await told(anna, "hosts/resources")
    assert list(await told(anna, "hosts/resources?client_nodes = site-b")) == ["site-b"]


# Tools


async def test_tools(anna: httpx.AsyncClient) -> None:
    tools = {tool["_id"]: tool for tool in await told(anna, "tools")}
    learning = tools["fl-demo"]
    assert (learning["name"], learning["plan_type"], learning["visibility"]) == ("fl-demo", "FL_session", "public")
    assert learning["tasks"] == [
        {"task_id": "fl-demo.server", "host_list": ["*"], "single_node": True},
        {"task_id": "fl-demo.client", "host_list": ["*"], "single_node": False},
    ]
    assert await told(anna, "tools/fl-demo") == learning
    assert await told(anna, "tools/name/FL_DEMO") == "fl-demo"
    assert "'fl-dema' is unknown (there are: fl-demo" in await refused(anna, 404, "tools/name/fl-dema")


#: A template that has all that an existing one can say.
RICH = {
    "id": "main", "image": {"label": "for people", "name": "mean", "repository": "registry.example", "tag": "1", "digest": f"sha256:{SHA}"},
    "ports": [{"container_port": 80, "host_port": 8080}, {"container_port": 81}], "environment": {"LEVEL": "3"},
    "volumes": [{"host_path": "$DATA_PATH/census", "container_path": "/data"}], "resources": {"cpus": 2, "memory": "2GB", "gpus": 1},
    "outputs": ["model/**"], "move_to": [{"source": "model", "shelf": "models", "to": "%%execution_id%%/x"}], "persistent": True,
    "pre_checks": ["census/*.csv"], "source": {"url": "https://git.example/a.git", "branch": "main", "commit": "a" * 40},
    "command": {"base": ["python3", "-m", "mean"], "args": [
        {"id": "rounds", "type": "int", "default": 3, "position": 1, "prefix": "--rounds", "separate": True},
        {"id": "name", "required": True},
    ]},
    "single_node": True, "host_list": ["site-a"],
}  # fmt: skip


async def test_a_template_is_read_as_what_it_was(anna: httpx.AsyncClient, centre: Centre) -> None:
    own = Tool.model_validate({"name": "rich", "tasks": [RICH]})
    centre.records.catalogue.put_tool("rich", own.model_dump_json())
    template = await told(anna, "tasks/rich.main")
    assert (template["host_list"], template["outputs"]["model_dir"]) == (["SITE_A"], "$SANDBOX_PATH/model")
    ((_, read),), _ = legacy.tools([(Path("template.json"), template)])
    assert read.tasks[0].model_dump() == own.tasks[0].model_dump()
    assert template in await told(anna, "tasks")
    assert "(there are: " in await refused(anna, 404, "tasks/rich.other")


# Submission


async def test_a_submission_answers_at_once(app: FastAPI, anna: httpx.AsyncClient) -> None:
    answer = (await anna.post("tools/job/hello?server_node=&client_nodes=SITE_A&client_nodes=site-b", json={})).json()
    execution, result = answer["execution_id"], answer["result"]
    assert (answer["status"], result["execution_id"], result["tool_id"], result["user_id"]) == ("success", execution, "hello", "anna")
    assert [
        (one["node"], one["action"], one["task_id"], one["status"], one["state"], one["execution_id"]) for one in result["process_info"]
    ] == [(node, "submit_run", "hello.hello", "running", "QUEUED", execution) for node in ("SITE_A", "site-b")]
    services = services_of(app)
    assert isinstance(services.submitter, Remembering)
    assert ("start", execution) in services.submitter.calls
    row = services.centre.records.execution(execution)
    assert row
    assert (row.user, row.project) == ("anna", "heart")


@pytest.mark.parametrize(
    "path",
    [
        "tools/job//hello?client_nodes=SITE_A,site-b", "/tools//job/HELLO/?client_nodes=SITE_A&client_nodes=site-b",
        "tools/job/hello?client_nodes = SITE_A, site-b",
    ],
)  # fmt: skip
async def test_clients_write_it_in_their_ways(anna: httpx.AsyncClient, path: str) -> None:
    for body in (b"", b"{}", b"null", b" \n"):
        answer = await anna.post(path, content=body)
        assert answer.status_code == 200, answer.text
        assert [one["node"] for one in answer.json()["result"]["process_info"]] == ["SITE_A", "site-b"]


async def test_arguments_of_a_node_and_of_the_server(app: FastAPI, anna: httpx.AsyncClient) -> None:
    """As a form, which says of JSON that it is none; a node's entry is under its name."""
    body = json.dumps({"value": 1, "SITE_A": {"value": 2}, "server": {"clients": 2}})
    asked = "tools/job/fl-demo?server_node=site-b&client_nodes=SITE_A&client_nodes=site-b"
    answer = await anna.post(asked, content=body, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert [(one["node"], one["task_id"]) for one in answer.json()["result"]["process_info"]] == [
        ("SITE_A", "fl-demo.client"), ("site-b", "fl-demo.client"), ("site-b", "fl-demo.server"),
    ]  # fmt: skip
    row = services_of(app).centre.records.execution(answer.json()["execution_id"])
    assert row
    assert json.loads(row.request)["arguments"] == {"value": 1, "site-a": {"value": 2}, "server": {"clients": 2}}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("tools/job/hallo?client_nodes=SITE_A", {}, 404, "tool 'hallo' is unknown (there are: hello"),
        ("tools/job/..%2F..%2Fetc?client_nodes=SITE_A", {}, 404, "is unknown"),
        ("tools/job/hello", {}, 400, "no node is named (client_nodes=NODE"),
        ("tools/job/hello?client_nodes=SITE_C", {}, 404, "node 'SITE_C' is not enrolled (enrolled are:"),
        ("tools/job/hello?client_nodes=%22SITE_A%22", {}, 404, "node '\"SITE_A\"' is not enrolled"),
        ("tools/job/hello?client_nodes=SITE_A'%3B--", {}, 404, "is not enrolled"),
        ("tools/job/fl-demo?client_nodes=SITE_A", {"value": 1}, 400, "task server of fl-demo is a server's (say where it runs: server_node)"),
        ("tools/job/fl-demo?client_nodes=SITE_A&server_node=site-b", {"value": "many"}, 400, "'many'"),
        ("tools/job/fl-demo?client_nodes=SITE_A&server_node=site-b", {}, 400, "value"),
        ("tools/job/hello?client_nodes=SITE_A", {"greating": "x"}, 400, "greating: unknown argument (there are: greeting)"),
        ("tools/job/hello?client_nodes=SITE_A", {"SITE_C": {"greeting": "x"}}, 400, "SITE_C is no node of this submission"),
        ("tools/job/hello?client_nodes=SITE_A", [1], 400, "the body holds no object"),
        ("tools/job/hello?client_nodes=SITE_A", b"{greeting: x}", 400, "the body is no JSON"),
        ("tools/job/hello?client_nodes=SITE_A", b'{"greeting": NaN}', 400, "NaN is no number"),
        ("tools/job/hello?client_nodes=SITE_A", b"[" * 100_000, 400, "the body is no JSON"),
        ("tools/job/hello?client_nodes=SITE_A", b'{"greeting": "\\ud800"}', 400, "the body is no JSON"),
    ],
)  # fmt: skip
async def test_a_wrong_submission_is_told_and_leaves_nothing(
    app: FastAPI, anna: httpx.AsyncClient, path: str, body: Any, status: int, words: str
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert words in await refused(anna, status, path, "POST", content=content)
    assert services_of(app).centre.records.executions() == []


async def test_a_project_of_others_is_not_submitted_for(app: FastAPI) -> None:
    async with client_of(app, "anna") as client:
        assert "executions.submit" in await refused(client, 403, "/liver/API/v1/tools/job/hello?client_nodes=SITE_A", "POST")


async def test_a_body_of_100_mb(anna: httpx.AsyncClient) -> None:
    words = await refused(anna, 413, "tools/job/hello?client_nodes=SITE_A", "POST", content=b" " * 100_000_000)
    assert "the body is larger than" in words


# Signing in


async def test_signing_in(app: FastAPI) -> None:
    async with client_of(app) as client:
        form = {"grant_type": "password", "username": "anna", "password": PASSWORD}
        answer = (await client.post(f"{BASE}/token", data=form)).json()
        assert answer == {"access_token": answer["access_token"], "token_type": "bearer"}
        headers = {"Authorization": f"Bearer {answer['access_token']}"}
        assert (await client.get(f"{BASE}/hosts", headers=headers)).status_code == 200
        await refused(client, 401, f"{BASE}/token", "POST", data={**form, "password": "wrong"})
        await refused(client, 401, f"{BASE}/hosts", headers={"Authorization": "Bearer wrong"})
        await refused(client, 422, f"{BASE}/token", "POST", data={"username": "anna"})


def test_every_endpoint_asks_for_a_token_in_the_header() -> None:
    """A browser's cookie does not do where GET cancels."""
    routes = [route for route in fem_rest.router.routes if isinstance(route, APIRoute) and route.path != "/token"]
    assert len(routes) >= 17
    assert [route.path for route in routes if signing.bearer not in [one.call for one in route.dependant.dependencies]] == []


async def test_anothers_execution_is_none(app: FastAPI, centre: Centre) -> None:
    job = open_job(
        centre, find_tool(centre.records, "hello"), ToolRequest(tool="hello", nodes=("site-a",), user="bert", project="liver"), "k"
    )
    async with client_of(app, "anna") as client:
        for path in ("executions/status/{}", "executions/logs/{}", "executions/report/{}", "executions/cancel_run/{}",
                     "data/list_files?execution_id={}", "data/download_files?execution_id={}"):  # fmt: skip
            words = [await refused(client, 404, f"{BASE}/{path.format(id_)}") for id_ in (job.execution, uuid4(), "x' or '1")]
            assert len(set(words)) == 1


async def test_an_operator_sees_that_it_runs_and_not_what_came_of_it(app: FastAPI, anna: httpx.AsyncClient) -> None:
    execution = await submitted(anna)
    async with client_of(app, "olaf") as client:
        assert (await client.get(f"{BASE}/executions/status/{execution}")).status_code == 200
        for path in ("list_files", "download_files"):
            await refused(client, 404, f"{BASE}/data/{path}?execution_id={execution}")


# Executions


async def test_running_until_the_end(centre: Centre, anna: httpx.AsyncClient) -> None:
    execution = await submitted(anna)
    assert {one["status"] for one in await told(anna, f"executions/status/{execution}")} == {"running"}
    leave(centre, execution, "site-a")
    reason = Reason(code="exit-code", fault=Fault.USER, message="it ended with 3")
    leave(centre, execution, "site-b", State.FAILED, {}, reason=reason)
    first, second = await told(anna, f"executions/status/{execution}")
    assert (first["node"], first["status"], first["state"], first["task_id"]) == ("SITE_A", "success", "SUCCEEDED", "hello.hello")
    assert (second["status"], second["reason"], second["message"]) == ("failed", "exit-code", "it ended with 3")


@pytest.mark.parametrize("retries", [0, 1])
async def test_what_may_be_tried_again_is_still_running(app: FastAPI, centre: Centre, anna: httpx.AsyncClient, retries: int) -> None:
    asked = ToolRequest(tool="hello", nodes=("site-a",), user="anna", retries=retries)
    execution = str(open_job(centre, find_tool(centre.records, "hello"), asked, "k").execution)
    leave(centre, execution, "site-a", State.FAILED, reason=Reason(code="lost", fault=Fault.INFRASTRUCTURE, message="gone"))
    (one,) = await told(anna, f"executions/status/{execution}")
    assert (one["status"], one["state"]) == ("running" if retries else "failed", "FAILED")
    centre.records.close_execution(execution, "FAILED")
    (one,) = await told(anna, f"executions/status/{execution}")
    assert one["status"] == "failed"


async def test_a_run_that_its_execution_ended_without_has_ended(centre: Centre, anna: httpx.AsyncClient) -> None:
    execution = await submitted(anna)
    centre.records.close_execution(execution, "CANCELLED", "cancelled before anything was sent")
    assert {one["status"] for one in await told(anna, f"executions/status/{execution}")} == {"cancelled"}


async def test_logs(centre: Centre, anna: httpx.AsyncClient) -> None:
    execution = await submitted(anna)
    answer = await anna.get(f"executions/logs/{execution}")
    assert (answer.status_code, answer.text, answer.headers["content-type"]) == (200, "", "text/plain; charset=utf-8")
    leave(centre, execution, "site-a")
    assert (await anna.get(f"executions/logs/{execution}")).text == "SITE_A | begin\nSITE_A | go on\n"
    alone = await submitted(anna, nodes="SITE_A")
    leave(centre, alone, "site-a")
    assert (await anna.get(f"executions/logs/{alone}")).text == "begin\ngo on\n"


async def test_report(centre: Centre, anna: httpx.AsyncClient) -> None:
    execution = await submitted(anna)
    leave(centre, execution, "site-a")
    found = await told(anna, f"executions/report/{execution}")
    assert (found["execution_id"], found["status"], found["user_id"], found["project"]) == (execution, "running", "anna", "heart")
    first, second = found["tasks"]
    assert (first["node"], first["exit_code"], first["peak_memory"]) == ("SITE_A", 0, 1000)
    assert set(first["seconds"]) == {"waiting", "staging_in", "running", "staging_out", "releasing"}
    assert (second["status"], second["exit_code"], second["seconds"]) == ("running", None, None)


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_cancel(app: FastAPI, centre: Centre, anna: httpx.AsyncClient, method: str) -> None:
    execution = await submitted(anna)
    calls = services_of(app).submitter.calls  # type: ignore[attr-defined]
    for _ in range(2):
        answer = await anna.request(method, f"executions/cancel_run/{execution}")
        assert (answer.status_code, answer.json()["status"], answer.json()["execution_id"]) == (200, "success", execution)
    assert calls.count(("cancel", execution)) == 2
    centre.records.close_execution(execution, "SUCCEEDED")
    assert (await anna.request(method, f"executions/cancel_run/{execution}")).status_code == 200
    assert calls.count(("cancel", execution)) == 2


# Files


async def test_list_files(centre: Centre, anna: httpx.AsyncClient) -> None:
    execution = await submitted(anna)
    nothing = await told(anna, f"data/list_files?execution_id={execution}&path=&nodes=")
    assert nothing["user_id"] == "anna"
    leave(centre, execution, "site-a")
    found = await told(anna, f"data/list_files?execution_id={execution}&path=&nodes = SITE_A,site-b")
    assert {node: one["files"] for node, one in found.items()} == {"SITE_A": ["weights.bin", "a.csv"], "site-b": []}
    below = await told(anna, "data/list_files", params={"execution_id": execution, "path": "$SANDBOX_PATH/model/", "nodes": "SITE_A"})
    assert {node: one["files"] for node, one in below.items()} == {"SITE_A": ["weights.bin"]}
    leave(centre, execution, "site-b", State.FAILED, {})
    centre.records.close_execution(execution, "FAILED")
    assert "user_id" not in await told(anna, f"data/list_files?execution_id={execution}&nodes=site-b")


async def test_files_of_one_name_are_told_apart(centre: Centre, anna: httpx.AsyncClient) -> None:
    execution = await submitted(anna, nodes="SITE_A")
    files = {"outputs/a.csv": b"1", "outputs/x/a.csv": b"2", "outputs/x_a.csv": b"3"}
    leave(centre, execution, "site-a", files=files)
    names = (await told(anna, f"data/list_files?execution_id={execution}"))["SITE_A"]["files"]
    assert names == ["a.csv", "x_a.csv", "hello_x_a.csv"]
    got = [(await anna.get("data/download_files", params={"execution_id": execution, "file": name})).content for name in names]
    assert got == [b"1", b"2", b"3"]


async def test_download_files(centre: Centre, anna: httpx.AsyncClient) -> None:
    execution = await submitted(anna)
    asked = {"execution_id": execution, "node": "SITE_A", "file": "weights.bin"}
    assert "no file 'weights.bin' has come back" in await refused(anna, 404, "data/download_files", params=asked)
    leave(centre, execution, "site-a")
    for file in ("weights.bin", "model/weights.bin", "$SANDBOX_PATH/model/weights.bin"):
        answer = await anna.get("data/download_files", params=asked | {"file": file})
        assert (answer.status_code, answer.content) == (200, FILES["outputs/model/weights.bin"])
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''weights.bin"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "(there are: " in await refused(anna, 404, "data/download_files", params=asked | {"file": "waits.bin"})
    leave(centre, execution, "site-b")
    assert "SITE_A, site-b (say which" in await refused(anna, 400, "data/download_files", params=asked | {"node": ""})


async def test_all_files_as_an_archive(centre: Centre, anna: httpx.AsyncClient) -> None:
    execution = await submitted(anna)
    assert "nothing has come back yet" in await refused(anna, 404, f"data/download_files?execution_id={execution}")
    for node in ("site-a", "site-b"):
        leave(centre, execution, node)
    answer = await anna.get("data/download_files", params={"execution_id": execution})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        assert sorted(archive.namelist()) == ["SITE_A/a.csv", "SITE_A/weights.bin", "site-b/a.csv", "site-b/weights.bin"]
        assert archive.read("SITE_A/weights.bin") == FILES["outputs/model/weights.bin"]
    answer = await anna.get("data/download_files", params={"execution_id": execution, "node": "site-b"})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert sorted(archive.namelist()) == ["site-b/a.csv", "site-b/weights.bin"]


async def test_a_path_that_climbs(centre: Centre, anna: httpx.AsyncClient) -> None:
    execution = await submitted(anna, nodes="SITE_A")
    leave(centre, execution, "site-a")
    for file in ("../a.csv", "model/../../a.csv", "/../etc/passwd", "$SANDBOX_PATH/../a.csv", "a\x00.csv", "..", "x//../y"):
        for path, key in (("data/download_files", "file"), ("data/list_files", "path")):
            words = await refused(anna, 400, path, params={"execution_id": execution, key: file})
            assert "name a file as list_files tells it" in words


async def test_a_node_with_quotes(centre: Centre, anna: httpx.AsyncClient) -> None:
    execution = await submitted(anna, nodes="SITE_A")
    leave(centre, execution, "site-a")
    for node in ("'SITE_A'", '"SITE_A"', "SITE_A' OR '1'='1"):
        for path, key in (("data/download_files", "node"), ("data/list_files", "nodes"), ("hosts/resources", "client_nodes")):
            assert "is not enrolled" in await refused(anna, 404, path, params={"execution_id": execution, key: node})


async def test_files_that_retention_deleted(centre: Centre, anna: httpx.AsyncClient) -> None:
    execution = await submitted(anna, nodes="SITE_A")
    leave(centre, execution, "site-a")
    centre.records.close_execution(execution, "SUCCEEDED")
    assert delete_objects(centre.records, centre.store, execution, now() + timedelta(hours=1))
    assert "by retention" in await refused(anna, 410, f"data/download_files?execution_id={execution}")


async def test_what_one_node_left_damaged_holds_up_no_other(centre: Centre, anna: httpx.AsyncClient) -> None:
    execution = await submitted(anna)
    for node in ("site-a", "site-b"):
        leave(centre, execution, node)
    (key,) = [
        info.key for info in centre.store.list(f"executions/{execution}/") if "/site-a/" in info.key and info.key.endswith("manifest.json")
    ]
    centre.store.put(key, io.BytesIO(b"{}"), 2)
    found = await told(anna, f"data/list_files?execution_id={execution}")
    assert found["SITE_A"] == {"files": [], "problem": "what this node left is damaged in the store"}
    assert found["site-b"]["files"] == ["weights.bin", "a.csv"]
    assert "SITE_A: what this node left is damaged" in await refused(
        anna, 404, f"data/download_files?execution_id={execution}&node=SITE_A&file=a.csv"
    )


# What is down


async def test_a_store_that_is_down(centre: Centre, anna: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    execution = await submitted(anna, nodes="SITE_A")
    leave(centre, execution, "site-a")

    def down(*_: object, **__: object) -> None:
        raise StoreUnavailable("object store minio.internal: cannot be reached")

    with monkeypatch.context() as patch:
        patch.setattr(centre.store, "get", down)
        words = await refused(anna, 503, f"data/download_files?execution_id={execution}&node=SITE_A&file=a.csv")
        assert words == "the object store cannot be reached (try again in a moment)"
    assert (await anna.get(f"data/download_files?execution_id={execution}&node=SITE_A&file=a.csv")).content == b"a,b\n"


async def test_a_broker_that_is_down(centre: Centre, anna: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: object, **__: object) -> None:
        raise BrokerUnavailable("amqps://broker.internal: cannot be reached")

    monkeypatch.setattr(centre.broker, "declare", down)
    assert await refused(anna, 503, "hosts/health?nodes=SITE_A") == "the broker cannot be reached (try again in a moment)"
    assert len(await told(anna, "hosts")) == 2


# The reference


def reference() -> str:
    return (ROOT / "docs/reference/fem-rest.md").read_text()


def test_the_reference_lists_every_endpoint() -> None:
    listed = set(re.findall(r"`((?:GET|POST) /[^`]*)`", reference().partition("\n## ")[0]))
    routes = [route for route in fem_rest.router.routes if isinstance(route, APIRoute) and route.include_in_schema]
    served = {f"{method} {re.sub(r'_?}|:path}', '}', route.path)}" for route in routes for method in route.methods}
    assert listed == served


def test_its_examples_are_what_is_answered() -> None:
    """Each has all fields of the endpoint's answer, and no others."""
    examples = re.findall(r"^```json (GET|POST) (\S+)\n(.*?)^```$", reference(), re.MULTILINE | re.DOTALL)
    assert len(examples) >= 10
    for method, path, text in examples:
        (route,) = [
            route for route in fem_rest.router.routes
            if isinstance(route, APIRoute) and method in route.methods and re.sub(r"_?}|:path}", "}", route.path) == path
        ]  # fmt: skip
        answer = TypeAdapter[Any](route.response_model)
        example = json.loads(text)
        dumped = answer.dump_python(
            answer.validate_python(example), mode="json", by_alias=True, exclude_none=route.response_model_exclude_none
        )
        assert dumped == example, path
