"""Verdict: what the ends of an execution's runs amount to, under its quorum. Pure: states in, a name and a sentence out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from fdn_worker.protocol import State

Name = Literal["Succeeded", "Degraded", "Failed", "Cancelled"]


@dataclass(frozen=True)
class Tally:
    """Nodes of an execution by how they stand: a node succeeds when all its tasks do, and fails with the first that does not."""

    succeeded: int
    failed: int
    open: int

    @property
    def nodes(self) -> int:
        return self.succeeded + self.failed + self.open

    @classmethod
    def of(cls, states: Iterable[tuple[str, State]]) -> Tally:
        """From (node, state of one of its tasks)."""
        nodes: dict[str, set[State]] = {}
        for node, state in states:
            nodes.setdefault(node, set()).add(state)
        ends = [_end(found) for found in nodes.values()]
        return cls(ends.count(True), ends.count(False), ends.count(None))

    def reachable(self, needed: int) -> bool:
        """Whether so many nodes may still succeed."""
        return self.succeeded + self.open >= needed


def _end(states: set[State]) -> bool | None:
    if any(state.terminal and state is not State.SUCCEEDED for state in states):
        return False
    return True if states == {State.SUCCEEDED} else None


@dataclass(frozen=True)
class Verdict:
    """`name` is the state's of the flow run; `message` is for people."""

    name: Name
    message: str

    @property
    def good(self) -> bool:
        """Enough nodes succeeded."""
        return self.name in ("Succeeded", "Degraded")


def judge(tally: Tally, needed: int, *, servers: Mapping[str, State] | None = None, cancelled: bool = False) -> Verdict:
    """The verdict once all has ended. `servers`: node -> end of the server's task there, without which nothing succeeds."""
    share = f"{tally.succeeded}/{tally.nodes}"
    if cancelled:
        return Verdict("Cancelled", f"cancelled; {share} nodes had succeeded")
    for node, state in (servers or {}).items():
        if state is not State.SUCCEEDED:
            return Verdict("Failed", f"the server at {node} ended {state}; {share} nodes succeeded")
    if tally.succeeded == tally.nodes:
        return Verdict("Succeeded", share)
    if tally.succeeded >= needed:
        return Verdict("Degraded", share)
    return Verdict("Failed", f"{share} nodes succeeded, {needed} were needed")
