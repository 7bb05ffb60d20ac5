"""Inquiry and Answer: what the centre asks a node beside its orders, and what the node says. Since 1.1.

`plan`: would these orders be taken now, and what is there for them? Nothing is kept or started. `health`: how the node
is. `images`: list, pull or remove images, where the site allows it. `intake`: take no more orders, or take them again.
An answer goes the way of events, and the relay passes it on by the inquiry's `request`; it may be lost without harm,
since whoever asked can ask again.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal
from uuid import UUID

from pydantic import Field, model_validator

from fdn_worker.protocol.base import ByteCount, Id, Message, Moment, Part
from fdn_worker.protocol.event import Reason
from fdn_worker.protocol.order import TaskOrder

About = Literal["plan", "health", "images", "intake"]
Action = Literal["list", "pull", "remove", "pause", "resume"]
#: What may be done about what.
ACTIONS: dict[str, tuple[Action, ...]] = {"images": ("list", "pull", "remove"), "intake": ("pause", "resume")}


class Inquiry(Message):
    """A question to a node; dropped once `deadline` has passed. One `request` may go to many nodes."""

    kind: ClassVar[str] = "inquiry"

    request: UUID
    node: Id
    issued: Moment
    deadline: Moment
    about: About
    #: For `plan`: orders as they would be sent.
    orders: tuple[TaskOrder, ...] = ()
    #: What to do; for `images` also with which (name:tag, for pull also name@sha256:...).
    action: Action = "list"
    image: str = ""
    user: str = ""

    @model_validator(mode="after")
    def _whole(self) -> Inquiry:
        if self.about == "plan" and not self.orders:
            raise ValueError("an inquiry about a plan needs orders")
        if self.about in ACTIONS and self.action not in ACTIONS[self.about]:
            raise ValueError(f"about {self.about} there is no action {self.action}")
        if self.about == "images" and self.action != "list" and not self.image:
            raise ValueError(f"to {self.action} an image, name it")
        return self

    @property
    def message_id(self) -> str:
        return f"{self.request}.{self.node}"


class OrderPlan(Part):
    """What the node says of one order: whether it would be taken, and if not, every reason that it knows of."""

    task: Id
    accepts: bool
    reasons: tuple[Reason, ...] = ()
    launcher: str = ""
    #: Whether the image is here already; None where the launcher has none.
    image_here: bool | None = None
    image_digest: str | None = None


class ImageHere(Part):
    """An image at the node."""

    name: str
    digest: str = ""
    size: ByteCount = 0


class Health(Part):
    """How a node is. `facts` are by launcher and part; `problems` are for the site's administrator."""

    worker_version: str
    #: The node's clock as it answered; the asker makes an offset of it.
    clock: Moment
    uptime: Annotated[float, Field(ge=0)] = 0.0
    cpus: float = 0.0
    memory: ByteCount = 0
    gpus: ByteCount = 0
    disk_free: ByteCount = 0
    #: Folder of the node's by its name (`state_dir`, `dataset census`) -> whether it is there and fit for its use.
    paths: dict[str, bool] = Field(default_factory=dict)
    #: Docker's version, and the like.
    launchers: dict[str, str] = Field(default_factory=dict)
    images: tuple[ImageHere, ...] = ()
    #: When the certificate of the connection to the broker expires; None without one.
    certificate_expires: Moment | None = None
    problems: tuple[str, ...] = ()
    facts: dict[str, Any] = Field(default_factory=dict)


class Answer(Message):
    """The node's answer to an inquiry. `refused` says why there is none."""

    kind: ClassVar[str] = "answer"

    request: UUID
    node: Id
    at: Moment
    about: About
    refused: Reason | None = None
    plans: tuple[OrderPlan, ...] = ()
    slots: ByteCount = 0
    slots_free: ByteCount = 0
    #: Whether orders are taken at present; after `intake` as the inquiry left it.
    accepting: bool = True
    #: Where others reach a server here; "" where nobody can.
    address: str = ""
    health: Health | None = None
    images: tuple[ImageHere, ...] = ()

    @property
    def message_id(self) -> str:
        return f"{self.request}.{self.node}.answer"
