"""Names of queues, exchanges, runs and containers: derived, and of [a-z0-9-] alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdn_worker.errors import Fault
from fdn_worker.protocol import names
from fdn_worker.protocol.names import NameRefused
from tests.unit.helpers import EXECUTION

BAD = ["A", "Site", "a.b", "a/b", "a\n", "\na", "a b", "", "a" * 64, "-a", "a-", "-", "é", "a_b", "a\x00", "..", "#", "*"]
GOOD = ["a", "0", "site-a", "a--b", "a" * 63]
MAKERS: dict[str, Callable[[str], object]] = {
    "check_id": names.check_id,
    "command_queue": names.command_queue,
    "control_queue": names.control_queue,
    "event_exchange": names.event_exchange,
    "dead_letter_queue": names.dead_letter_queue,
    "node_of_exchange": lambda node: names.node_of_exchange(f"evt.{node}"),
    "execution_queue": lambda follower: names.execution_queue(EXECUTION, follower),
    "run_id, task": lambda task: names.run_id(EXECUTION, task, "a"),
    "run_id, node": lambda node: names.run_id(EXECUTION, "a", node),
}


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("maker", MAKERS)
def test_no_function_takes_a_bad_id(maker: str, value: str) -> None:
    with pytest.raises(NameRefused) as caught:
        MAKERS[maker](value)
    assert repr(value) in str(caught.value)
    assert "1 to 63 characters of a-z, 0-9 and -" in str(caught.value)
    assert caught.value.fault is Fault.USER


@pytest.mark.parametrize("value", GOOD)
@pytest.mark.parametrize("maker", MAKERS)
def test_every_function_takes_a_good_id(maker: str, value: str) -> None:
    assert MAKERS[maker](value)


def test_names() -> None:
    assert names.command_queue("site-a") == "cmd.site-a"
    assert names.control_queue("site-a") == "ctl.site-a"
    assert names.event_exchange("site-a") == "evt.site-a"
    assert names.dead_letter_queue("site-a") == "dead.site-a"
    assert names.execution_queue(EXECUTION) == f"exe.{EXECUTION}.wait"
    assert names.container_name(EXECUTION, 3) == f"fdn-{EXECUTION}-3"


@pytest.mark.parametrize("exchange", ["", "evt", "cmd.site-a", "executions", "evt.site-a.b", "EVT.site-a"])
def test_only_an_event_exchange_tells_its_node(exchange: str) -> None:
    assert names.node_of_exchange("evt.site-a") == "site-a"
    with pytest.raises(NameRefused):
        names.node_of_exchange(exchange)


@given(st.text(max_size=70))
def test_what_passes_holds_nothing_else(value: str) -> None:
    try:
        queue = names.command_queue(value)
    except NameRefused:
        return
    assert re.fullmatch(r"cmd\.[a-z0-9-]{1,63}", queue)


def test_ids_are_derived() -> None:
    """The values are pinned: another derivation would make a second submission a new execution."""
    execution = names.execution_id("ada", "flow-1")
    assert execution == UUID("c0ae89b3-6feb-5248-9d21-9da995a711db")
    assert names.run_id(execution, "main", "site-a") == UUID("a1f75787-57e9-5f98-9ff4-14d995040275")


def test_other_submissions_have_other_ids() -> None:
    ids = {names.execution_id(user, key) for user in ("ada", "bob", "") for key in ("1", "2", "")}
    assert len(ids) == 9
    runs = {names.run_id(EXECUTION, task, node) for task, node in (("a", "b"), ("b", "a"), ("a", "a"), ("a-b", "c"), ("a", "b-c"))}
    assert len(runs) == 5
