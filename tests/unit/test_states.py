"""The transition function over every pair of state and event, and its algebra."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdn_worker.protocol import TERMINAL, IllegalTransition, State, advance

COLUMNS = (
    State.QUEUED, State.ACCEPTED, State.STAGING_IN, State.RUNNING, State.STAGING_OUT, State.AWAITING_RELEASE,
    State.SUCCEEDED, State.FAILED, State.REJECTED, State.CANCELLED, State.LOST,
)  # fmt: skip
#: A row for each state, a column for each event: `>` leads to what the event says, `=` changes nothing, `!` is illegal.
TABLE = {
    State.QUEUED:           "= > > > > > > > > > >",
    State.ACCEPTED:         "= = > > > > > > > > >",
    State.STAGING_IN:       "= = = > > > > > > > >",
    State.RUNNING:          "= = = = > > > > ! > >",
    State.STAGING_OUT:      "= = = = = > > > ! > >",
    State.AWAITING_RELEASE: "= = = = = = > > ! > >",
    State.SUCCEEDED:        "= = = = = = = ! ! ! =",
    State.FAILED:           "= = = = = = ! = ! ! =",
    State.REJECTED:         "= = = = = = ! ! = ! =",
    State.CANCELLED:        "= = = = = = ! ! ! = =",
    State.LOST:             "= > > > > > > > > > =",
}  # fmt: skip
PAIRS = [(state, event, sign) for state, row in TABLE.items() for event, sign in zip(COLUMNS, row.split(), strict=True)]
states = st.sampled_from(list(State))


def after(state: State, event: State) -> State:
    """What stands after the event, an illegal one being dropped."""
    try:
        return advance(state, event)
    except IllegalTransition:
        return state


def test_the_table_has_every_pair() -> None:
    assert {(state, event) for state, event, _ in PAIRS} == {(state, event) for state in State for event in State}


@pytest.mark.parametrize(("state", "event", "sign"), PAIRS, ids=lambda value: str(value))
def test_every_pair(state: State, event: State, sign: str) -> None:
    if sign == "!":
        with pytest.raises(IllegalTransition, match=f"{state} was said to be {event}"):
            advance(state, event)
    else:
        assert advance(state, event) is (event if sign == ">" else state)


def test_terminal_states() -> None:
    assert {state for state in State if state.terminal} == TERMINAL
    assert {state.value for state in TERMINAL} == {"SUCCEEDED", "FAILED", "REJECTED", "CANCELLED", "LOST"}


@given(states, states)
def test_an_event_again_changes_nothing(state: State, event: State) -> None:
    assert after(after(state, event), event) is after(state, event)


@given(st.sampled_from(sorted(TERMINAL - {State.LOST})), st.lists(states))
def test_an_end_absorbs_all_that_comes_later(end: State, said: list[State]) -> None:
    state = end
    for event in said:
        state = after(state, event)
    assert state is end


@given(st.lists(st.sampled_from([state for state in State if not state.terminal])), st.randoms())
def test_the_order_of_arrival_of_stages_does_not_matter(said: list[State], chance: object) -> None:
    shuffled = list(said)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    results = []
    for order in (said, shuffled):
        state = State.QUEUED
        for event in order:
            state = advance(state, event)
        results.append(state)
    assert results[0] is results[1]


@given(st.permutations([State.ACCEPTED, State.STAGING_IN, State.RUNNING, State.STAGING_OUT, State.LOST, State.SUCCEEDED]))
def test_a_guess_of_loss_hides_no_end(said: list[State]) -> None:
    """LOST may be heard at any time; the node's own end is what stands."""
    state = State.QUEUED
    for event in said:
        state = advance(state, event)
    assert state is State.SUCCEEDED
