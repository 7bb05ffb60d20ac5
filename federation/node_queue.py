"""A node's queues as an operator handles them: how they stand, what is taken out of them, and whether the node takes from them."""

from __future__ import annotations

import logging
import queue
from dataclasses import dataclass

from fdn_worker.brokers import Delivery, Depth
from fdn_worker.errors import Fault, FdnError, MessageError, SystemFault
from fdn_worker.protocol import Reason, TaskOrder, decode, now
from fdn_worker.protocol.names import command_queue, control_queue, dead_letter_queue
from federation.centre import Centre
from federation.inquiry import ask
from storage.records import RecordsRefused

log = logging.getLogger(__name__)

#: Seconds that a node has to stop taking orders, or to begin again.
PATIENCE = 30.0
#: Seconds without a delivery after which a queue that says it is empty is taken to be.
QUIET = 1.0


@dataclass(frozen=True)
class NodeQueue:
    """One of a node's queues; `depth` is None where the broker has none."""

    name: str
    what: str
    depth: Depth | None


class IntakeRefused(FdnError):
    """A node does not let the centre pause it."""

    code = "intake-refused"
    fault = Fault.POLICY


def queues(centre: Centre, node: str) -> list[NodeQueue]:
    """The node's queues as they stand."""
    named = (
        (command_queue, "orders"),
        (control_queue, "control requests and answers"),
        (dead_letter_queue, "what the node could not read"),
    )
    return [NodeQueue(name(node), what, centre.broker.depth(name(node))) for name, what in named]


def purge(centre: Centre, node: str) -> list[TaskOrder]:
    """Take the waiting orders out of the node's queue; their attempts end as CANCELLED, reason purged. What the node has is not touched.

    Each is ended in the records first and then taken out, so one that is cut off in between is purged by the next.
    """
    came: queue.Queue[Delivery] = queue.Queue()
    subscription = centre.broker.consume(command_queue(node), came.put)
    purged: list[TaskOrder] = []
    try:
        while True:
            try:
                delivery = came.get(timeout=QUIET)
            except queue.Empty:
                depth = centre.broker.depth(command_queue(node))
                if depth is None or not depth.messages:
                    break
            else:
                purged += _taken(centre, node, delivery)
    finally:
        subscription.cancel()
        # Whatever came as it was cancelled would go to nobody else until this connection closes.
        while not came.empty():
            purged += _taken(centre, node, came.get_nowait())
    return purged


def _taken(centre: Centre, node: str, delivery: Delivery) -> list[TaskOrder]:
    try:
        order = decode(centre.own_keys().open(delivery.body).payload)
        if not isinstance(order, TaskOrder):
            raise MessageError(f"a {order.kind} is no order")
    except MessageError as error:
        log.warning("a message in the queue of %s is no order of this centre: %s", node, error, extra={"action": "dead-letter"})
        delivery.reject()
        return []
    reason = Reason(code="purged", fault=Fault.USER, message="an operator emptied the node's queue before it was taken")
    try:
        centre.records.mark_purged(str(order.run), order.attempt, reason)
    except RecordsRefused as error:
        log.warning("order %s is of nothing that is known here: %s", order.name, error, extra={"action": "purge-unknown"})
    delivery.ack()
    return [order]


async def set_intake(centre: Centre, node: str, *, pause: bool) -> None:
    """Have the node take no more orders, or take them again; it holds over restarts. SystemFault if it does not answer."""
    answer = (await ask(centre, [node], "intake", seconds=PATIENCE, action="pause" if pause else "resume")).get(node)
    if answer is None:
        raise SystemFault(f"node {node} did not answer, so nothing changed", remedy="see `fem nodes`, and try again once it is connected")
    if answer.refused is not None:
        raise IntakeRefused(f"node {node}: {answer.refused.message}", remedy="ask the site's administrator")
    centre.records.mark_paused(node, now() if pause else None)
