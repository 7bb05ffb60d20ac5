"""TaskRequest: what a researcher asks for, checked before anything is sent."""

from __future__ import annotations

import difflib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AwareDatetime, BaseModel, ByteSize, ConfigDict, Field, ValidationError, field_validator, model_validator

from fdn_worker.errors import Fault, FdnError
from fdn_worker.protocol import InputFile, Labels, Resources, Source, TaskOrder
from fdn_worker.protocol.base import Id, RelativePath
from fdn_worker.protocol.order import Digest, Text, VariableName


class BadRequest(FdnError):
    """What was asked for cannot be: says which field, and why."""

    code = "bad-request"
    fault = Fault.USER


Model = TypeVar("Model", bound=BaseModel)


def build(model: type[Model], **fields: Any) -> Model:
    """Make `model` from a user's fields; BadRequest names each wrong one, and the nearest right name of an unknown one."""
    try:
        return model(**fields)
    except ValidationError as error:
        raise BadRequest("; ".join(_told(item, model) for item in error.errors())) from error


def _told(item: Any, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(place, model.model_fields, n=1)
        return f"{place}: unknown" + (f", did you mean {near[0]}?" if near else "")
    if item["type"].startswith("byte_size"):
        return f"{place}: {item['input']!r} is no size (write bytes, or such as 512MiB or 2GB)"
    if place == "argv" and item["type"] == "too_short":
        return "argv: the command is empty (name what to run)"
    return f"{place}: {item['msg'].removeprefix('Value error, ')}"


class TaskRequest(BaseModel):
    """One task at one node. Everything has a default but the node and the command."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    node: Id
    argv: Annotated[tuple[Text, ...], Field(min_length=1)]
    image: Annotated[str, Field(min_length=1, pattern=r"^[^\s-]\S*$")] | None = None
    image_digest: Digest | None = None
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
    #: New attempts after faults of the infrastructure.
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    task: Id = "main"
    user: str = ""
    project: str = ""
    tool: str = ""

    @field_validator("argv")
    @classmethod
    def _has_command(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value[0].strip():
            raise ValueError("the command's name is empty")
        return value

    @model_validator(mode="after")
    def _source_whole(self) -> TaskRequest:
        if bool(self.repository) != bool(self.commit):
            raise ValueError("repository and commit go together: a commit is what makes the source the same for all")
        return self

    @property
    def resources(self) -> Resources:
        return Resources(cpus=self.cpus, memory=self.memory, gpus=self.gpus, disk=self.disk)

    def files(self) -> dict[str, Path]:
        """Name below $INPUT_PATH -> file."""
        pairs = [spec.split("=", 1) if "=" in spec else [Path(spec).name, spec] for spec in self.inputs]
        names = [name for name, _ in pairs]
        if twice := {name for name in names if names.count(name) > 1}:
            raise BadRequest(f"inputs: two files are named {', '.join(sorted(twice))}", remedy="give one another name: NAME=PATH")
        return {name: Path(path) for name, path in pairs}

    def order(self, execution: Any, run: Any, attempt: int, inputs: tuple[InputFile, ...], issued: datetime) -> TaskOrder:
        """The order for one attempt of this."""
        deadline = self.deadline or issued + timedelta(days=1, seconds=self.timeout)
        if deadline <= issued:
            raise BadRequest(f"deadline: {deadline:%Y-%m-%d %H:%M:%S %Z} has passed", remedy="give a moment to come")
        source = build(Source, repository=self.repository, commit=self.commit) if self.repository else None
        return build(
            TaskOrder, execution=execution, task=self.task, node=self.node, run=run, attempt=attempt, issued=issued, deadline=deadline,
            launcher=self.launcher, image=self.image, image_digest=self.image_digest, argv=self.argv, environment=self.environment,
            datasets=self.datasets, inputs=inputs, outputs=self.outputs, resources=self.resources, network=self.network, timeout=self.timeout,
            source=source, labels=Labels(user=self.user, project=self.project, tool=self.tool),
        )  # fmt: skip
