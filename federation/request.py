"""TaskRequest: what a researcher asks for, checked before anything is sent."""

from __future__ import annotations

import difflib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ByteSize, ConfigDict, Field, ValidationError, field_validator, model_validator

from fdn_worker.errors import Fault, FdnError
from fdn_worker.protocol import InputFile, Labels, Mount, Move, Port, Resources, Server, Source, TaskOrder
from fdn_worker.protocol.base import Id, RelativePath
from fdn_worker.protocol.image import ImageSignature
from fdn_worker.protocol.names import ID_PATTERN
from fdn_worker.protocol.order import (
    COMMIT_PATTERN,
    DIGEST_PATTERN,
    IMAGE_PATTERN,
    SANDBOX_PATTERN,
    VARIABLE_PATTERN,
    Digest,
    Text,
    VariableName,
)


class BadRequest(FdnError):
    """What was asked for cannot be: says which field, and why."""

    code = "bad-request"
    fault = Fault.USER


Model = TypeVar("Model", bound=BaseModel)

#: A deadline may be this far away; the calendar's end leaves no room for the release that follows it.
LONGEST = timedelta(days=3650)
#: What the patterns of the fields mean.
FORMS = {
    ID_PATTERN: "use 1 to 63 of a-z, 0-9 and -, with no - at either end",
    IMAGE_PATTERN: "an image reference has no spaces and does not begin with -",
    COMMIT_PATTERN: "give the whole commit id, 40 hexadecimal digits",
    DIGEST_PATTERN: "write sha256: and 64 hexadecimal digits",
    SANDBOX_PATTERN: "use a-z, 0-9, ., _ and -, at most 128, with a letter or digit at either end",
    VARIABLE_PATTERN: "a variable's name has letters, digits and _, and does not begin with a digit",
}


def build(model: type[Model], **fields: Any) -> Model:
    """Make `model` from a user's fields; BadRequest names each wrong one, and the nearest right name of an unknown one."""
    try:
        return model(**fields)
    except ValidationError as error:
        raise BadRequest("; ".join(_told(item, model) for item in error.errors())) from error


def _told(item: Any, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in item["loc"])
    given = repr(item["input"])[:80]
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place, model.model_fields, n=1)
        return f"{place}: unknown" + (f", did you mean {near[0]}?" if near else "")
    if item["type"].startswith("byte_size"):
        return f"{place}: {given} is no size (write bytes, or such as 512MiB or 2GB)"
    if place == "argv" and item["type"] == "too_short":
        return "argv: the command is empty (name what to run)"
    if item["type"] == "string_pattern_mismatch":
        return f"{place}: {given} is not allowed ({FORMS.get(item['ctx']['pattern'], 'it must match ' + item['ctx']['pattern'])})"
    message = str(item["msg"]).removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


