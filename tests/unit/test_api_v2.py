"""The clean interface: each endpoint, what each kind of bad input gets, and that a stranger learns nothing."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import zipfile
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI

from fdn_worker.errors import BrokerUnavailable, StoreUnavailable
from fdn_worker.protocol import State, now
from federation.catalogue.folder import load
from federation.centre import Centre
from federation.gateway import checks
from federation.gateway import feeds as module
from federation.gateway.feeds import Feeds
from federation.sync import carry_out, differing
from storage.records import NewAttempt
from tests.support.checkout import ROOT
from tests.unit.gateway import Remembering, a_gateway, client_of, services_of
from tests.unit.helpers import an_event, an_order
from tests.unit.test_fem_rest import leave
from tests.unit.trail import a_trail

ASKED = {"tool": "hello", "nodes": ["site-a", "site-b"]}


@pytest.fixture
def app(centre: Centre) -> FastAPI:
    catalogue = load(ROOT / "deployments/catalogue")
    carry_out(centre, catalogue, differing(centre, catalogue))
    return a_gateway(centre, simulations=str(ROOT / "tests"))


@pytest.fixture
async def anna(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app, "anna") as client:
        client.base_url = httpx.URL("http://gateway/api/v2/")
        yield client


async def told(client: httpx.AsyncClient, path: str, **more: Any) -> Any:
    answer = await client.get(path, **more)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def problem(client: httpx.AsyncClient, status: int, path: str, method: str = "GET", **more: Any) -> dict[str, Any]:
    answer = await client.request(method, path, **more)
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    said: dict[str, Any] = answer.json()
    assert (said["status"], said["type"]) == (status, "about:blank")
    assert said["title"]
    assert said["code"]
    return said


async def submitted(client: httpx.AsyncClient, **more: Any) -> str:
    answer = await client.post("executions", json={**ASKED, **more})
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/api/v2/executions/{answer.json()['id']}"
    return str(answer.json()["id"])


# Executions


async def test_a_key_gives_the_same_execution_and_no_second_one(app: FastAPI, anna: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "mine"}
    first, second = [await anna.post("executions", json=ASKED, headers=headers) for _ in range(2)]
    assert first.json() == second.json()
    assert len(services_of(app).centre.records.executions()) == 1
    other = await problem(anna, 409, "executions", "POST", json={**ASKED, "nodes": ["site-a"]}, headers=headers)
    assert other["code"] == "idempotency-conflict"
    row = services_of(app).centre.records.execution(first.json()["id"])
    assert row
    assert row.user == "anna"


async def test_a_list_in_pages_holds_each_execution_once(anna: httpx.AsyncClient, centre: Centre) -> None:
    mine = {await submitted(anna) for _ in range(5)}
    centre.records.create_execution(str(uuid4()), user="bert", project="liver", tool="hello", key="k", request_json="{}", runs=[])
    found, cursor = [], ""
    while True:
        page = await told(anna, "executions", params={"limit": 2, "cursor": cursor})
        assert len(page["items"]) <= 2
        found += page["items"]
        if not (cursor := page["next"]):
            break
    assert [one["id"] for one in found] == [one["id"] for one in sorted(found, key=lambda one: one["created"], reverse=True)]
    assert len(found) == 5
    assert {one["id"] for one in found} == mine
    assert (found[0]["runs"], found[0]["state"]) == ({"QUEUED": 2}, "OPEN")


@pytest.mark.parametrize(
    ("given", "expected"), [({"state": "OPEN"}, 1), ({"tool": "other"}, 0), ({"node": "site-b"}, 1), ({"text": "hel"}, 1), ({"user": "bert"}, 0)]
)  # fmt: skip
async def test_a_list_is_narrowed(anna: httpx.AsyncClient, given: dict[str, str], expected: int) -> None:
    await submitted(anna)
    assert len((await told(anna, "executions", params=given))["items"]) == expected


async def test_one_execution_with_its_runs(centre: Centre, anna: httpx.AsyncClient) -> None:
    id_ = await submitted(anna)
    leave(centre, id_, "site-a")
    found = await told(anna, f"executions/{id_}")
    assert (found["tool"], found["flow_run"], found["request"]["nodes"]) == ("hello", f"http://prefect/{id_}", ["site-a", "site-b"])
    first, second = found["runs"]
    assert (first["node"], first["state"], [step["state"] for step in first["stages"]]) == ("site-a", "SUCCEEDED", ["RUNNING", "SUCCEEDED"])
    assert (first["used"]["exit_code"], first["used"]["cpu_seconds"]) == (0, pytest.approx(0.5, abs=0.5))
    assert (second["state"], second["used"]) == ("QUEUED", None)
    assert await told(anna, f"executions/{id_}/runs") == found["runs"]
    assert (await anna.get(f"executions/{id_}/logs")).text == "site-a hello | begin\nsite-a hello | go on\n"
    assert (await anna.get(f"executions/{id_}/logs?node=site-a")).text == "begin\ngo on\n"


async def test_cancel_and_retry(app: FastAPI, anna: httpx.AsyncClient) -> None:
    id_ = await submitted(anna)
    for asked in ("cancel", "retry"):
        answer = await anna.post(f"executions/{id_}/{asked}")
        assert (answer.status_code, answer.json()) == (202, {"id": id_, "asked": asked})
    submitter = services_of(app).submitter
    assert isinstance(submitter, Remembering)
    assert submitter.calls == [("start", id_), ("cancel", id_), ("retry", id_)]


async def test_outputs_by_file_by_range_and_as_zip(centre: Centre, anna: httpx.AsyncClient) -> None:
    id_ = await submitted(anna)
    assert await told(anna, f"executions/{id_}/outputs") == {"files": [], "troubles": {}}
    assert (await problem(anna, 404, f"executions/{id_}/outputs.zip"))["code"] == "object-missing"
    leave(centre, id_, "site-a")
    files = {one["path"]: one for one in (await told(anna, f"executions/{id_}/outputs"))["files"]}
    weights = files["model/weights.bin"]
    assert (weights["size"], weights["sha256"]) == (1000, hashlib.sha256(b"w" * 1000).hexdigest())
    path = f"executions/{id_}/outputs/hello/site-a/model/weights.bin"
    assert (await anna.get(path)).content == b"w" * 1000
    part = await anna.get(path, headers={"Range": "bytes=990-"})
    assert (part.status_code, part.content, part.headers["Content-Range"]) == (206, b"w" * 10, "bytes 990-999/1000")
    assert (await anna.head(path)).headers["Content-Length"] == "1000"
    assert (await problem(anna, 416, path, headers={"Range": "bytes=1000-"}))["code"] == "no-such-range"
    archive = zipfile.ZipFile(io.BytesIO((await anna.get(f"executions/{id_}/outputs.zip")).content))
    assert set(archive.namelist()) == {"hello/site-a/model/weights.bin", "hello/site-a/a.csv"}
    for wrong in ("model/nothing", "..%2f..%2fmanifest.json", "..%2fmanifest.json"):
        assert (await anna.get(f"executions/{id_}/outputs/hello/site-a/{wrong}")).status_code == 404


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({**ASKED, "tool": "hallo"}, 404, "'hallo' is unknown"),
        ({**ASKED, "nodes": ["site-c"]}, 404, "site-c"),
        ({**ASKED, "nodes": ['"site-a"']}, 422, "nodes"),
        ({**ASKED, "arguments": {"greating": "x"}}, 400, "greating"),
        ({**ASKED, "quorum": 3}, 422, "quorum 3"),
        ({**ASKED, "tool": "../../etc/passwd.yaml"}, 400, "is a path"),
        ({**ASKED, "inputs": ["/etc/passwd"]}, 400, "inputs name files"),
        ({**ASKED, "user": "bert"}, 403, "executions.submit"),
        ({**ASKED, "project": "liver"}, 403, "executions.submit"),
        ([], 422, "body"),
    ],
)  # fmt: skip
async def test_a_wrong_submission_is_told_and_leaves_nothing(
    app: FastAPI, anna: httpx.AsyncClient, body: object, status: int, words: str
) -> None:
    assert words in (await problem(anna, status, "executions", "POST", json=body))["detail"]
    assert services_of(app).centre.records.executions() == []


async def test_a_body_of_100_mb(anna: httpx.AsyncClient) -> None:
    await problem(anna, 413, "executions", "POST", content=b" " * 100_000_000)


async def test_anothers_execution_is_none(app: FastAPI, anna: httpx.AsyncClient) -> None:
    centre = services_of(app).centre
    other = str(uuid4())
    centre.records.create_execution(other, user="bert", project="liver", tool="hello", key="k", request_json="{}", runs=[])
    paths = ["", "/runs", "/logs", "/outputs", "/outputs.zip", "/outputs/a/b/c", "/events"]
    asked = [("GET", path) for path in paths] + [("POST", "/cancel"), ("POST", "/retry")]
    for method, path in asked:
        said = [await problem(anna, 404, f"executions/{id_}{path}", method) for id_ in (other, str(uuid4()), "x' or '1")]
        assert said[0] == said[1] == said[2]


async def test_nobody_gets_in_without_a_token(app: FastAPI) -> None:
    async with client_of(app) as client:
        for path in ("executions", "nodes", "tools", "sessions", "simulations", "reports/accounting"):
            await problem(client, 401, f"/api/v2/{path}")
            await problem(client, 401, f"/api/v2/{path}", headers={"Authorization": "Bearer wrong"})


@pytest.mark.parametrize("cursor", ["x", "!!", "MjAyNg", "MjAyNi0wMS0wMSB4"])
async def test_a_cursor_that_is_none_of_ours(anna: httpx.AsyncClient, cursor: str) -> None:
    assert "cursor" in (await problem(anna, 400, "executions", params={"cursor": cursor}))["detail"]


async def test_a_part_that_is_down_is_named(app: FastAPI, anna: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    centre = services_of(app).centre
    id_ = await submitted(anna)
    leave(centre, id_, "site-a")

    def no_broker(name: str) -> None:
        raise BrokerUnavailable("10.0.0.7: refused")

    def no_store(*given: object, **more: object) -> None:
        raise StoreUnavailable("10.0.0.8: refused")

    monkeypatch.setattr(centre.broker, "depth", no_broker)
    monkeypatch.setattr(centre.store, "get", no_store)
    for path, part in (("nodes/site-a/queues", "the broker"), (f"executions/{id_}/outputs/hello/site-a/a.csv", "the object store")):
        said = await problem(anna, 503, path)
        assert said["detail"] == f"{part} cannot be reached"


# Events


def read(text: str) -> list[dict[str, str]]:
    return [dict(line.split(": ", 1) for line in one.splitlines() if not line.startswith(":")) for one in text.split("\n\n") if one]


async def test_events_of_a_closed_execution_from_where_one_left_off(centre: Centre, anna: httpx.AsyncClient) -> None:
    id_ = await submitted(anna)
    leave(centre, id_, "site-a")
    leave(centre, id_, "site-b")
    centre.records.close_execution(id_, "SUCCEEDED")
    answer = await anna.get(f"executions/{id_}/events")
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    events = read(answer.text)
    runs = [one for one in events if one["event"] == "run"]
    assert [one["event"] for one in events] == ["execution", *["run"] * 4, "end"]
    said = [json.loads(one["data"]) for one in runs]
    assert [(one["node"], one["number"], one["state"]) for one in said] == [
        ("site-a", 1, "RUNNING"), ("site-a", 2, "SUCCEEDED"), ("site-b", 1, "RUNNING"), ("site-b", 2, "SUCCEEDED"),
    ]  # fmt: skip
    assert said[0]["lines"] == ["begin", "go on"]
    again = read((await anna.get(f"executions/{id_}/events", headers={"Last-Event-ID": runs[1]["id"]})).text)
    assert [one for one in again if one["event"] == "run"] == runs[2:]
    assert (await anna.get(f"executions/{id_}/events", headers={"Last-Event-ID": runs[3]["id"]})).status_code == 204
    for wrong in ("x", "1:1", "1:1,0:1", "1:1,1:99999999999"):
        await problem(anna, 400, f"executions/{id_}/events", headers={"Last-Event-ID": wrong})


def an_open_execution(centre: Centre) -> tuple[str, Any]:
    order = an_order()
    id_ = str(order.execution)
    centre.records.create_execution(
        id_, user="anna", project="", tool="t", key="k", request_json="{}", runs=[(str(order.run), order.task, order.node)]
    )
    centre.records.add_attempts([NewAttempt(str(order.run), 1, b"", now(), order.deadline)])
    return id_, order


async def test_fifty_followers_have_one_reader_and_miss_nothing(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.02)
    id_, order = an_open_execution(centre)
    centre.records.record_events([an_event(order, 1, lines=("1",))])
    row, feeds = centre.records.execution(id_), Feeds(centre.records)
    assert row
    begun = asyncio.Semaphore(0)

    async def heard() -> list[str]:
        found: list[str] = []
        async with aclosing(feeds.follow(row, {})) as batches:
            async for batch in batches:
                if batch.row and batch.row.state == "OPEN":
                    begun.release()
                found += [line for event in batch.events for line in event.lines]
        return found

    followers = [asyncio.create_task(heard()) for _ in range(50)]
    for _ in followers:
        await begun.acquire()
    assert len(feeds._feeds) == 1
    # The third before the second: it waits for it.
    for number in (3, 2, 4):
        await asyncio.to_thread(centre.records.record_events, [an_event(order, number, lines=(str(number),))])
    state = an_event(order, 5, state=State.SUCCEEDED)
    await asyncio.to_thread(centre.records.record_events, [state])
    await asyncio.to_thread(centre.records.close_execution, id_, "SUCCEEDED")
    assert await asyncio.gather(*followers) == [["1", "2", "3", "4"]] * 50
    assert feeds._feeds == {}


async def test_who_does_not_keep_up_is_let_go_and_others_are_not(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EVERY", 0.01)
    monkeypatch.setattr(module, "WAITING", 2)
    id_, order = an_open_execution(centre)
    row, feeds = centre.records.execution(id_), Feeds(centre.records)
    assert row
    slow, quick = feeds.follow(row, {}), feeds.follow(row, {})
    await anext(slow)
    await anext(quick)
    for number in range(1, 6):
        await asyncio.to_thread(centre.records.record_events, [an_event(order, number, lines=(str(number),))])
        batch = await anext(quick)
        assert [event.number for event in batch.events] == [number]
    left = [event.number async for batch in slow for event in batch.events]
    assert left == [1, 2]
    await quick.aclose()
    assert feeds._feeds == {}


# The rest


async def test_tools_and_nodes(anna: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "check", partial(checks.check, seconds=0.1))
    names = [one["name"] for one in await told(anna, "tools")]
    assert "hello" in names
    tool = await told(anna, "tools/hello")
    assert tool["document"]["tasks"][0]["id"] == "hello"
    assert (await problem(anna, 404, "tools/nothing"))["code"] == "unknown-tool"
    assert [one["name"] for one in await told(anna, "nodes")] == ["site-a", "site-b"]
    assert (await told(anna, "nodes/site-a"))["presence"] == "gone"
    await problem(anna, 404, "nodes/'site-a'")
    assert {one["messages"] for one in await told(anna, "nodes/site-a/queues")} == {0}
    plan = await anna.post("tools/hello/plan", json=ASKED)
    assert [one["presence"] for one in plan.json()["runs"]] == ["gone", "gone"]
    assert "names the tool" in (await problem(anna, 400, "tools/other/plan", "POST", json=ASKED))["detail"]
    health = await anna.post("nodes/site-a/health")
    assert health.json()["answered"] is False


async def test_sessions_and_models(app: FastAPI, tmp_path: Path) -> None:
    centre = services_of(app).centre
    seed, *_, last = a_trail(centre, tmp_path, 2)
    async with client_of(app, "aude") as client:
        client.base_url = httpx.URL("http://gateway/api/v2/")
        (row,) = (await told(client, "sessions"))["items"]
        assert (row["id"], row["user"]) == (seed.session, "ada")
        session = await told(client, f"sessions/{row['id']}")
        assert ([one["number"] for one in session["rounds"]], len(session["updates"])) == ([1, 2], 6)
        assert await told(client, f"sessions/{row['id']}/measures") == []
        assert [one["round"] for one in await told(client, f"sessions/{row['id']}/models")] == [2, 1, 0]
        model = await told(client, f"models/{last.id}")
        assert ([one["round"] for one in model["ancestors"]], model["descendants"]) == ([1, 0], [])
        data = (await client.get(f"models/{last.id}/file")).content
        assert hashlib.sha256(data).hexdigest() == last.sha256
    async with client_of(app, "anna") as client:
        assert (await told(client, "/api/v2/sessions"))["items"] == []
        for path in (f"sessions/{seed.session}", f"models/{last.id}", f"models/{last.id}/file", "sessions/x", "models/x"):
            await problem(client, 404, f"/api/v2/{path}")


async def test_accounting_as_json_and_csv(centre: Centre, anna: httpx.AsyncClient) -> None:
    leave(centre, await submitted(anna), "site-a")
    (row,) = await told(anna, "reports/accounting", params={"by": ["tool", "node"]})
    assert (row["tool"], row["node"], row["runs"], row["succeeded"]) == ("hello", "site-a", 1, 1)
    csv = await anna.get("reports/accounting", params={"by": "tool", "format": "csv", "period": "day"})
    assert csv.headers["Content-Type"].startswith("text/csv")
    assert csv.text.splitlines()[0].startswith("period,tool,runs")
    assert await told(anna, "reports/accounting", params={"user": "bert"}) == []
    await problem(anna, 422, "reports/accounting", params={"by": "colour"})
    assert "zone" in (await problem(anna, 400, "reports/accounting", params={"since": "2026-01-01T00:00:00"}))["detail"]


async def test_simulations_that_are_not_there(anna: httpx.AsyncClient) -> None:
    assert await told(anna, "simulations") == []
    for name in ("unit", "..", "..%2f..", "x"):
        assert (await anna.get(f"simulations/{name}")).status_code == 404


# The descriptions


async def test_both_descriptions_are_shown_without_a_thing_from_elsewhere(app: FastAPI) -> None:
    async with client_of(app) as client:
        for place in ("/api/v2", "/heart/API/v1"):
            description = (await client.get(f"{place}/openapi.json")).json()
            assert len(description["paths"]) > 10
            page = (await client.get(f"{place}/docs")).text
            assert "https://" not in page
            assert "http://" not in page
        for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
            assert f"/api-page/{asset}" in page
            assert (await client.get(f"/api-page/{asset}")).status_code == 200
