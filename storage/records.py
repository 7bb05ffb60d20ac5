"""Records: the centre's truth about executions, runs, attempts, events and nodes. Every write may be repeated.

An execution has runs, a run has numbered attempts, an attempt has numbered events. Only the current attempt speaks for
its run: a newer one fences the older off, whose later events are kept but change nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Column, ColumnElement, Connection, Row, bindparam, or_, select, true, update

from fdn_worker.protocol import Heartbeat, Reason, Signer, State, TaskEvent, now
from storage.audit import AuditRecords
from storage.catalogue import CatalogueRecords
from storage.database import Database
from storage.folding import fold, is_of, set_state, standing
from storage.gateway import GatewayRecords
from storage.key_rows import admit, withdraw
from storage.learning import Learning
from storage.node_keys import NodeKeys
from storage.prefixes import CANDIDATES, bounds, only
from storage.rows import OPEN, AttemptRow, ExecutionRow, LogLine, NodeRow, RecordsRefused, RunRow
from storage.schema import LARGEST_NUMBER, attempts, events, executions, nodes
from storage.schema import runs as run_table
from storage.wanted import Wanted

__all__ = ["OPEN", "AttemptRow", "ExecutionRow", "LogLine", "NewAttempt", "NodeRow", "Records", "RecordsRefused", "RunRow"]

_R = TypeVar("_R", ExecutionRow, RunRow, AttemptRow, NodeRow)
#: Events that are read at a time.
PAGE = 500
#: Ids in one IN (...).
CHUNK = 500
# Made once, as in `folding`: the relay asks these for every request of a node.
_ATTEMPT = select(attempts).where(attempts.c.run == bindparam("of_run"), attempts.c.attempt == bindparam("of_attempt"))
_CURRENT = select(run_table.c.attempt).where(run_table.c.id == bindparam("of_run"))
# And these for every poll of a dashboard.
_EXECUTION = select(executions).where(executions.c.id == bindparam("of"))
_RUNS = select(run_table).where(run_table.c.execution == bindparam("of")).order_by(run_table.c.task, run_table.c.node)
_RUNS_AND_ATTEMPTS = (
    select(run_table, attempts)
    .outerjoin_from(run_table, attempts, (attempts.c.run == run_table.c.id) & (attempts.c.attempt == run_table.c.attempt))
    .where(run_table.c.execution == bindparam("of"))
    .order_by(run_table.c.task, run_table.c.node)
)


class NewAttempt(NamedTuple):
    """An attempt to be written."""

    run: str
    attempt: int
    order_body: bytes
    issued: datetime
    deadline: datetime


class Records:
    """Safe from several threads, and beside other processes on the same database. Ids are UUIDs as strings."""

    def __init__(self, database: Database, signer: Signer | None = None) -> None:
        self._db = database
        self.audit = AuditRecords(database, signer or Signer())

    @classmethod
    def open(cls, url: str, signer: Signer | None = None) -> Records:
        """The records at `sqlite:////PATH` or `postgresql+psycopg://...`; the schema is made if it is missing. `signer` signs the audit log."""
        return cls(Database.open(url), signer)

    def close(self) -> None:
        """Let go of connections."""
        self._db.close()

    @property
    def catalogue(self) -> CatalogueRecords:
        """Tools, and what the catalogue says of nodes."""
        return CatalogueRecords(self._db, self.audit)

    @property
    def keys(self) -> NodeKeys:
        """The keys by which nodes sign."""
        return NodeKeys(self._db, self.audit)

    @property
    def learning(self) -> Learning:
        """Sessions of federated learning, their rounds, updates, models and measures."""
        return Learning(self._db, self.audit)

    @property
    def gateway(self) -> GatewayRecords:
        """Users of the gateway, and their tokens."""
        return GatewayRecords(self._db, self.audit)

    @property
    def database(self) -> Database:
        """For those that go over all rows: reports and retention."""
        return self._db

    @property
    def wanted(self) -> Wanted:
        """Which flow run wants which execution."""
        return Wanted(self._db)

    # Executions

    def create_execution(
        self, execution: str, *, user: str, project: str, tool: str, key: str, request_json: str, runs: Sequence[tuple[str, str, str]],
        document: str | None = None, flow_run: str | None = None,
    ) -> tuple[ExecutionRow, bool]:  # fmt: skip
        """Write an execution with its runs (id, task, node), or find it: then the second value is False.

        Another request under the same id is refused (`idempotency-conflict`).
        """
        values = {
            "user": user, "project": project, "tool": tool, "key": key, "request": request_json, "created": now(), "state": OPEN,
            "document": document, "flow_run": flow_run,
        }  # fmt: skip
        with self._db.write() as db:
            insert = self._db.insert(executions).values(id=execution, **values).on_conflict_do_nothing()
            # not its row count, which is not told of an INSERT by every driver
            created = db.execute(insert.returning(executions.c.id)).first() is not None
            if created and runs:
                db.execute(
                    run_table.insert(),
                    [
                        {"id": run, "execution": execution, "task": task, "node": node, "attempt": 0, "state": State.QUEUED}
                        for run, task, node in runs
                    ],
                )
            row = _as(ExecutionRow, db.execute(select(executions).where(executions.c.id == execution)).one())
            if created:
                self.audit.append(
                    db, "submitted", execution=execution, user=user, project=project, tool=tool, key=key, flow_run=flow_run,
                    tasks=sorted({task for _, task, _ in runs}), nodes=sorted({node for _, _, node in runs}),
                    sha256=hashlib.sha256(request_json.encode()).hexdigest(),
                )  # fmt: skip
        if json.loads(row.request) != json.loads(request_json):
            raise RecordsRefused(
                f"key {key!r} of user {user!r} was used before, for another request (execution {execution})",
                code="idempotency-conflict",
                remedy="use another key, or the same request",
            )
        return row, created

    def close_execution(self, execution: str, state: str, outcome: str | None = None) -> None:
        """It ended so; `outcome` is a line for people. A newer attempt of a run opens it again."""
        with self._db.write() as db:
            db.execute(
                update(executions)
                .where(executions.c.id == execution, or_(executions.c.closed.is_(None), executions.c.state != state))
                .values(closed=now(), state=state, outcome=outcome)
            )

    def claim_execution(self, execution: str, flow_run: str) -> datetime | None:
        """This flow run wants it from now on, and holds a process. Since when it was suspended before, or None.

        One that another flow run has suspended stays that one's, which is resumed in its time.
        """
        with self._db.write() as db:
            mine = (executions.c.id == execution) & (executions.c.suspended.is_(None) | (executions.c.flow_run == flow_run))
            suspended = db.scalar(select(executions.c.suspended).where(mine).with_for_update())
            db.execute(update(executions).where(mine).values(flow_run=flow_run, suspended=None))
        return suspended

    def execution(self, execution: str) -> ExecutionRow | None:
        """The execution, or None."""
        with self._db.read() as db:
            row = db.execute(_EXECUTION, {"of": execution}).first()
        return _as(ExecutionRow, row) if row else None

    def executions(self, limit: int = 50, *, user: str | None = None, state: str | None = None) -> list[ExecutionRow]:
        """The newest executions first."""
        wanted: ColumnElement[bool] = true()
        for column, value in ((executions.c.user, user), (executions.c.state, state)):
            wanted = wanted & (column == value) if value is not None else wanted
        return self._executions(wanted, limit)

    def find_execution(self, prefix: str) -> ExecutionRow:
        """The one execution whose id begins so."""
        found = self._executions(executions.c.id.between(*bounds(prefix, "execution")), CANDIDATES + 1)
        return only(found, prefix, "execution", "fem status")

    # Runs and attempts

    def run(self, run: str) -> RunRow | None:
        """The run, or None."""
        return next(iter(self._runs(run_table.c.id == run)), None)

    def runs_of(self, execution: str) -> list[RunRow]:
        """The runs of an execution, by task and node."""
        with self._db.read() as db:
            return [_as(RunRow, row) for row in db.execute(_RUNS, {"of": execution})]

    def is_current(self, run: str, attempt: int) -> bool:
        """Whether this is the run's newest attempt."""
        with self._db.read() as db:
            return bool(db.scalar(_CURRENT, {"of_run": run}) == attempt)

    def add_attempt(self, run: str, attempt: int, *, order_body: bytes, issued: datetime, deadline: datetime) -> AttemptRow:
        """Write an attempt, which then is the current one of its run; or find it as it was written first.

        One that is older than the current and was never written is refused (`stale-attempt`).
        """
        with self._db.write() as db:
            found = db.execute(select(run_table).where(run_table.c.id == run).with_for_update()).first()
            if found is None:
                raise RecordsRefused(f"there is no run {run}", code="unknown-run")
            if attempt > found.attempt:
                db.execute(
                    attempts.insert().values(
                        run=run, attempt=attempt, order_body=order_body, issued=issued, deadline=deadline,
                        state=State.QUEUED, state_at=issued, last_number=0,
                    )
                )  # fmt: skip
                db.execute(update(run_table).where(run_table.c.id == run).values(attempt=attempt, state=State.QUEUED))
                db.execute(update(executions).where(executions.c.id == found.execution).values(closed=None, state=OPEN))
            row = db.execute(_ATTEMPT, {"of_run": run, "of_attempt": attempt}).first()
            if attempt > max(found.attempt, 1):
                self.audit.append(db, "again", execution=found.execution, runs={run: attempt})
        if row is None:
            raise RecordsRefused(f"run {run} is at attempt {found.attempt}, too late for {attempt}", code="stale-attempt")
        return _as(AttemptRow, row)

    def add_attempts(self, new: Sequence[NewAttempt]) -> None:
        """Write many at once, each as `add_attempt` would; those that stand already are left as they are."""
        wanted = {one.run: one for one in new}
        again: dict[str, int] = {}
        with self._db.write() as db:
            for chunk in _chunks(list(wanted)):
                found = db.execute(
                    select(run_table.c.id, run_table.c.attempt, run_table.c.execution).where(run_table.c.id.in_(chunk))
                    .order_by(run_table.c.id).with_for_update()
                ).all()  # fmt: skip
                fresh = [wanted[row.id] for row in found if wanted[row.id].attempt > row.attempt]
                if not fresh:
                    continue
                db.execute(
                    attempts.insert(),
                    [one._asdict() | {"state": State.QUEUED, "state_at": one.issued, "last_number": 0} for one in fresh],
                )
                db.execute(
                    update(run_table).where(run_table.c.id == bindparam("of")).values(attempt=bindparam("to"), state=State.QUEUED),
                    [{"of": one.run, "to": one.attempt} for one in fresh],
                )
                again |= {one.run: one.attempt for one in fresh if one.attempt > 1}
                of = {row.execution for row in found}
                db.execute(update(executions).where(executions.c.id.in_(of)).values(closed=None, state=OPEN, outcome=None))
            if again:
                self.audit.append(db, "again", runs=again)

    def current_attempts(self, execution: str, task: str | None = None) -> list[tuple[RunRow, AttemptRow]]:
        """The runs of an execution, or of one task of it, each with the attempt that counts now; runs without one are left out."""
        return [(run, attempt) for run, attempt in self.runs_and_attempts(execution, task) if attempt is not None]

    def runs_and_attempts(self, execution: str, task: str | None = None) -> list[tuple[RunRow, AttemptRow | None]]:
        """The runs of an execution, or of one task of it, by task and node, each with the attempt that counts now, or None before the first."""
        asked = _RUNS_AND_ATTEMPTS if task is None else _RUNS_AND_ATTEMPTS.where(run_table.c.task == task)
        with self._db.read() as db:
            rows = db.execute(asked, {"of": execution}).all()
        width = len(run_table.c)
        names = [column.name for column in attempts.c]
        return [
            (RunRow(*row[:width]), AttemptRow(**dict(zip(names, row[width:], strict=True))) if row[width] is not None else None)
            for row in rows
        ]

    def attempt(self, run: str, attempt: int) -> AttemptRow | None:
        """The attempt, or None."""
        if not 0 < attempt <= LARGEST_NUMBER:
            return None
        with self._db.read() as db:
            row = db.execute(_ATTEMPT, {"of_run": run, "of_attempt": attempt}).first()
        return _as(AttemptRow, row) if row else None

    def attempts_of(self, run: str) -> list[AttemptRow]:
        """The attempts of a run, the first one first."""
        with self._db.read() as db:
            return [_as(AttemptRow, row) for row in db.execute(select(attempts).where(attempts.c.run == run).order_by(attempts.c.attempt))]

    def mark_dispatched(self, run: str, attempt: int, at: datetime) -> None:
        """The broker confirmed the order; the first such moment stands."""
        self._mark([(run, attempt)], attempts.c.dispatched, at)

    def mark_all_dispatched(self, sent: Sequence[tuple[str, int]], at: datetime) -> None:
        """The same for many attempts, (run, attempt) each."""
        self._mark(sent, attempts.c.dispatched, at)

    def mark_cancel_requested(self, run: str, attempt: int, at: datetime) -> None:
        """The node was, or is to be, asked to end it; the first such moment stands."""
        self._mark([(run, attempt)], attempts.c.cancel_requested, at)

    def mark_all_cancel_requested(self, asked: Sequence[tuple[str, int]], at: datetime) -> None:
        """The same for many attempts, (run, attempt) each."""
        self._mark(asked, attempts.c.cancel_requested, at)

    def mark_lost(self, run: str, attempt: int, reason: Reason) -> AttemptRow:
        """Nothing more is expected of it; an attempt that has ended stays as it is. The attempt as it then stands."""
        return self._end(run, attempt, State.LOST, reason, sent=True)

    def end_undispatched(self, run: str, attempt: int, state: State, reason: Reason | None = None) -> AttemptRow:
        """End an attempt whose order was never sent; one that was is left alone. The attempt as it then stands."""
        return self._end(run, attempt, state, reason, sent=False)

    def mark_purged(self, run: str, attempt: int, reason: Reason) -> AttemptRow:
        """Its order was taken out of the node's queue, so it never runs; an attempt that has ended stays as it is."""
        return self._end(run, attempt, State.CANCELLED, reason, sent=True, entry="purged")

    # Events

    def record_events(self, said: Sequence[TaskEvent]) -> tuple[list[TaskEvent], list[TaskEvent]]:
        """Store events in one transaction and fold them into the states of their attempts and runs.

        Returns those that are new, each once, in the order given, and those of no run or attempt that stands here.
        """
        firsts: dict[tuple[str, int, int], TaskEvent] = {}
        unknown, received = [], now()
        with self._db.write() as db:
            known = standing(db, {str(event.run) for event in said})
            for event in said:
                if is_of(known.get((str(event.run), event.attempt)), event):
                    firsts.setdefault(_place(event), event)
                else:
                    unknown.append(event)
            stored = self._insert(db, firsts, received)
            new = [event for place, event in firsts.items() if place in stored]
            for place, group in groupby(sorted(new, key=_place), lambda event: _place(event)[:2]):
                fold(db, known[place], list(group))
        return new, unknown

    def events_of(self, run: str, attempt: int, *, after: int = 0) -> list[TaskEvent]:
        """The events of an attempt with a number above `after`, in order."""
        return [event for page in self._pages(run, attempt, after) for event in page]

    def events_after(self, heard: Mapping[tuple[str, int], int]) -> list[TaskEvent]:
        """For each (run, attempt) its events with a number above the given one, in order; those of one attempt together."""
        found: list[TaskEvent] = []
        for chunk in _chunks([run for run, _ in heard]):
            with self._db.read() as db:
                rows = db.execute(
                    select(events.c.run, events.c.attempt, events.c.number, events.c.body)
                    .where(events.c.run.in_(chunk)).order_by(events.c.run, events.c.attempt, events.c.number)
                ).all()  # fmt: skip
            found += [
                TaskEvent.model_validate_json(row.body)
                for row in rows
                if row.number > heard.get((row.run, row.attempt), LARGEST_NUMBER)
            ]  # fmt: skip
        return found

    def log_lines(self, execution: str, *, node: str | None = None, after: int = 0) -> Iterator[LogLine]:
        """The log lines of the runs' current attempts, run by run; of each only events with a number above `after`."""
        for run in self.runs_of(execution):
            if node in (None, run.node):
                for page in self._pages(run.id, run.attempt, after):
                    for event in page:
                        yield from (LogLine(run.node, event.number, event.at, line) for line in event.lines)

    # Nodes

    def enrol_node(self, name: str, *, public_key: str, display_name: str = "") -> NodeRow:
        """Write a node; what is given replaces what stood there, and a retired one is taken back.

        A key that it did not have is its only one from then on; to change keys without a gap is `keys.add`'s.
        """
        given = {"public_key": public_key, "display_name": display_name or name, "retired": None}
        with self._db.write() as db:
            insert = self._db.insert(nodes).values(name=name, enrolled=now(), **given)
            db.execute(insert.on_conflict_do_update(index_elements=[nodes.c.name], set_=given))
            row = _as(NodeRow, db.execute(select(nodes).where(nodes.c.name == name)).one())
            if not public_key or admit(db, name, public_key):
                withdraw(db, name, "replaced when the node was enrolled again", but=public_key)
            self.audit.append(db, "enrolled", node=name, public_key=public_key, display_name=display_name)
            return row

    def retire_node(self, name: str) -> None:
        """It gets no more orders. One that is unknown is refused (`unknown-node`)."""
        with self._db.write() as db:
            if db.execute(update(nodes).where(nodes.c.name == name, nodes.c.retired.is_(None)).values(retired=now())).rowcount:
                self.audit.append(db, "retired", node=name)
                return
            if db.execute(select(nodes.c.name).where(nodes.c.name == name)).first() is None:
                raise RecordsRefused(f"node {name!r} is not enrolled", code="unknown-node", remedy="see `fem nodes`")

    def mark_paused(self, name: str, since: datetime | None) -> None:
        """Since when the node takes no orders by the centre's wish; None once it does again."""
        with self._db.write() as db:
            db.execute(update(nodes).where(nodes.c.name == name).values(paused=since))
            self.audit.append(db, "paused" if since else "resumed", node=name)

    def node(self, name: str) -> NodeRow | None:
        """The node, or None."""
        with self._db.read() as db:
            row = db.execute(select(nodes).where(nodes.c.name == name)).first()
        return _as(NodeRow, row) if row else None

    def nodes(self) -> list[NodeRow]:
        """All nodes by name, the retired among them."""
        with self._db.read() as db:
            return [_as(NodeRow, row) for row in db.execute(select(nodes).order_by(nodes.c.name))]

    def heard(self, heartbeats: Iterable[Heartbeat], at: datetime) -> None:
        """Nodes were heard at `at`, by the centre's clock; of each the last in the list counts. Others than enrolled ones are left out."""
        last = {beat.node: beat for beat in heartbeats}
        values = [{"of": name, "seen": at, "said": last[name].model_dump_json()} for name in sorted(last)]
        if not values:
            return
        with self._db.write() as db:
            db.execute(
                update(nodes)
                .where(nodes.c.name == bindparam("of"), nodes.c.retired.is_(None))
                .values(last_seen=bindparam("seen"), heartbeat=bindparam("said")),
                values,
            )

    def _executions(self, wanted: ColumnElement[bool], limit: int) -> list[ExecutionRow]:
        newest_first = select(executions).where(wanted).order_by(executions.c.created.desc(), executions.c.id).limit(limit)
        with self._db.read() as db:
            return [_as(ExecutionRow, row) for row in db.execute(newest_first)]

    def _runs(self, wanted: ColumnElement[bool]) -> list[RunRow]:
        with self._db.read() as db:
            rows = db.execute(select(run_table).where(wanted).order_by(run_table.c.task, run_table.c.node))
            return [_as(RunRow, row) for row in rows]

    def _mark(self, which: Sequence[tuple[str, int]], column: Column[Any], at: datetime) -> None:
        if not which:
            return
        with self._db.write() as db:
            of = (attempts.c.run == bindparam("of"), attempts.c.attempt == bindparam("number"), column.is_(None))
            db.execute(update(attempts).where(*of).values({column: at}), [{"of": run, "number": attempt} for run, attempt in which])

    def _end(self, run: str, attempt: int, state: State, reason: Reason | None, *, sent: bool, entry: str = "") -> AttemptRow:
        with self._db.write() as db:
            row = standing(db, [run]).get((run, attempt))
            if row is None:
                raise RecordsRefused(f"run {run} has no attempt {attempt}", code="unknown-attempt")
            if not row.state.terminal and (sent or row.dispatched is None):
                set_state(db, row, state, now(), reason, None, row.last_number)
            ended = _as(AttemptRow, db.execute(_ATTEMPT, {"of_run": run, "of_attempt": attempt}).one())
            if entry:
                self.audit.append(db, entry, run=run, attempt=attempt)
        return ended

    def _insert(self, db: Connection, said: Mapping[tuple[str, int, int], TaskEvent], received: datetime) -> set[tuple[str, int, int]]:
        """Store events; the places of those that were not there."""
        if not said:
            return set()
        values = [
            {"run": run, "attempt": attempt, "number": number, "at": event.at, "received": received, "state": event.state,
             "body": event.model_dump_json()}
            for (run, attempt, number), event in said.items()
        ]  # fmt: skip
        insert = self._db.insert(events).on_conflict_do_nothing().returning(events.c.run, events.c.attempt, events.c.number)
        return {(row.run, row.attempt, row.number) for row in db.execute(insert, values)}

    def _pages(self, run: str, attempt: int, after: int) -> Iterator[list[TaskEvent]]:
        """Events in order, each page in a transaction of its own: a slow reader holds nothing up."""
        while True:
            of = (events.c.run == run, events.c.attempt == attempt, events.c.number > after)
            with self._db.read() as db:
                page = db.execute(select(events.c.number, events.c.body).where(*of).order_by(events.c.number).limit(PAGE)).all()
            yield [TaskEvent.model_validate_json(row.body) for row in page]
            if len(page) < PAGE:
                return
            after = page[-1].number


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK))


def _place(event: TaskEvent) -> tuple[str, int, int]:
    return str(event.run), event.attempt, event.number


def _as(kind: type[_R], row: Row[Any]) -> _R:
    return kind(**row._mapping)
