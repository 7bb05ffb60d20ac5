"""The faults, by the numbers of the matrix in docs/reference/reliability.md; test and random mode both make them from here.

A fault is a context: there when it is entered, over when it is left. Around it `endure` runs ordinary tasks, which go on
meanwhile and must not be harmed; a fault that is of a task itself sends that task, and says how it may end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass

from tests.faults.ground import Ground
from tests.faults.invariants import check

Make = Callable[[Ground], Iterator[None]]
#: Ordinary tasks of a round.
NEIGHBOURS = 2


@dataclass(frozen=True)
class Fault:
    number: int
    name: str
    make: Callable[[Ground], AbstractContextManager[None]]
    #: The launcher of the node that it is made at.
    kind: str
    #: It may be made together with others.
    mixes: bool
    #: The ordinary tasks go on only when it is over.
    held: bool
    #: How often the random mode draws it, beside the others.
    weight: int

    @property
    def id(self) -> str:
        return f"{self.number:02} {self.name}"


FAULTS: list[Fault] = []


def fault(
    number: int, name: str, *, kind: str = "process", mixes: bool = False, held: bool = False, weight: int = 4
) -> Callable[[Make], Make]:
    """Register a generator that makes the fault, yields, and mends it."""

    def register(make: Make) -> Make:
        FAULTS.append(Fault(number, name, contextmanager(make), kind, mixes, held, weight))
        return make

    return register


def endure(ground: Ground, faults: Sequence[Fault]) -> float:
    """Make these faults at the same time, amid ordinary tasks, and check what must hold after; seconds from their end to the last run's."""
    neighbours = [ground.begin() for _ in range(NEIGHBOURS)]
    held = any(one.held for one in faults)
    with ExitStack() as over:
        for one in faults:
            over.enter_context(one.make(ground))
        if not held:
            ground.go(*neighbours)
        ground.over()
    if held:
        ground.go(*(case for case in neighbours if not case.earlier))
    return check(ground)


def all_faults() -> list[Fault]:
    """In the order of their numbers."""
    from tests.faults import lines, messages, nodes, tasks  # they register themselves

    assert all((lines, messages, nodes, tasks))
    return sorted(FAULTS, key=lambda one: one.id)
