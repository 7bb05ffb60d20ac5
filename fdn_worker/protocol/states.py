"""The states of a run's attempt, and the one pure function that says which event may lead where.

QUEUED -> ACCEPTED -> STAGING_IN -> RUNNING -> STAGING_OUT -> AWAITING_RELEASE -> a terminal state.
Events of a run are numbered but may arrive in any order, so a forward jump is legal and a step back is stale.
"""

from __future__ import annotations

from enum import StrEnum

from fdn_worker.errors import FdnError


class State(StrEnum):
    QUEUED = "QUEUED"
    ACCEPTED = "ACCEPTED"
    STAGING_IN = "STAGING_IN"
    RUNNING = "RUNNING"
    STAGING_OUT = "STAGING_OUT"
    AWAITING_RELEASE = "AWAITING_RELEASE"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    REJECTED = "REJECTED"
    CANCELLED = "CANCELLED"
    LOST = "LOST"

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


#: Nothing follows these, but for LOST, which the same attempt's later word supersedes.
TERMINAL = frozenset({State.SUCCEEDED, State.FAILED, State.REJECTED, State.CANCELLED, State.LOST})
_ORDER = (State.QUEUED, State.ACCEPTED, State.STAGING_IN, State.RUNNING, State.STAGING_OUT, State.AWAITING_RELEASE)
_RANK = {state: rank for rank, state in enumerate(_ORDER)}
#: A site refuses before anything of the task ran; success needs outputs that were staged out.
_LATEST_REJECTION = _RANK[State.STAGING_IN]


class IllegalTransition(FdnError):
    """An event says what cannot follow the present state."""

    code = "illegal-transition"


def advance(state: State, event: State) -> State:
    """The state after an event that says `event`, heard in `state`.

    Returns `state` itself when the event is stale (an earlier stage, or a repeat). Raises IllegalTransition
    for what no order of arrival explains: a second, different end, or a refusal of what already ran.
    """
    if event is state:
        return state
    if state is State.LOST:
        # LOST is the centre's guess; any word of the same attempt but QUEUED is better knowledge.
        return state if event is State.QUEUED else event
    if state.terminal:
        if event.terminal and event is not State.LOST:
            raise IllegalTransition(f"a run that is {state} was said to be {event}")
        return state
    if event is State.REJECTED and _RANK[state] > _LATEST_REJECTION:
        raise IllegalTransition(f"a run that is {state} was said to be {event}")
    if event.terminal:
        return event
    return event if _RANK[event] > _RANK[state] else state
