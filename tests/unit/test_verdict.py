"""The verdict on an execution: nodes, quorum, servers, cancels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdn_worker.protocol import State
from federation.verdict import Tally, judge

ENDS = st.sampled_from([State.SUCCEEDED, State.FAILED, State.REJECTED, State.CANCELLED, State.LOST])
STATES = st.sampled_from(list(State))


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d"]), STATES), max_size=12))
def test_a_node_succeeds_with_all_its_tasks_and_fails_with_one(states: list[tuple[str, State]]) -> None:
    tally = Tally.of(states)
    by_node = {node: [state for of, state in states if of == node] for node, _ in states}
    bad = {node for node, found in by_node.items() if any(s.terminal and s is not State.SUCCEEDED for s in found)}
    good = {node for node, found in by_node.items() if all(s is State.SUCCEEDED for s in found)}
    assert (tally.succeeded, tally.failed, tally.open) == (len(good), len(bad), len(by_node) - len(good) - len(bad))
    assert tally.nodes == len(by_node)


@given(st.lists(ENDS, min_size=1, max_size=20), st.integers(1, 20), st.booleans())
def test_the_quorum_decides(ends: list[State], needed: int, cancelled: bool) -> None:
    needed = min(needed, len(ends))
    tally = Tally.of((f"site-{number}", end) for number, end in enumerate(ends))
    verdict = judge(tally, needed, cancelled=cancelled)
    succeeded = ends.count(State.SUCCEEDED)
    if cancelled:
        assert verdict.name == "Cancelled"
        return
    expected = "Succeeded" if succeeded == len(ends) else "Degraded" if succeeded >= needed else "Failed"
    assert verdict.name == expected
    assert verdict.good == tally.reachable(needed)
    assert f"{succeeded}/{len(ends)}" in verdict.message


@given(st.lists(STATES, min_size=1, max_size=10), st.integers(1, 10))
def test_a_quorum_is_reachable_until_too_many_have_failed(states: list[State], needed: int) -> None:
    tally = Tally.of((f"site-{number}", state) for number, state in enumerate(states))
    failed = sum(state.terminal and state is not State.SUCCEEDED for state in states)
    assert tally.reachable(needed) == (len(states) - failed >= needed)


@pytest.mark.parametrize("end", [State.FAILED, State.CANCELLED, State.LOST, State.REJECTED])
def test_without_its_server_nothing_succeeds(end: State) -> None:
    verdict = judge(Tally(3, 0, 0), 3, servers={"hub": end})
    assert (verdict.name, verdict.message) == ("Failed", f"the server at hub ended {end}; 3/3 nodes succeeded")


def test_messages_are_for_people() -> None:
    assert judge(Tally(80, 20, 0), 70).message == "80/100"
    assert judge(Tally(60, 40, 0), 80).message == "60/100 nodes succeeded, 80 were needed"
    assert judge(Tally(1, 1, 0), 1, cancelled=True).message == "cancelled; 1/2 nodes had succeeded"
