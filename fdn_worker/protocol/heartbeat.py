"""Heartbeat: a node is alive, and what it has to offer. May be lost without harm."""

from __future__ import annotations

from typing import Annotated, ClassVar
from uuid import UUID

from pydantic import Field

from fdn_worker.protocol.base import ByteCount, Id, Message, Moment, Part, Way
from fdn_worker.protocol.chain import Head
from fdn_worker.protocol.states import State


class Present(Part):
    """An attempt that is at the node now."""

    run: UUID
    attempt: int
    state: State


class Heartbeat(Message):
    """Sent every `interval` seconds on the node's own event exchange."""

    kind: ClassVar[str] = "heartbeat"
    durable: ClassVar[bool] = False

    node: Id
    #: Drawn when the worker starts, so that a restart is seen.
    session: UUID
    number: Annotated[int, Field(ge=1)]
    at: Moment
    interval: Annotated[float, Field(gt=0)]
    worker_version: str
    launchers: tuple[str, ...] = ()
    datasets: tuple[Id, ...] = ()
    slots: Annotated[int, Field(ge=1)]
    slots_free: ByteCount
    cpus: Annotated[float, Field(ge=0)] = 0.0
    memory: ByteCount = 0
    disk_free: ByteCount = 0
    #: Neither draining nor out of disk: new orders are taken.
    accepting: bool = True
    #: What the site's administrator should look at, in plain words.
    problems: tuple[str, ...] = ()
    present: tuple[Present, ...] = ()

    # Since 1.1
    gpus: ByteCount = 0
    #: Names of images that are here, a bounded number of them.
    images: tuple[str, ...] = ()
    #: Where others reach servers that run here; "" where nobody can.
    address: str = ""
    #: How files travel: a node that goes by the broker reaches neither the store nor a Git server.
    transfer: Way = "store"
    #: Where the node's audit log ends; None where it keeps none. And whose orders it obeys, by the names of their keys.
    audit: Head | None = None
    trusts: tuple[str, ...] = ()

    @property
    def message_id(self) -> str:
        return f"{self.session}.{self.number}"
