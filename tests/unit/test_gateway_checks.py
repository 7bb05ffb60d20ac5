"""Health checks are shared by those who ask within a few seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from fdn_worker.errors import BrokerUnavailable
from federation.centre import Centre
from federation.gateway import checks as module
from federation.gateway.checks import Checks
from federation.health import NodeHealth


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The nodes of each question that is asked."""
    questions: list[list[str]] = []

    async def check(centre: Centre, nodes: Sequence[str], *, user: str) -> list[NodeHealth]:
        questions.append(list(nodes))
        await asyncio.sleep(0)
        if "down" in nodes:
            raise BrokerUnavailable("it is down")
        return [NodeHealth(node=node, presence="connected", answered=True) for node in nodes]

    monkeypatch.setattr(module, "check", check)
    return questions


async def test_many_ask_and_each_node_is_asked_once(centre: Centre, asked: list[list[str]]) -> None:
    checks = Checks(centre)
    found = await asyncio.gather(*(checks.of(nodes, user="anna") for nodes in (["a", "b"], ["b"], ["c", "a"], ["a", "b"])))
    assert [[one.node for one in some] for some in found] == [["a", "b"], ["b"], ["c", "a"], ["a", "b"]]
    assert asked == [["a", "b"], ["c"]]


async def test_an_answer_is_not_kept_for_long(centre: Centre, asked: list[list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FRESH", -1.0)
    checks = Checks(centre)
    for _ in range(2):
        await checks.of(["a"], user="anna")
    assert asked == [["a"], ["a"]]


async def test_who_goes_away_takes_no_answer_from_the_others(centre: Centre, asked: list[list[str]]) -> None:
    checks = Checks(centre)
    first, second = (asyncio.create_task(checks.of(["a"], user=user)) for user in ("anna", "bert"))
    await asyncio.sleep(0)
    first.cancel()
    assert [one.node for one in await second] == ["a"]
    assert asked == [["a"]]


async def test_a_fault_is_told_and_not_kept(centre: Centre, asked: list[list[str]]) -> None:
    checks = Checks(centre)
    for _ in range(2):
        with pytest.raises(BrokerUnavailable):
            await checks.of(["down"], user="anna")
    assert len(asked) == 2
