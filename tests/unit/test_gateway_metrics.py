"""What Prometheus is told of the centre, and who may ask."""

from __future__ import annotations

import re
from pathlib import Path
from uuid import uuid4

import pytest

from fdn_worker.errors import BrokerUnavailable
from federation.centre import Centre
from tests.support.prometheus import samples
from tests.unit.gateway import a_gateway, client_of

TOKEN = "scrape-me"


@pytest.mark.parametrize(("name", "status"), [("", 401), ("anna", 403), ("olaf", 200), ("aude", 200), ("ada", 200)])
async def test_who_may_ask(centre: Centre, name: str, status: int) -> None:
    async with client_of(a_gateway(centre, metrics_token=TOKEN), name) as client:
        assert (await client.get("/metrics")).status_code == status


async def test_a_token_of_the_settings_is_enough_and_an_empty_one_is_none(centre: Centre) -> None:
    async with client_of(a_gateway(centre, metrics_token=TOKEN)) as client:
        assert (await client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})).status_code == 200
        assert (await client.get("/metrics", headers={"Authorization": "Bearer scrape"})).status_code == 401
    async with client_of(a_gateway(centre)) as client:
        assert (await client.get("/metrics", headers={"Authorization": "Bearer "})).status_code == 401


async def test_it_tells_of_executions_nodes_and_queues(centre: Centre) -> None:
    for _ in range(2):
        execution = str(uuid4())
        runs = [(str(uuid4()), "main", "site-a")]
        centre.records.create_execution(execution, user="anna", project="", tool="t", key=execution, request_json="{}", runs=runs)
    async with client_of(a_gateway(centre, metrics_token=TOKEN)) as client:
        answer = await client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    told = samples(answer.text)
    assert sum(told["fem_executions"].values()) == 2
    assert told["fem_open_runs"]["QUEUED",] == 2
    assert told["fem_nodes"] == {("connected",): 0, ("suspect",): 0, ("gone",): 2}
    assert told["fem_queue_messages"]["site-a", "orders"] == 0
    assert told["fem_up"] == {("records",): 1, ("broker",): 1}
    assert "anna" not in answer.text
    page = (Path(__file__).resolve().parents[2] / "docs/reference/metrics.md").read_text()
    names = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in told if not name.endswith("_created")}
    assert [name for name in names if f"`{name}`" not in page] == []


async def test_a_broker_that_is_down_is_told_and_the_rest_as_well(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> None:
    def down(*_: object) -> None:
        raise BrokerUnavailable("no answer")

    app = a_gateway(centre, metrics_token=TOKEN)
    monkeypatch.setattr(type(centre.broker), "depth", down)
    async with client_of(app) as client:
        told = samples((await client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})).text)
    assert told["fem_up"] == {("records",): 1, ("broker",): 0}
    assert "fem_nodes" in told
    assert "fem_queue_messages" not in told


async def test_no_client_makes_new_series(centre: Centre) -> None:
    async with client_of(a_gateway(centre, metrics_token=TOKEN), "anna") as client:
        for number in range(5):
            await client.get(f"/nothing/{number}")
            await client.request(f"ODD{number}", "/health/live")
        await client.get("/api/v2/me")
        text = (await client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})).text
    told = samples(text)["fem_http_requests_total"]
    assert told["GET", "none", "404"] == 5
    assert told["GET", "/api/v2/me", "200"] == 1
    assert {method for method, _, _ in told} == {"GET", "other"}
    assert not re.search("nothing|ODD", text)
