"""Simulated nodes: they take orders from a real broker and answer as a worker would, but run nothing.

For tests and benchmarks of a centre with hundreds of nodes: `python -m federation.simulated BROKER KEYS`, or the class
in a process that has other things to do.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID, uuid4

from fdn_worker import __version__
from fdn_worker.brokers import Broker, Delivery, Subscription, connect
from fdn_worker.errors import Fault
from fdn_worker.protocol import (
    Answer,
    ControlRequest,
    Endpoint,
    Heartbeat,
    Inquiry,
    OrderPlan,
    Reason,
    Report,
    Signer,
    State,
    TaskEvent,
    TaskOrder,
    decode,
    now,
    pack,
)
from fdn_worker.protocol.envelope import payload_of
from fdn_worker.protocol.names import BEAT_KEY, EVENT_KEY, command_queue, control_queue, event_exchange

#: Nodes on one pair of connections: each consumer has a channel, and a connection takes some two thousand.
ON_ONE_CONNECTION = 500
#: Seconds between heartbeats.
INTERVAL = 10.0

#: What a node says of an order: a state, with log lines or a reason; an order that never ends just stops.
Step = State | str | Reason | Endpoint
Behaviour = Callable[[TaskOrder], Sequence[Step]]


def succeed(_order: TaskOrder) -> Sequence[Step]:
    """As a worker does for a task that ends well."""
    return State.ACCEPTED, State.STAGING_IN, State.RUNNING, State.STAGING_OUT, State.SUCCEEDED


def fail(_order: TaskOrder) -> Sequence[Step]:
    """A task that ends with exit code 1."""
    return State.ACCEPTED, State.RUNNING, Reason(code="exit-code", fault=Fault.USER, message="the task ended with exit code 1")


def break_down(_order: TaskOrder) -> Sequence[Step]:
    """A node whose launcher does not answer."""
    return State.ACCEPTED, Reason(code="launcher-unavailable", fault=Fault.INFRASTRUCTURE, message="Docker does not answer")


def hang(_order: TaskOrder) -> Sequence[Step]:
    """A task that runs until it is cancelled."""
    return State.ACCEPTED, State.RUNNING


class SimulatedNodes:
    """Use as a context. Each node behaves by `behave`; a cancel ends whatever has not ended. The nodes must be enrolled."""

    def __init__(
        self, broker_url: str, nodes: Sequence[str], behave: Behaviour = succeed, signer: Callable[[str], Signer] | None = None
    ) -> None:
        self._url, self.nodes, self.behave, self._signer = broker_url, tuple(nodes), behave, signer or (lambda _: Signer())
        self._brokers: list[Broker] = []
        self._of: dict[str, Broker] = {}
        self._subscriptions: list[Subscription] = []
        self._pool = ThreadPoolExecutor(16, thread_name_prefix="simulated")
        self._stop = threading.Event()
        self._beating = threading.Thread(target=self._keep_beating, name="simulated-beats", daemon=True)
        self._lock = threading.Lock()
        #: Orders by run and attempt, with the number of the last event and whether it has ended.
        self._taken: dict[tuple[UUID, int], list[int | bool]] = {}
        #: All orders that came, also those that came again.
        self.orders: list[TaskOrder] = []
        self._session, self._beats = uuid4(), 0

    def __enter__(self) -> SimulatedNodes:
        for start in range(0, len(self.nodes), ON_ONE_CONNECTION):
            commands, controls = connect(self._url, name="simulated"), connect(self._url, name="simulated")
            self._brokers += [commands, controls]
            for node in self.nodes[start : start + ON_ONE_CONNECTION]:
                self._of[node] = commands
                self._subscriptions.append(commands.consume(command_queue(node), self._on_order))
                self._subscriptions.append(controls.consume(control_queue(node), self._on_control))
        self.beat()
        self._beating.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._beating.join()
        for subscription in self._subscriptions:
            subscription.cancel()
        self._pool.shutdown(cancel_futures=True)
        for broker in self._brokers:
            broker.close()

    def _keep_beating(self) -> None:
        while not self._stop.wait(INTERVAL):
            self.beat()

    def beat(self) -> None:
        """One heartbeat of each node."""
        self._beats += 1
        list(self._pool.map(self._beat, self.nodes))

    def _beat(self, node: str) -> None:
        beat = Heartbeat(
            node=node, session=self._session, number=self._beats, at=now(), interval=INTERVAL, worker_version=__version__,
            launchers=("process",), slots=4, slots_free=4, address="127.0.0.1",
        )  # fmt: skip
        self._of[node].publish(
            pack(beat, self._signer(node)), exchange=event_exchange(node), key=BEAT_KEY, message_id=beat.message_id, mandatory=False,
            durable=False,
        )  # fmt: skip

    def _on_order(self, delivery: Delivery) -> None:
        order = decode(payload_of(delivery.body))
        delivery.ack()
        if isinstance(order, TaskOrder):
            with self._lock:
                self.orders.append(order)
                fresh = self._taken.setdefault((order.run, order.attempt), [0, False])[0] == 0
            if fresh:
                self._pool.submit(self._say_all, order, self.behave(order))

    def _on_control(self, delivery: Delivery) -> None:
        message = decode(payload_of(delivery.body))
        delivery.ack()
        if isinstance(message, Inquiry):
            self._pool.submit(self._answer, message)
        elif isinstance(message, ControlRequest) and message.action == "cancel":
            known = [order for order in self.orders if (order.run, order.attempt) == (message.run, message.attempt)]
            for order in known[:1]:
                self._pool.submit(self._say_all, order, [State.CANCELLED])

    def _answer(self, inquiry: Inquiry) -> None:
        plans = tuple(OrderPlan(task=order.task, accepts=True, launcher="process") for order in inquiry.orders)
        answer = Answer(
            request=inquiry.request,
            node=inquiry.node,
            at=now(),
            about=inquiry.about,
            plans=plans,
            slots=4,
            slots_free=4,
            address="127.0.0.1",
        )
        self._publish(inquiry.node, pack(answer, self._signer(inquiry.node)), answer.message_id)

    def _say_all(self, order: TaskOrder, steps: Sequence[Step]) -> None:
        for event in self._events(order, steps):
            self._publish(order.node, pack(event, self._signer(order.node)), event.message_id)

    def _events(self, order: TaskOrder, steps: Sequence[Step]) -> Iterator[TaskEvent]:
        for step in steps:
            with self._lock:
                taken = self._taken[order.run, order.attempt]
                if taken[1]:
                    return
                taken[0] += 1
                number = int(taken[0])
                ends = isinstance(step, Reason) or (isinstance(step, State) and step.terminal)
                taken[1] = ends
            state = step if isinstance(step, State) else State.FAILED if isinstance(step, Reason) else None
            yield TaskEvent(
                execution=order.execution, task=order.task, node=order.node, run=order.run, attempt=order.attempt, number=number, at=now(),
                state=state, lines=(step,) if isinstance(step, str) and state is None else (), reason=step if isinstance(step, Reason) else None,
                report=Report(launcher="process", exit_code=0) if ends else None, listening=(step,) if isinstance(step, Endpoint) else (),
            )  # fmt: skip

    def _publish(self, node: str, body: bytes, message_id: str) -> None:
        self._of[node].publish(body, exchange=event_exchange(node), key=EVENT_KEY, message_id=message_id)


def main() -> None:
    """`BROKER KEYS` and a node's name on each line of standard input: serve until SIGTERM or SIGINT. KEYS is a folder with NODE.key, or -."""
    broker, keys = sys.argv[1:]
    nodes = sys.stdin.read().split()
    signers = {node: Signer() if keys == "-" else Signer.load(node, Path(keys) / f"{node}.key") for node in nodes}
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with SimulatedNodes(broker, nodes, signer=signers.__getitem__):
        sys.stdout.write("up\n")
        sys.stdout.flush()
        stop.wait()


if __name__ == "__main__":
    main()
