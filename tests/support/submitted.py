"""An execution in the records, as the centre would have written it, and events of its runs."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from fdn_worker.protocol import State, TaskEvent
from fdn_worker.protocol.names import execution_id, run_id
from storage.records import Records

#: When its attempts were issued; events come so many seconds later as their number says.
NOON = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


class Submitted:
    """An execution with a run of task `mean` at each node, each with its first attempt."""

    def __init__(self, records: Records, *nodes: str, key: str = "", attempt: bool = True) -> None:
        self.records, self.key = records, key or uuid.uuid4().hex
        self.id = execution_id("ada", self.key)
        self.runs = {node: str(run_id(self.id, "mean", node)) for node in nodes or ("site-a",)}
        self.create()
        self.run = next(iter(self.runs.values()))
        for run in self.runs.values() if attempt else ():
            self.add(1, run=run)

    def create(self, request: str = '{"argv": ["mean"], "cpus": 1}', user: str = "ada") -> bool:
        runs = [(run, "mean", node) for node, run in self.runs.items()]
        row, created = self.records.create_execution(
            str(self.id), user=user, project="p", tool="t", key=self.key, request_json=request, runs=runs
        )
        assert row.id == str(self.id)
        return created

    def add(self, attempt: int, *, run: str = "", body: bytes = b"order") -> bytes:
        row = self.records.add_attempt(run or self.run, attempt, order_body=body, issued=NOON, deadline=NOON + timedelta(hours=1))
        assert (row.issued, row.deadline) == (NOON, NOON + timedelta(hours=1))
        return row.order_body

    def event(self, number: int, state: State | None = None, *, attempt: int = 1, node: str = "", **more: Any) -> TaskEvent:
        node = node or next(iter(self.runs))
        fields = {"execution": self.id, "task": "mean", "node": node, "run": uuid.UUID(self.runs[node]), "attempt": attempt, **more}
        return TaskEvent(number=number, state=state, at=NOON + timedelta(seconds=number), **fields)

    def states(self, attempt: int = 1) -> tuple[State, State]:
        """Of the first run and of its attempt."""
        run, of = self.records.run(self.run), self.records.attempt(self.run, attempt)
        assert run
        assert of
        return run.state, of.state
