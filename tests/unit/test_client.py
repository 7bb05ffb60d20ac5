"""The Python client's own parts: when it tries again, how it reads a stream, what it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from federation.client import AsyncClient, Problem, calls
from federation.client.shown import Nodes, table

EXECUTION: dict[str, Any] = {"id": "e", "tool": "t", "state": "SUCCEEDED", "outcome": None, "runs": []}


def a_client(answers: list[httpx.Response | Exception], asked: list[httpx.Request]) -> AsyncClient:
    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        found = answers.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    return AsyncClient("http://gateway/", "token", transport=httpx.MockTransport(answer))


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "PAUSE", 0.0)


async def test_a_submission_is_sent_again_with_its_key() -> None:
    asked: list[httpx.Request] = []
    answers = [httpx.Response(503, headers={"Retry-After": "0"}), httpx.ConnectError("refused"), httpx.Response(202, json={"id": "e"})]
    async with a_client(answers, asked) as client:
        assert await client.submit("t", ["site-a"], {"x": 1}, quorum=1) == "e"
    assert [str(one.url) for one in asked] == ["http://gateway/api/v2/executions"] * 3
    assert len({one.headers["Idempotency-Key"] for one in asked}) == 1
    assert json.loads(asked[0].content) == {"tool": "t", "nodes": ["site-a"], "arguments": {"x": 1}, "quorum": 1}


async def test_it_gives_up_with_the_words_of_the_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "TRIES", 2)
    down = {"detail": "the broker cannot be reached", "remedy": "try again in a moment", "code": "broker-unavailable"}
    asked: list[httpx.Request] = []
    async with a_client([httpx.Response(503, json=down) for _ in range(3)], asked) as client:
        with pytest.raises(Problem, match=r"^the broker cannot be reached \(try again in a moment\)$") as refused:
            await client.nodes()
    assert (refused.value.status, refused.value.code, len(asked)) == (503, "broker-unavailable", 3)


async def test_what_is_wrong_is_not_sent_again() -> None:
    asked: list[httpx.Request] = []
    async with a_client([httpx.Response(502, text="<html>")], asked) as client:
        with pytest.raises(Problem, match="502"):
            await client.execution("e")
    assert len(asked) == 1


async def test_a_stream_that_breaks_goes_on_where_it_was() -> None:
    def event(number: int) -> str:
        data = {"node": "a", "number": number, "lines": [f"line {number}"], "state": None, "run": "r"}
        return f"id: 1:{number}\nevent: run\ndata: {json.dumps(data)}\n\n"

    asked: list[httpx.Request] = []
    answers: list[httpx.Response | Exception] = [
        httpx.Response(200, text=event(1) + ": all is well\n\n" + event(2) + "event: run\ndata: {"),
        httpx.ReadError("gone"), httpx.Response(200, text=event(3) + "event: end\ndata: {}\n\n"),
    ]  # fmt: skip
    async with a_client(answers, asked) as client:
        assert [line async for line in client.follow("e")] == ["a | line 1", "a | line 2", "a | line 3"]
    assert [one.headers.get("Last-Event-ID") for one in asked] == [None, "1:2", "1:2"]


async def test_a_file_does_not_climb(tmp_path: Path) -> None:
    files = {"files": [{"task": "t", "node": "n", "path": "../../../x.csv", "size": 1, "sha256": ""}]}
    async with a_client([httpx.Response(200, json=files)], []) as client:
        with pytest.raises(ValueError, match="is not below"):
            await client.download("e", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_a_site_says_is_shown_as_text() -> None:
    shown = Nodes([{"name": "<script>", "datasets": ["a", "b"]}])._repr_html_()
    assert "<script>" not in shown
    assert "a, b" in shown
    assert table([]) == "<p>none</p>"
