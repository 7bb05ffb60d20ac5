"""What the unit tests build again and again: orders, events, settings, a broker that only remembers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from fdn_worker.brokers import Handler
from fdn_worker.errors import FdnError
from fdn_worker.protocol import Keyring, Message, TaskEvent, TaskOrder, now, unpack
from fdn_worker.protocol.names import run_id
from fdn_worker.settings import WorkerSettings

EXECUTION = UUID("0b0e4a70-7d3c-5f0a-9a51-3f1c52d2a001")
MOMENT = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
#: Opens what the embedded profile writes.
OPEN = Keyring(unsigned_ok=True)
SHA = "a" * 64


def an_order(**changes: Any) -> TaskOrder:
    """A valid order for node `site-a`, which ends in an hour."""
    fields: dict[str, Any] = {
        "execution": EXECUTION, "task": "main", "node": "site-a", "attempt": 1, "issued": now(),
        "deadline": now() + timedelta(hours=1), "argv": ("true",),
    } | changes  # fmt: skip
    return TaskOrder(**{"run": run_id(fields["execution"], fields["task"], fields["node"])} | fields)


def an_event(order: TaskOrder, number: int, **fields: Any) -> TaskEvent:
    """Event `number` of the order's attempt."""
    return TaskEvent(
        **{"execution": order.execution, "task": order.task, "node": order.node, "run": order.run, "attempt": order.attempt,
           "number": number, "at": MOMENT + timedelta(seconds=number), **fields}
    )  # fmt: skip


def settings(folder: Path, **changes: Any) -> WorkerSettings:
    """A worker's settings of the embedded profile, with everything below `folder`."""
    fields: dict[str, Any] = {
        "node": "site-a", "state_dir": folder, "broker": {"url": f"sqlite:///{folder}/broker.db"}, "launcher": "process",
        "allowed_launchers": ("process",), "limits": {"disk_reserve": 0}, "transfer": {"allow_file": True},
    }  # fmt: skip
    return WorkerSettings(**fields | changes)


def an_id(number: int) -> UUID:
    """The same id for the same number."""
    return uuid5(EXECUTION, str(number))


@dataclass
class Sent:
    """A message as it was published."""

    body: bytes
    exchange: str
    key: str
    message_id: str

    @property
    def message(self) -> Message:
        return unpack(self.body, OPEN)[0]


@dataclass
class FakeBroker:
    """Remembers what is published. `fails` are raised first, one a call; `then` is called with each message that was kept."""

    sent: list[Sent] = field(default_factory=list)
    fails: list[FdnError] = field(default_factory=list)
    then: Callable[[Sent], None] = lambda _: None
    #: Set by each publish, failed or not.
    tried: threading.Event = field(default_factory=threading.Event)

    def publish(
        self, body: bytes, *, exchange: str = "", key: str = "", message_id: str, mandatory: bool = True, durable: bool = True
    ) -> None:
        self.tried.set()
        if self.fails:
            raise self.fails.pop(0)
        self.sent.append(Sent(body, exchange, key, message_id))
        self.then(self.sent[-1])

    def declare(self, *things: object) -> None: ...
    def delete(self, *things: object) -> None: ...
    def depth(self, queue: str) -> None: ...
    def close(self) -> None: ...

    def consume(self, queue: str, handler: Handler, *, prefetch: int = 32) -> Any:
        raise AssertionError("nothing here consumes")
