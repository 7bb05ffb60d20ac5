"""Asking nodes: an inquiry to each over its control queue, and their answers over the relay. Nothing of it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

from fdn_worker.brokers import Binding, Delivery, Queue
from fdn_worker.protocol import Answer, Inquiry, TaskOrder, decode, now, pack
from fdn_worker.protocol.names import EXECUTIONS, control_queue, execution_queue
from federation.centre import Centre

#: Seconds that nodes have to answer.
PATIENCE = 10.0


async def ask(
    centre: Centre, nodes: Sequence[str], about: str, *, seconds: float = PATIENCE, orders: Mapping[str, Sequence[TaskOrder]] | None = None,
    heard: Callable[[Answer], None] = lambda _: None, **fields: Any,
) -> dict[str, Answer]:  # fmt: skip
    """Node -> its answer. A node that is not there does not answer, and is missing; one that is not enrolled raises Unroutable.

    `orders` are those of each node, for `about="plan"`; `fields` are the Inquiry's others. `heard` is called as each answer comes.
    """
    if not nodes:
        return {}
    request, loop, inbox = uuid4(), asyncio.get_running_loop(), asyncio.Queue[Answer]()

    def hear(delivery: Delivery) -> None:
        answer = decode(delivery.body)
        if isinstance(answer, Answer):
            loop.call_soon_threadsafe(inbox.put_nowait, answer)
        delivery.ack()

    queue = await asyncio.to_thread(_listen, centre, request, seconds)
    subscription = await asyncio.to_thread(centre.broker.consume, queue, hear)
    answers: dict[str, Answer] = {}
    try:
        async with asyncio.timeout(seconds):
            inquiries = [
                Inquiry(
                    request=request, node=node, issued=now(), deadline=now() + timedelta(seconds=seconds), about=about,
                    orders=tuple((orders or {}).get(node, ())), **fields,
                )
                for node in nodes
            ]  # fmt: skip
            await asyncio.to_thread(_send, centre, inquiries)
            while len(answers) < len(nodes):
                answer = await inbox.get()
                if answer.node in nodes:
                    answers[answer.node] = answer
                    heard(answer)
    except TimeoutError:
        pass  # who did not answer is missing
    finally:
        subscription.cancel()
        await asyncio.to_thread(centre.broker.delete, Queue(queue))
    return answers


def _listen(centre: Centre, request: UUID, seconds: float) -> str:
    centre.ensure_relay()
    queue = execution_queue(request, "ask")
    centre.broker.declare(Queue(queue, expires=2 * seconds + 60.0, replicated=False), Binding(EXECUTIONS, queue, str(request)))
    return queue


def _send(centre: Centre, inquiries: Sequence[Inquiry]) -> None:
    def send(inquiry: Inquiry) -> None:
        centre.broker.publish(
            pack(inquiry, centre.signer), key=control_queue(inquiry.node), message_id=inquiry.message_id, durable=False
        )  # fmt: skip

    centre.side_by_side(inquiries, send)