class TaskRequest(BaseModel):
    """One task at one node. Everything has a default but the node and the command."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    node: Id
    argv: Annotated[tuple[Text, ...], Field(min_length=1)]
    image: Annotated[str, Field(min_length=1, pattern=IMAGE_PATTERN)] | None = None
    image_digest: Digest | None = None
    #: Of the digest, as `fem sign-image` gives it, for nodes that ask whose image it is.
    image_signature: ImageSignature | None = None
    launcher: str | None = None
    environment: dict[VariableName, Text] = Field(default_factory=dict)
    datasets: tuple[Id, ...] = ()
    #: Files of the submitter's machine: `PATH`, or `NAME=PATH` to hand it over under another name.
    inputs: tuple[str, ...] = ()
    #: Patterns below the sandbox.
    outputs: tuple[RelativePath, ...] = ()
    cpus: Annotated[float, Field(gt=0)] = 1.0
    memory: ByteSize = ByteSize(1024**3)
    gpus: Annotated[int, Field(ge=0)] = 0
    disk: ByteSize = ByteSize(1024**3)
    network: bool = False
    #: Seconds from the task's start to its end by force.
    timeout: Annotated[float, Field(gt=0)] = 3600.0
    #: Compute ends by this moment; None gives the timeout and a day of waiting.
    deadline: AwareDatetime | None = None
    #: A Git repository and the commit of it that the task is to find at $SOURCE_PATH.
    repository: str | None = None
    commit: str | None = None
    #: Hand the source over with the order, for a node that reaches no Git server; done by itself where files go by the broker.
    ship_source: bool = False
    #: New attempts after faults of the infrastructure.
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    task: Id = "main"
    user: str = ""
    project: str = ""
    tool: str = ""

    #: What a tool's task template may ask for beyond these; as the order has it.
    ports: tuple[Port, ...] = ()
    listen_within: Annotated[float, Field(gt=0)] = 120.0
    servers: tuple[Server, ...] = ()
    mounts: tuple[Mount, ...] = ()
    checks: tuple[RelativePath, ...] = ()
    sandbox: Annotated[str, Field(pattern=SANDBOX_PATTERN)] | None = None
    moves: tuple[Move, ...] = ()
    secrets: tuple[Id, ...] = ()

    @field_validator("argv")
    @classmethod
    def _has_command(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value[0].strip():
            raise ValueError("the command's name is empty")
        return value

    @model_validator(mode="after")
    def _digest_signed(self) -> TaskRequest:
        if self.image_signature and not self.image_digest:
            raise ValueError("image_signature is that of a digest: give image_digest, too")
        return self

    @model_validator(mode="after")
    def _source_whole(self) -> TaskRequest:
        if bool(self.repository) != bool(self.commit):
            raise ValueError("repository and commit go together: a commit is what makes the source the same for all")
        return self

    @property
    def resources(self) -> Resources:
        return build(Resources, cpus=self.cpus, memory=self.memory, gpus=self.gpus, disk=self.disk)

    def files(self) -> dict[str, Path]:
        """Name below $INPUT_PATH -> file."""
        pairs = [spec.split("=", 1) if "=" in spec else [Path(spec).name, spec] for spec in self.inputs]
        names = [name for name, _ in pairs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise BadRequest(f"inputs: two files are named {', '.join(sorted(twice))}", remedy="give one another name: NAME=PATH")
        if inner := [name for name in names if any(name.startswith(f"{other}/") for other in names)]:
            raise BadRequest(f"inputs: {inner[0]} lies below another input", remedy="give one another name: NAME=PATH")
        return {name: Path(path) for name, path in pairs}

    def order(self, execution: Any, run: Any, attempt: int, inputs: tuple[InputFile, ...], issued: datetime) -> TaskOrder:
        """The order for one attempt of this."""
        try:
            deadline = self.deadline or issued + timedelta(days=1, seconds=self.timeout)
        except OverflowError as error:
            raise BadRequest(f"timeout: {self.timeout:g} seconds lead beyond the calendar", remedy="give fewer") from error
        if deadline <= issued:
            raise BadRequest(f"deadline: {deadline:%Y-%m-%d %H:%M:%S %Z} has passed", remedy="give a moment to come")
        if deadline - issued > LONGEST:
            raise BadRequest(
                f"deadline: {deadline:%Y-%m-%d} is more than {LONGEST.days:,} days away", remedy="give a nearer deadline or timeout"
            )
        source = build(Source, repository=self.repository, commit=self.commit) if self.repository else None
        return build(
            TaskOrder, execution=execution, task=self.task, node=self.node, run=run, attempt=attempt, issued=issued, deadline=deadline,
            launcher=self.launcher, image=self.image, image_digest=self.image_digest, image_signature=self.image_signature,
            argv=self.argv, environment=self.environment, datasets=self.datasets, inputs=inputs, outputs=self.outputs,
            resources=self.resources, network=self.network, timeout=self.timeout, source=source,
            labels=Labels(user=self.user, project=self.project, tool=self.tool), ports=self.ports, listen_within=self.listen_within,
            servers=self.servers, mounts=self.mounts, checks=self.checks, sandbox=self.sandbox, moves=self.moves, secrets=self.secrets,
        )  # fmt: skip
