"""The node's requests to the relay: each is sent until it is answered, and the answer finds who waits for it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from fdn_worker.brokers import Broker
from fdn_worker.errors import Fault, FdnError, ObjectMissing, PolicyRefused, StoreUnavailable, TaskFailed
from fdn_worker.protocol import Completed, Grant, Refusal, Signer, Taken, pack
from fdn_worker.protocol.names import EVENT_KEY, event_exchange
from fdn_worker.protocol.upload import OfAttempt
from fdn_worker.way import Stopped

log = logging.getLogger(__name__)

#: Seconds to wait for the relay's answer before asking again; doubles up to the longest.
FIRST_ANSWER, LONGEST_ANSWER = 10.0, 120.0


@dataclass(frozen=True)
class Stretch:
    """What a Fetch is answered with, once all its chunks have come."""

    request: UUID
    data: bytes = field(repr=False)


Answer = Grant | Completed | Taken | Refusal | Stretch


class Asking:
    """Safe from every thread."""

    def __init__(self, node: str, broker: Broker, signer: Signer) -> None:
        self._node, self._broker, self._signer = node, broker, signer
        self._waiting: dict[UUID, Future[Answer]] = {}

    def answered(self, answer: Answer) -> None:
        """The relay's answer has come."""
        future = self._waiting.get(answer.request)
        if future is not None and not future.done():
            future.set_result(answer)

    @contextmanager
    def expecting(self, request: UUID) -> Iterator[Future[Answer]]:
        """What will hold the answer to `request`; nobody waits for it after."""
        future: Future[Answer] = Future()
        self._waiting[request] = future
        try:
            yield future
        finally:
            del self._waiting[request]

    def ask(self, message: OfAttempt, stopping: Callable[[], bool]) -> Answer:
        """Send the request until it is answered. Raises what a Refusal says."""
        patience = FIRST_ANSWER
        with self.expecting(message.request) as future:
            while True:
                self.send(message)
                answer = self.wait(future, patience, stopping)
                if answer is not None:
                    return answer
                log.info("no answer from the centre in %.0f s; asking again", patience, extra={"action": "grant-waits"})
                patience = min(2 * patience, LONGEST_ANSWER)

    def send(self, message: OfAttempt) -> None:
        """Send it, once."""
        body = pack(message, self._signer)
        self._broker.publish(body, exchange=event_exchange(self._node), key=EVENT_KEY, message_id=message.message_id)

    @staticmethod
    def wait(future: Future[Answer], patience: float, stopping: Callable[[], bool]) -> Answer | None:
        """The answer, or None when it has not come in time. Raises what a Refusal says."""
        end = time.monotonic() + patience
        while time.monotonic() < end:
            if stopping():
                raise Stopped
            try:
                answer = future.result(timeout=min(1.0, patience))
            except FutureTimeout:
                continue
            if isinstance(answer, Refusal):
                raise _refused(answer)
            return answer
        return None


def _refused(answer: Refusal) -> FdnError:
    if answer.retryable:
        return StoreUnavailable(answer.message, code=answer.code)
    kind: type[FdnError] = {Fault.USER: TaskFailed, Fault.POLICY: PolicyRefused, Fault.INFRASTRUCTURE: ObjectMissing}[answer.fault]
    return kind(answer.message, code=answer.code)
