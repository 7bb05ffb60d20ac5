"""Executions as lists show them: filtered, a page at a time, newest first; and what runs at the nodes now. Each is a query or two, however many there are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, Table, and_, func, or_, select, true

from fdn_worker.protocol import State, TaskEvent
from storage.database import Database
from storage.prefixes import bounds
from storage.rows import OPEN, RecordsRefused
from storage.schema import attempts, events, executions, runs

#: Rows of a page at most.
MOST = 500
_LIVE = [state for state in State if not state.terminal]


class Owner(NamedTuple):
    """Whose executions somebody sees: his own, and those of his projects."""

    user: str
    projects: frozenset[str]


class Place(NamedTuple):
    """Where a page ends: the next one begins behind it."""

    created: datetime
    id: str


@dataclass(frozen=True)
class Filter:
    """What is wanted; empty is all."""

    user: str = ""
    project: str = ""
    tool: str = ""
    node: str = ""
    state: str = ""
    #: In the tool's name, or at the beginning of the id.
    text: str = ""
    since: datetime | None = None


@dataclass(frozen=True)
class Listed:
    """An execution, and how many of its runs are in which state."""

    id: str
    user: str
    project: str
    tool: str
    created: datetime
    closed: datetime | None
    state: str
    outcome: str | None
    runs: dict[str, int] = field(default_factory=dict)


class Running(NamedTuple):
    """A run that has not ended."""

    node: str
    task: str
    state: State
    execution: str
    user: str
    project: str
    tool: str


class Step(NamedTuple):
    """A state of a run's current attempt, and since when by the node's clock."""

    run: str
    state: State
    at: datetime


class Head(NamedTuple):
    """How far the events of a run's current attempt go."""

    run: str
    task: str
    node: str
    attempt: int
    last: int


def listed(database: Database, of: Owner | None, wanted: Filter, limit: int, after: Place | None = None) -> list[Listed]:
    """A page of at most `limit`; of all where `of` is None."""
    names = [name for name in Listed.__dataclass_fields__ if name != "runs"]
    query = (
        select(*(executions.c[name] for name in names)).where(visible(executions, of), _matching(wanted))
        .order_by(executions.c.created.desc(), executions.c.id).limit(min(limit, MOST))
    )  # fmt: skip
    if after is not None:
        behind = and_(executions.c.created == after.created, executions.c.id > after.id)
        query = query.where(or_(executions.c.created < after.created, behind))
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    with database.read() as db:
        found = db.execute(query).all()
        of_these = select(runs.c.execution, runs.c.state, func.count()).where(runs.c.execution.in_([row.id for row in found]))
        for execution, state, number in db.execute(of_these.group_by(runs.c.execution, runs.c.state)):
            counts[execution][str(state)] = number
    return [Listed(**row._mapping, runs=counts[row.id]) for row in found]


def running(database: Database, node: str = "") -> list[Running]:
    """The runs that have not ended, at the node or at all."""
    query = (
        select(runs.c.node, runs.c.task, runs.c.state, runs.c.execution, executions.c.user, executions.c.project, executions.c.tool)
        .join_from(executions, runs).where(executions.c.state == OPEN, runs.c.state.in_(_LIVE), runs.c.attempt > 0)
        .order_by(runs.c.node, executions.c.created)
    )  # fmt: skip
    if node:
        query = query.where(runs.c.node == node)
    with database.read() as db:
        return [Running(*row) for row in db.execute(query)]


def at_node(database: Database, node: str, of: Owner | None, limit: int) -> list[Listed]:
    """The newest executions that have a run at the node."""
    return listed(database, of, Filter(node=node), limit)


def story(database: Database, execution: str) -> list[Step]:
    """The states of all its runs' current attempts, each run's in order."""
    current = and_(events.c.run == runs.c.id, events.c.attempt == runs.c.attempt, events.c.state.is_not(None))
    query = select(events.c.run, events.c.state, events.c.at).join_from(runs, events, current).where(runs.c.execution == execution)
    with database.read() as db:
        return [Step(*row) for row in db.execute(query.order_by(events.c.run, events.c.number))]


def heads(database: Database, execution: str) -> list[Head]:
    """Where the events of each run stand: who follows reads on where something came."""
    current = and_(attempts.c.run == runs.c.id, attempts.c.attempt == runs.c.attempt)
    query = (
        select(runs.c.id, runs.c.task, runs.c.node, runs.c.attempt, attempts.c.last_number)
        .join_from(runs, attempts, current).where(runs.c.execution == execution).order_by(runs.c.task, runs.c.node)
    )  # fmt: skip
    with database.read() as db:
        return [Head(*row) for row in db.execute(query)]


def lines_after(database: Database, run: str, attempt: int, number: int, limit: int) -> list[TaskEvent]:
    """The next events of an attempt, at most `limit`; those without log lines are among them."""
    of = (events.c.run == run, events.c.attempt == attempt, events.c.number > number)
    with database.read() as db:
        bodies = db.scalars(select(events.c.body).where(*of).order_by(events.c.number).limit(limit)).all()
    return [TaskEvent.model_validate_json(body) for body in bodies]


def visible(table: Table, of: Owner | None) -> ColumnElement[bool]:
    """Rows of a table with `user` and `project` that are the owner's; all where it is None."""
    if of is None:
        return true()
    # No project is nobody's.
    return or_(table.c.user == of.user, table.c.project.in_(sorted(of.projects - {""})))


def _matching(wanted: Filter) -> ColumnElement[bool]:
    found: ColumnElement[bool] = true()
    for name in ("user", "project", "tool", "state"):
        if value := getattr(wanted, name):
            found &= executions.c[name] == value
    if wanted.since is not None:
        found &= executions.c.created >= wanted.since
    if wanted.node:
        found &= select(runs.c.id).where(runs.c.execution == executions.c.id, runs.c.node == wanted.node).exists()
    if text := wanted.text.strip().lower():
        named: ColumnElement[bool] = func.lower(executions.c.tool).contains(text, autoescape=True)
        try:
            found &= or_(named, executions.c.id.between(*bounds(text, "execution")))
        except RecordsRefused:
            found &= named
    return found
