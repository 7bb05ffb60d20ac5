"""ControlRequest: the centre asks a node about, or to end, an attempt; it overtakes waiting orders."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import Field

from fdn_worker.protocol.base import Id, Message, Moment


class ControlRequest(Message):
    """`cancel` ends the attempt, or leaves a tombstone if its order has yet to come; `report` has its state sent again."""

    kind: ClassVar[str] = "control-request"

    request: UUID
    action: Literal["cancel", "report"]
    execution: UUID
    task: Id
    node: Id
    run: UUID
    attempt: Annotated[int, Field(ge=1)]
    issued: Moment
    #: Later than this the node drops it.
    deadline: Moment
    why: str = ""

    @property
    def message_id(self) -> str:
        return str(self.request)
