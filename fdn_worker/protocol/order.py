"""TaskOrder: the centre asks a node for one attempt of a run."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar, Literal
from uuid import UUID

from pydantic import AfterValidator, ByteSize, Field, StringConstraints, field_validator, model_validator

from fdn_worker.protocol.base import ByteCount, Id, Message, Moment, Part, RelativePath, Sha256, check_relative_path
from fdn_worker.protocol.image import ImageSignature
from fdn_worker.protocol.names import container_name, run_id

#: Environment variables that the node sets itself, and that `$NAME` in argv and environment stands for.
PLACES = ("DATA_PATH", "SANDBOX_PATH", "INPUT_PATH", "SOURCE_PATH", "NODE_NAME", "SECRETS_PATH")

#: Prefix of the variables that tell a task which port it is to listen on.
PORT_VARIABLE = "PORT_"

VARIABLE_PATTERN = r"^[A-Za-z_][A-Za-z0-9_]*$"
#: W3C's traceparent.
TRACE_PATTERN = r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"
DIGEST_PATTERN = r"^sha256:[0-9a-f]{64}$"
COMMIT_PATTERN = r"^[0-9a-f]{40}([0-9a-f]{24})?$"
#: No engine may take it for an option.
IMAGE_PATTERN = r"^[^\s-]\S*$"
#: A sandbox that a node keeps between runs; the node files it under the order's user, so it is no other user's.
SANDBOX_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,126}[a-z0-9])?$"

VariableName = Annotated[str, StringConstraints(pattern=VARIABLE_PATTERN)]
#: No NUL can be handed to a process.
Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN)]


class InputFile(Part):
    """A file that the node fetches before the task starts: stands below $INPUT_PATH under `name`."""

    name: RelativePath
    size: ByteCount
    sha256: Sha256
    #: Key in the centre's object store; the node asks for a signed URL when it needs it.
    where: str


class Resources(Part):
    """What an attempt may use. Sizes in bytes ("2GB" and "2GiB" are understood)."""

    cpus: Annotated[float, Field(gt=0, le=4096)] = 1.0
    memory: Annotated[ByteSize, Field(ge=6 * 1024**2)] = ByteSize(1024**3)
    gpus: Annotated[int, Field(ge=0, le=1024)] = 0
    #: Bytes of the sandbox.
    disk: Annotated[ByteSize, Field(ge=0)] = ByteSize(1024**3)


class Source(Part):
    """A Git repository at one commit: stands read-only at $SOURCE_PATH."""

    repository: str
    commit: Annotated[str, StringConstraints(pattern=COMMIT_PATTERN)]
    #: A Git pack of that commit without its history, for a node that reaches no Git server (since 1.1).
    pack: InputFile | None = None

    @field_validator("repository")
    @classmethod
    def _plain_url(cls, value: str) -> str:
        if not value.startswith(("https://", "file://")):
            raise ValueError(f"repository {value!r} must be an https:// address")
        return value


def _absolute(path: str) -> str:
    if not path.startswith("/") or path == "/":
        raise ValueError(f"path {path!r} must be absolute, and not the root")
    check_relative_path(path[1:])
    return path


def _below(path: str) -> str:
    return check_relative_path(path) if path else path


#: An absolute POSIX path without `..`.
AbsolutePath = Annotated[str, AfterValidator(_absolute)]
#: A folder or what lies below it: "" is the folder itself.
Below = Annotated[str, AfterValidator(_below)]
#: A TCP port.
TcpPort = Annotated[int, Field(ge=1, le=65535)]


class Port(Part):
    """A port that the task listens on. The node publishes it at `host`, or at one of its own choice if that is None.

    The task finds the number that it is to listen on in the variable PORT_<container>, which `$PORT_<container>` stands
    for as well: a container's own port, or, where the launcher has no network of its own (process), the published one.
    """

    container: TcpPort
    host: TcpPort | None = None


class Mount(Part):
    """A folder that the task sees at `target`.

    `dataset`: source is NAME or NAME/below, read-only; `sandbox`: "" or a folder below the sandbox, read-write;
    `host`: an absolute path of the node's, read-only, refused unless the site names it.
    """

    kind: Literal["dataset", "sandbox", "host"]
    source: str
    target: AbsolutePath

    @model_validator(mode="after")
    def _fitting(self) -> Mount:
        if self.kind == "host":
            _absolute(self.source)
        elif self.kind == "sandbox":
            _below(self.source)
        else:
            check_relative_path(self.source)
        return self


class Move(Part):
    """After success the node copies folder `source` of the sandbox ("" is all of it) to `to` below one of its own shelves."""

    source: Below
    shelf: Id
    to: RelativePath


class Server(Part):
    """The server of the order's own execution, as this node reaches it."""

    node: Id
    host: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    #: Port of the server's container -> the published one.
    ports: dict[int, TcpPort]


