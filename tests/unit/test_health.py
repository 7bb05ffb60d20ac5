"""What the centre makes of a node's word on its health."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import pytest

from fdn_worker.errors import Fault
from fdn_worker.protocol import Answer, Health, Reason, now
from fdn_worker.protocol.inquiry import ImageHere
from federation import health
from federation.centre import Centre
from federation.health import LEAST_DISK, NodeHealth, check, summarise
from federation.request import BadRequest
from flows.health_check import markdown, row
from tests.unit.helpers import an_id

WELL: dict[str, Any] = {"worker_version": "1.2", "disk_free": LEAST_DISK, "launchers": {"docker": "27.1"}}


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Has nodes answer: answering(site_a={facts}, site_b=Reason)."""

    def answer(**said: Any) -> None:
        async def ask(_: Centre, nodes: Sequence[str], about: str, *, heard: Callable[[Answer], None], **fields: Any) -> dict[str, Answer]:
            found = {}
            for name, what in said.items():
                node = name.replace("_", "-")
                if node in nodes:
                    extra: dict[str, Any] = (
                        {"refused": what} if isinstance(what, Reason) else {"health": Health(**{"clock": now()} | WELL | what)}
                    )
                    found[node] = Answer(request=an_id(1), node=node, at=now(), about="health", **extra)
                    heard(found[node])
            return found

        monkeypatch.setattr(health, "ask", ask)

    return answer


def found_at_a(centre: Centre, **options: Any) -> NodeHealth:
    [found] = asyncio.run(check(centre, ["site-a"], **options))
    return found


def test_a_node_with_nothing_to_mend_is_healthy(centre: Centre, answering: Callable[..., None]) -> None:
    answering(site_a={})
    found = found_at_a(centre)
    assert (found.healthy, found.answered, found.problems, found.presence) == (True, True, (), "gone")
    assert found.seconds is not None
    assert found.offset == pytest.approx(0, abs=1)
    assert (row(found)["launchers"], row(found)["healthy"], row(found)["disk free"]) == ("docker 27.1", True, "5.0 GiB")


@pytest.mark.parametrize(
    ("facts", "problem"),
    [
        ({"clock": timedelta(hours=2)}, "its clock is 7"),
        ({"clock": -timedelta(hours=2)}, "s behind"),
        ({"certificate_expires": timedelta(days=12, hours=1)}, "its certificate expires in 12 days"),
        ({"certificate_expires": -timedelta(days=1)}, "its certificate has expired"),
        ({"disk_free": 1024**3}, "1.0 GiB of disk left"),
        ({"problems": ("the journal is full",)}, "the journal is full"),
        ({"images": (ImageHere(name="other:1"),)}, "image python:3.11 is missing"),
    ],
)
def test_what_is_to_be_mended_is_said(centre: Centre, answering: Callable[..., None], facts: dict[str, Any], problem: str) -> None:
    # Moments are so much from when the test runs, which may be long after it was collected.
    facts = {name: now() + fact if isinstance(fact, timedelta) else fact for name, fact in facts.items()}
    answering(site_a={"images": (ImageHere(name="python:3.11"),), "certificate_expires": now() + timedelta(days=31)} | facts)
    found = found_at_a(centre, images=["python:3.11"])
    assert not found.healthy
    assert len(found.problems) == 1
    assert problem in found.problems[0]


def test_one_that_refuses_and_one_that_is_silent(centre: Centre, answering: Callable[..., None]) -> None:
    answering(site_a=Reason(code="refused", fault=Fault.POLICY, message="not told to the centre"))
    refusing, silent = asyncio.run(check(centre))
    assert (refusing.answered, refusing.problems) == (True, ("not told to the centre",))
    assert (silent.answered, silent.problems) == (False, ("gone (last heard: never)",))
    assert "| site-b | gone" in markdown([refusing, silent], summarise([refusing, silent]))


def test_in_a_word() -> None:
    well = NodeHealth(node="a", presence="connected", answered=True)
    gone = NodeHealth(node="b", presence="gone", problems=("gone",))
    assert (summarise([well]).name, summarise([well]).message) == ("Healthy", "1/1 healthy")
    assert (summarise([well, well, gone]).name, summarise([well, well, gone]).message) == ("Degraded", "2/3 healthy: b gone")
    assert (summarise([gone]).name, summarise([gone]).message) == ("Failed", "no node answered (0/1 healthy: b gone)")
    assert summarise([]).message == "no node is enrolled"
    assert summarise([well, *[gone] * 12]).message.endswith("and 2 more")


def test_an_unknown_node_is_named(centre: Centre) -> None:
    with pytest.raises(BadRequest, match="'site-c' is not enrolled"):
        asyncio.run(check(centre, ["site-c"]))
