"""The centre: everything a federated task needs, without Prefect. The flow's four tasks are thin calls of these.

Each step may be taken again: ids are derived, what was written stands, and the order that was recorded is sent as it is.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

from fdn_worker.brokers import Binding, Broker, Queue, connect
from fdn_worker.brokers.lanes import Lanes
from fdn_worker.errors import Fault, FdnError, Unroutable
from fdn_worker.protocol import ControlRequest, InputFile, Keyring, Reason, Signer, State, TaskOrder, decode, now, pack
from fdn_worker.protocol.envelope import payload_of
from fdn_worker.protocol.names import EXECUTIONS, command_queue, control_queue, execution_id, execution_queue, run_id
from federation.nearest import unknown
from federation.relay import Relay
from federation.request import BadRequest, TaskRequest
from federation.settings import CentreSettings
from federation.shipping import ship
from federation.tracing import Traces
from storage.keys import input_key
from storage.objects import ObjectStore, open_store
from storage.records import AttemptRow, Records

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds without a consumer after which a follower's queue goes away: the records have what it would have held.
FOLLOWER_EXPIRES = 3600.0
#: Ends after which a person's retry asks for a new attempt.
RETRIED = frozenset({State.FAILED, State.LOST, State.CANCELLED, State.REJECTED})


class NodeUnknown(FdnError):
    """No such node is enrolled."""

    code = "node-unknown"
    fault = Fault.USER


@dataclass(frozen=True)
class Submission:
    """A run of an execution and the attempt of it that counts now."""

    execution: UUID
    run: UUID
    task: str
    node: str
    attempt: int
    #: Attempts that faults of the infrastructure may still use up.
    retries: int = 0


class Centre:
    """Broker, store, records, signer and relay of one process. Safe from any thread."""

    def __init__(self, settings: CentreSettings, broker: Broker, store: ObjectStore, records: Records, signer: Signer) -> None:
        self.settings, self.broker, self.store, self.records, self.signer = settings, broker, store, records, signer
        self.traces = Traces(settings.trace_endpoint)
        self._relay: Relay | None = None
        self._lanes = Lanes("centre-lane")
        self._lock = threading.Lock()

    @classmethod
    def open(cls, settings: CentreSettings) -> Centre:
        """Connect; nothing is sent yet."""
        if settings.embedded:
            settings.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = open_store(settings.store_url.get_secret_value(), site_url=settings.store_site_url)
        signer = Signer.load(settings.key_id, settings.key) if settings.key else Signer()
        records = Records.open(settings.records_url.get_secret_value(), signer)
        return cls(settings, connect(settings.broker_url.get_secret_value(), name="fem"), store, records, signer)

    def own_keys(self) -> Keyring:
        """The keys by which this centre signs, and signed before."""
        own = {self.signer.key_id: self.signer.public_key()} if self.signer.key else {}
        return Keyring(self.settings.former_keys | own, unsigned_ok=self.signer.key is None)

    def relay(self, on_news: Callable[[set[str]], None] | None = None) -> Relay:
        """A relay on this centre's connections, not yet started; see there for `on_news`."""
        files, unsigned_ok = connect(self.settings.broker_url.get_secret_value(), name="fem files"), self.settings.embedded
        return Relay(self.broker, self.records, self.store, self.signer, unsigned_ok=unsigned_ok, files=files, on_news=on_news)

    def ensure_relay(self) -> None:
        """Have a relay in this process, unless a service does its work."""
        with self._lock:
            if self._relay is None and self.settings.relay == "process":
                relay = self.relay()
                relay.start()
                self._relay = relay

    def close(self) -> None:
        """Stop the relay and close the connections."""
        if self._relay is not None:
            self._relay.stop()
            self._relay = None
        self.broker.close()
        self.traces.close()
        self.store.close()
        self.records.close()

    # Stage-in

    def stage_in(self, request: TaskRequest, key: str, *, new_attempt: bool = False, flow_run: str = "") -> Submission:
        """Check the request, put its inputs into the store, write the record and the first order. Nothing is sent.

        The same user and key give the execution that stands already; another request under that key is refused.
        With `new_attempt` a run that ended otherwise than in success gets its next attempt (a person's retry).
        `flow_run` is the Prefect flow run that wants it, if that is to be on record.
        """
        execution = execution_id(request.user, key)
        run = run_id(execution, request.task, request.node)
        standing = self.records.run(str(run))
        # A crash may have come between the record and its first order.
        if standing is None or standing.attempt == 0:
            self._first(request, key, execution, run, flow_run)
            attempt = 1
        else:
            # The same request? Raises if not.
            self._record(request, key, execution, run, flow_run)
            attempt = standing.attempt
            if new_attempt and State(standing.state) in RETRIED:
                attempt += 1
                self.order_again(run, attempt)
        return Submission(execution, run, request.task, request.node, attempt, max(0, request.retries + 1 - attempt))

    def check(self, request: TaskRequest, key: str = "") -> TaskOrder:
        """The first order of the request, or the error that it would meet. Nothing is stored or sent."""
        self.enrolled([request.node])
        execution = execution_id(request.user, key)
        run = run_id(execution, request.task, request.node)
        files = [described(request.task, execution, name, path) for name, path in request.files().items()]
        return request.order(execution, run, 1, tuple(files), now())

    def enrolled(self, nodes: Sequence[str]) -> None:
        """Raise NodeUnknown for the first of these that is not enrolled."""
        known = {row.name for row in self.records.nodes() if row.retired is None}
        for node in nodes:
            if node not in known:
                raise NodeUnknown(
                    f"node {node!r} is not enrolled", remedy=unknown(node, known, "enrolled are") or "enrol it: `fem nodes enrol`"
                )

    def _first(self, request: TaskRequest, key: str, execution: UUID, run: UUID, flow_run: str) -> None:
        order = self.check(request, key)
        files = {item.name: item for item in order.inputs}
        begin, stored = now(), list[str]()
        try:
            for name, path in request.files().items():
                item = files[name]
                stored.append(item.where)
                with path.open("rb") as source:
                    self.store.put(item.where, source, item.size)
            (order,) = self.made_ready([order], always=request.ship_source)
            if order.source and order.source.pack:
                stored.append(order.source.pack.where)
            self._record(request, key, execution, run, flow_run)
        except BaseException:
            # Nothing half-done stays behind, not even on Ctrl-C; unless the record stands, and with it a claim on them.
            if stored and self.records.run(str(run)) is None:
                self.store.delete(stored)
            raise
        self._write(order)
        self.traces.staged([order], begin)

    def made_ready(self, orders: Sequence[TaskOrder], *, always: bool = False) -> list[TaskOrder]:
        """The orders with their time for the release, and their trace.

        Those for nodes that reach no Git server (or all, with `always`) have their source in the store.
        """
        timed = [order.model_copy(update={"release_within": self.settings.release, "trace": self.traces.of(order.run)}) for order in orders]
        return ship(timed, self.records, self.store, always=always, allow_file=self.settings.source_allow_file)

    def _record(self, request: TaskRequest, key: str, execution: UUID, run: UUID, flow_run: str) -> None:
        self.records.create_execution(
            str(execution), user=request.user, project=request.project, tool=request.tool, key=key,
            request_json=request.model_dump_json(), runs=[(str(run), request.task, request.node)], flow_run=flow_run or None,
        )  # fmt: skip

    def _write(self, order: TaskOrder) -> None:
        self.records.add_attempt(
            str(order.run), order.attempt, order_body=pack(order, self.signer), issued=order.issued, deadline=order.deadline
        )  # fmt: skip

    def order_again(self, run: UUID, attempt: int, **changes: Any) -> None:
        """Write the order of the next attempt: as the last one but for `changes`, with a deadline as far away."""
        last = self.order(run, attempt - 1)
        issued = now()
        deadline = issued + (last.deadline - last.issued)
        self._write(last.model_copy(update={"attempt": attempt, "issued": issued, "deadline": deadline, **changes}))

    def order(self, run: UUID, attempt: int) -> TaskOrder:
        """The order of an attempt, as it was or will be sent."""
        order = decode(payload_of(self.attempt(run, attempt).order_body))
        assert isinstance(order, TaskOrder)
        return order

    def attempt(self, run: UUID, attempt: int) -> AttemptRow:
        """The record of an attempt that is known to stand."""
        row = self.records.attempt(str(run), attempt)
        if row is None:
            raise BadRequest(f"run {run} has no attempt {attempt}")
        return row

    def submissions(self, execution: UUID) -> list[Submission]:
        """The runs of an execution, each with the attempt that counts now."""
        return [Submission(execution, UUID(row.id), row.task, row.node, row.attempt) for row in self.records.runs_of(str(execution))]

    # Dispatch

    def dispatch(self, submission: Submission) -> bool:
        """Send the order, once: False when it was sent before. The follower's queue stands first, so nothing is missed."""
        self.listen(submission.execution)
        row = self.attempt(submission.run, submission.attempt)
        if row.dispatched is not None or State(row.state).terminal:
            return False
        begin, message_id = now(), f"{submission.run}.{submission.attempt}"
        self.broker.publish(row.order_body, key=command_queue(submission.node), message_id=message_id)
        self.traces.dispatched(row.order_body, begin)
        self.records.mark_dispatched(str(submission.run), submission.attempt, now())
        return True

    def dispatch_all(self, submissions: Sequence[Submission], execution: UUID) -> int:
        """Send the orders of these runs of an execution, each once, side by side; how many were sent. What was sent is recorded even if one fails."""
        rows = {row.run: row for _, row in self.records.current_attempts(str(execution))}
        due = [(one, rows[str(one.run)]) for one in submissions if str(one.run) in rows]
        due = [(one, row) for one, row in due if row.dispatched is None and not State(row.state).terminal and row.attempt == one.attempt]
        sent: list[tuple[str, int]] = []

        def send(pair: tuple[Submission, AttemptRow]) -> None:
            (one, row), begin = pair, now()
            self.broker.publish(row.order_body, key=command_queue(one.node), message_id=f"{one.run}.{one.attempt}")
            self.traces.dispatched(row.order_body, begin)
            sent.append((row.run, row.attempt))

        try:
            self.side_by_side(due, send)
        finally:
            self.records.mark_all_dispatched(sent, now())
        return len(sent)

    def side_by_side(self, items: Sequence[T], handle: Callable[[T], None]) -> None:
        """Handle each, several at a time; the first error is raised once the others have ended."""
        self._lanes.run(items, lambda item: str(id(item)), handle)

    def listen(self, execution: UUID, follower: str = "wait") -> str:
        """Have a queue that gets the execution's events; its name."""
        self.ensure_relay()
        name = execution_queue(execution, follower)
        self.broker.declare(Queue(name, expires=FOLLOWER_EXPIRES, replicated=False), Binding(EXECUTIONS, name, str(execution)))
        return name

    # Control

    def control(self, run: UUID, attempt: int, action: str, why: str = "") -> None:
        """Ask the node of an attempt to cancel it, or to report its state."""
        self._control(self.order(run, attempt), action, why)

    def _control(self, order: TaskOrder, action: str, why: str) -> None:
        # A tombstone must outlive the order that it waits for.
        deadline = max(order.deadline, now() + timedelta(hours=1))
        request = ControlRequest(
            request=uuid4(), action=action, execution=order.execution, task=order.task, node=order.node, run=order.run,
            attempt=order.attempt, issued=now(), deadline=deadline, why=why,
        )  # fmt: skip
        self.broker.publish(pack(request, self.signer), key=control_queue(order.node), message_id=request.message_id)

    def cancel(self, execution: UUID, why: str, *, task: str | None = None) -> list[UUID]:
        """Ask every node of the execution, or of one task of it, to end what it has; the runs that were asked for. Idempotent."""
        live = [row for _, row in self.records.current_attempts(str(execution), task) if not State(row.state).terminal]
        for row in live:
            if row.dispatched is None:
                self.records.end_undispatched(row.run, row.attempt, State.CANCELLED)
        if live:
            self.records.audit.write("cancelled", execution=str(execution), task=task, why=why, runs=[row.run for row in live])
        # Of all: an order that is on its way is marked as sent only then, and a node minds what it was told of one that has yet to come.
        self.records.mark_all_cancel_requested([(row.run, row.attempt) for row in live], now())

        def ask(row: AttemptRow) -> None:
            order = decode(payload_of(row.order_body))
            assert isinstance(order, TaskOrder)
            try:
                self._control(order, "cancel", why)
            except Unroutable:
                # The node was retired: it ends nothing any more, and nobody is to wait for its word.
                log.warning("no cancel for %s: node %s is retired", order.name, order.node, extra={"action": "cancel-unroutable"})
                self.lose(Submission(order.execution, order.run, order.task, order.node, order.attempt), f"node {order.node} is retired")

        self.side_by_side(live, ask)
        return [UUID(row.run) for row in live]

    def lose(self, submission: Submission, message: str) -> None:
        """Nothing more is expected of the attempt; a later word of the node still counts."""
        reason = Reason(code="lost", fault=Fault.INFRASTRUCTURE, message=message)
        self.records.mark_lost(str(submission.run), submission.attempt, reason)


def described(task: str, execution: UUID, name: str, path: Path) -> InputFile:
    """An input of the submitter's machine, hashed, with the key that it is to have in the store."""
    try:
        with path.open("rb") as source:
            digest = hashlib.file_digest(source, "sha256").hexdigest()
            size = source.tell()
        return InputFile(name=name, size=size, sha256=digest, where=input_key(execution, task, name))
    except OSError as error:
        raise BadRequest(f"input {path}: {error.strerror}", remedy="mend its path") from error
    except ValueError as error:
        raise BadRequest(f"input {name}: {error}") from error