class Labels(Part):
    """For whom and for what; for policy and accounting."""

    user: str = ""
    project: str = ""
    tool: str = ""


class TaskOrder(Message):
    """One attempt of one task of one execution at one node. `node` is the audience: another one refuses it."""

    kind: ClassVar[str] = "task-order"

    execution: UUID
    task: Id
    node: Id
    run: UUID
    attempt: Annotated[int, Field(ge=1)]
    issued: Moment
    #: Compute ends by this moment; a node refuses an order that comes later.
    deadline: Moment

    #: Entry-point name of the launcher; None leaves it to the node.
    launcher: str | None = None
    image: Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=IMAGE_PATTERN)] | None = None
    image_digest: Digest | None = None
    #: Handed over as it stands, never through a shell; `$NAME` of PLACES is filled in by the node.
    argv: Annotated[tuple[Text, ...], Field(min_length=1)]
    environment: Annotated[dict[VariableName, Text], Field(default_factory=dict)]
    datasets: tuple[Id, ...] = ()
    inputs: tuple[InputFile, ...] = ()
    #: Glob patterns below the sandbox; `**` crosses folders.
    outputs: tuple[RelativePath, ...] = ()
    resources: Resources = Resources()
    network: bool = False
    #: Seconds from the start of the task to its end by force.
    timeout: Annotated[float, Field(gt=0)] = 3600.0
    source: Source | None = None
    labels: Labels = Labels()

    # Since 1.1
    #: Ports that the task opens; they want the network. An event tells once all of them take connections.
    ports: tuple[Port, ...] = ()
    #: Seconds from the start within which the ports must be open.
    listen_within: Annotated[float, Field(gt=0)] = 120.0
    servers: tuple[Server, ...] = ()
    mounts: tuple[Mount, ...] = ()
    #: Patterns below $DATA_PATH of which each must match something before the task starts.
    checks: tuple[RelativePath, ...] = ()
    #: Name of a sandbox that outlives the attempt and is found again; None makes a fresh one.
    sandbox: Annotated[str, StringConstraints(pattern=SANDBOX_PATTERN)] | None = None
    moves: tuple[Move, ...] = ()
    #: Names of the site's secrets that the task is to find as files in $SECRETS_PATH.
    secrets: tuple[Id, ...] = ()
    #: Seconds after the deadline within which the site's person may let the outputs go; None is no end.
    release_within: Annotated[float, Field(ge=0)] | None = None
    #: Of the image's digest, for a site that asks whose image it is.
    image_signature: ImageSignature | None = None
    #: Where a node that traces is to put its spans.
    trace: Annotated[str, StringConstraints(pattern=TRACE_PATTERN)] | None = None

    @model_validator(mode="after")
    def _derived(self) -> TaskOrder:
        if self.run != run_id(self.execution, self.task, self.node):
            raise ValueError(f"run {self.run} is not that of execution {self.execution}, task {self.task}, node {self.node}")
        for numbers in ([port.container for port in self.ports], [port.host for port in self.ports if port.host]):
            if len(set(numbers)) < len(numbers):
                raise ValueError("a port is named twice")
        try:
            _ = self.release_by
        except OverflowError as error:
            raise ValueError("release_within leads beyond the calendar") from error
        return self

    @property
    def release_by(self) -> Moment | None:
        """When the outputs must have left; None is at any time."""
        return None if self.release_within is None else self.deadline + timedelta(seconds=self.release_within)

    @property
    def name(self) -> str:
        """The launcher's name of this attempt."""
        return container_name(self.run, self.attempt)

    @property
    def message_id(self) -> str:
        return f"{self.run}.{self.attempt}"
