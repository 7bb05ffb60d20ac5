"""Heartbeats: the node is alive, and what it has to offer. They may be lost without harm, so they are sent once."""

from __future__ import annotations

import logging
import threading
import time
from typing import Protocol
from uuid import uuid4

from fdn_worker import __version__, policy
from fdn_worker.attempts import Attempts
from fdn_worker.audit import Audit
from fdn_worker.brokers import Broker
from fdn_worker.errors import FdnError
from fdn_worker.inventory import Inventory
from fdn_worker.journal import Journal
from fdn_worker.outbox import Outbox
from fdn_worker.protocol import Heartbeat, Present, Signer, now, pack
from fdn_worker.protocol.names import BEAT_KEY, event_exchange
from fdn_worker.settings import WorkerSettings

log = logging.getLogger(__name__)

#: Attempts that a heartbeat names at most.
MOST_PRESENT = 1000


class Node(Protocol):
    """What a heartbeat tells of."""

    settings: WorkerSettings
    broker: Broker
    signer: Signer
    journal: Journal
    outbox: Outbox
    attempts: Attempts
    inventory: Inventory
    audit: Audit
    problems: dict[str, str]

    @property
    def accepting(self) -> bool: ...


def problems(node: Node) -> list[str]:
    """What the site's administrator should look at, in plain words."""
    return [*node.problems.values(), *(problem for problem in (node.outbox.problem, node.audit.problem) if problem)]


class Heart:
    """Sends a node's heartbeats; `session` tells its restarts apart."""

    def __init__(self, node: Node) -> None:
        self._node, self._session, self._number = node, uuid4(), 0
        #: Monotonic moment of the last one that the broker took; None before there was one.
        self.sent: float | None = None

    def beat(self, stop: threading.Event) -> None:
        """Send them until `stop` is set."""
        settings = self._node.settings
        while not stop.is_set():
            try:
                message = self._next()
                self._node.broker.publish(
                    pack(message, self._node.signer), exchange=event_exchange(settings.node), key=BEAT_KEY,
                    message_id=message.message_id, mandatory=False, durable=False,
                )  # fmt: skip
                self.sent = time.monotonic()
            except FdnError as error:
                log.warning("heartbeat %d not sent: %s", self._number, error, extra={"action": "heartbeat-missed"})
            stop.wait(settings.heartbeat)

    def _next(self) -> Heartbeat:
        node, settings = self._node, self._node.settings
        self._number += 1
        unfinished = node.journal.unfinished()[:MOST_PRESENT]
        return Heartbeat(
            node=settings.node, session=self._session, number=self._number, at=now(), interval=settings.heartbeat,
            worker_version=__version__, launchers=settings.allowed_launchers, datasets=tuple(sorted(settings.datasets)),
            slots=settings.slots, slots_free=node.attempts.slots_free, cpus=policy.machine_cpus(), memory=policy.machine_memory(),
            disk_free=policy.disk_free(settings.state_dir), transfer=settings.transfer.by, accepting=node.accepting, problems=tuple(problems(node)),
            present=tuple(Present(run=entry.run, attempt=entry.attempt, state=entry.state) for entry in unfinished),
            gpus=policy.offered_gpus(settings), images=node.inventory.known(), address=settings.address, audit=node.audit.head,
            trusts=tuple(sorted(set(settings.keys.trusted) - set(settings.keys.revoked))),
        )  # fmt: skip
