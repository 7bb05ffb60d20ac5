"""Tool: one entry of the catalogue, with one or more task templates. The docstrings of its fields stand in the JSON Schema, too."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from fdn_worker.protocol.base import Id, check_relative_path
from fdn_worker.protocol.image import ImageSignature
from fdn_worker.protocol.order import COMMIT_PATTERN, Digest, TcpPort, Text, VariableName

Scalar = StrictBool | StrictInt | StrictFloat | StrictStr
#: Bytes; the schema alone would not know of "2GB".
Size = Annotated[ByteSize, BeforeValidator(lambda value: value, json_schema_input_type=int | str)]
#: `https://... --branch NAME`, as existing documents have it.
_BRANCH = re.compile(r"^(\S+)\s+(?:--branch|-b)[\s=]+(\S+)$")
#: May be the name of a branch or tag, and never an option.
BRANCH_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9._/+@-]*$"
#: Argument ids, as placeholders name them.
ARGUMENT_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.-]*$"


def _words(value: Any) -> Any:
    return tuple(shlex.split(value)) if isinstance(value, str) else value


def _one_or_more(value: Any) -> Any:
    return [value] if isinstance(value, str | dict) else value


def hosts(value: Any) -> Any:
    """`*`, a list, or, as existing documents have it, one text with commas in it."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        return value
    names = [name.strip() for part in parts for name in part.split(",") if name.strip()]
    return ["*"] if "*" in names or not names else names


def _named(value: Any) -> Any:
    """A list of paths: each keeps its last part as its name."""
    if isinstance(value, str):
        value = [value]
    return {str(path).rpartition("/")[2]: path for path in value} if isinstance(value, list) else value


def _text(value: Any) -> Any:
    """`1` and `true` of YAML, as a process finds them in its environment."""
    return str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int | float) else value


def _input_name(name: str) -> str:
    if "=" in name:
        raise ValueError(f"{name!r} holds a =")
    return check_relative_path(name)


Words = Annotated[tuple[Text, ...], BeforeValidator(_words, json_schema_input_type=str | list[str])]
Texts = Annotated[tuple[Text, ...], BeforeValidator(_one_or_more, json_schema_input_type=str | list[str])]
Setting = Annotated[Text, BeforeValidator(_text, json_schema_input_type=str | int | float | bool)]
Below = Annotated[str, AfterValidator(check_relative_path)]
InputName = Annotated[str, AfterValidator(_input_name)]


class Entry(BaseModel):
    """A part of a catalogue's file: a wrong key is an error, never silence."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class Image(Entry):
    """A container image. A text `NAME:TAG` or `NAME:TAG@sha256:...` says the same."""

    name: Annotated[str, Field(min_length=1)]
    """Name, with the registry where there is one."""
    tag: str = ""
    digest: Digest | None = None
    """sha256:..., to insist on these bytes."""
    signature: ImageSignature | None = None
    """Of the digest, as `fem sign-image` gives it, for nodes that ask whose image it is."""
    repository: str = ""
    """Registry or path before the name."""
    label: str = ""
    """For people."""

    @property
    def reference(self) -> str:
        """As an order names it."""
        name = f"{self.repository.rstrip('/')}/{self.name}" if self.repository else self.name
        return f"{name}:{self.tag}" if self.tag else name

    @classmethod
    def parse(cls, value: Any) -> Any:
        """The parts of NAME:TAG@DIGEST; anything else as it is."""
        if not isinstance(value, str):
            return value
        reference, _, digest = value.partition("@")
        # a colon before a slash is that of a registry's port
        name, colon, tag = reference.rpartition(":")
        parts = {"name": name, "tag": tag} if colon and "/" not in tag else {"name": reference}
        return parts | ({"digest": digest} if digest else {})


class Argument(Entry):
    """A value that whoever runs the tool may give."""

    id: Annotated[str, Field(pattern=ARGUMENT_PATTERN)]
    type: Literal["str", "int", "float", "bool"] = "str"
    default: Scalar | tuple[Scalar, ...] | None = None
    """Used where nothing is given; may hold placeholders."""
    required: bool = False
    """Whether a submission without a value is refused."""
    position: int | None = None
    """Place among the arguments; those without one come last, in the order of the file."""
    prefix: str = ""
    """Such as --rounds: stands before the value; without it the value stands alone."""
    separate: bool = False
    """Prefix and value are two words; otherwise one, PREFIX=VALUE."""
    argv: bool = True
    """False for an argument that placeholders alone use."""
    choices: tuple[Scalar, ...] = ()
    description: str = ""


class Command(Entry):
    """What is started: the words of `base`, then the arguments. No shell is involved."""

    base: Annotated[Words, Field(min_length=1)]
    """A list of words, or a text that is split once, as a shell would split it."""
    args: tuple[Argument, ...] = ()

    @field_validator("args")
    @classmethod
    def _each_once(cls, value: tuple[Argument, ...]) -> tuple[Argument, ...]:
        ids = [argument.id for argument in value]
        if twice := sorted({id_ for id_ in ids if ids.count(id_) > 1}):
            raise ValueError(f"two arguments are named {', '.join(twice)}")
        return value


class Volume(Entry):
    """A folder that the task sees at a path of its own choice; Docker's launcher has these, the process launcher does not."""

    host_path: Annotated[str, Field(min_length=1)]
    """$DATA_PATH/DATASET (read-only), $SANDBOX_PATH or a folder below, or an absolute path, which the site must allow."""
    container_path: Annotated[str, Field(pattern="^(/|%%)")]


class TaskPort(Entry):
    """A port that the task listens on. It finds the number in the variable PORT_<container_port>."""

    container_port: TcpPort
    host_port: TcpPort | None = None
    """The published one; left out, the node chooses."""


class Needs(Entry):
    """What a task may use. Sizes in bytes, or such as 512MiB or 2GB."""

    cpus: Annotated[float, Field(gt=0)] = 1.0
    memory: Size = ByteSize(1024**3)
    gpus: Annotated[int, Field(ge=0)] = 0
    disk: Size = ByteSize(1024**3)
    """Size of the sandbox."""


class Code(Entry):
    """A Git repository, read-only at $SOURCE_PATH. A branch is pinned to its commit when the tool is submitted."""

    url: str
    """https://..., or `https://... --branch NAME`."""
    branch: Annotated[str, Field(pattern=BRANCH_PATTERN)] | None = None
    """A branch or tag; without one and without a commit, the repository's own default."""
    commit: Annotated[str, Field(pattern=COMMIT_PATTERN)] | None = None
    """40 hexadecimal digits; beats the branch."""

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"url": value}
        if isinstance(value, dict) and isinstance(value.get("url"), str) and (found := _BRANCH.match(value["url"].strip())):
            return {"branch": found[2]} | value | {"url": found[1]}
        return value

    @field_validator("url")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not re.fullmatch(r"(https|file)://\S+", value):
            raise ValueError(f"{value!r} must be an https:// address, and may be followed by ` --branch NAME`")
        return value


class Shelf(Entry):
    """After success the node keeps a folder of the sandbox on one of its shelves."""

    source: str = ""
    """Folder below the sandbox; left out, all of it."""
    shelf: str
    """Id of the shelf, as the site's settings name it."""
    to: Below
    """Place on the shelf."""


class TaskTemplate(Entry):
    """One task: what runs, with which data and resources, and what of it comes back. Every text may hold placeholders."""

    id: Id = "main"
    image: Annotated[Image | None, BeforeValidator(Image.parse, json_schema_input_type=str | Image | None)] = None
    """Needed where the node's launcher is docker."""
    command: Command
    environment: dict[VariableName, Setting] = Field(default_factory=dict)
    datasets: Texts = ()
    """Datasets of the node, read-only at $DATA_PATH/NAME."""
    volumes: tuple[Volume, ...] = ()
    ports: tuple[TaskPort, ...] = ()
    listen_within: Annotated[float, Field(gt=0)] = 120.0
    """Seconds from the start within which the ports must be open."""
    resources: Needs = Needs()
    timeout: Annotated[float, Field(gt=0)] = 3600.0
    """Seconds from the task's start to its end by force."""
    network: bool | None = None
    """Ask for the network; left out, a task with ports and the clients of a server do."""
    source: Code | None = None
    outputs: Texts = ()
    """Patterns of files below the sandbox to send back, ** crosses folders; one that matches nothing fails the task."""
    secrets: Texts = ()
    """Secrets of the node, as files in $SECRETS_PATH: the node's own, and its site says who gets them."""
    pre_checks: Texts = ()
    """Patterns below $DATA_PATH; each must match something before the task starts."""
    persistent: bool | str = False
    """Keep the sandbox at the node: true names it <execution id>.<task id>, a text gives its name."""
    move_to: Annotated[tuple[Shelf, ...], BeforeValidator(_one_or_more, json_schema_input_type=Shelf | list[Shelf])] = ()
    files: Annotated[dict[InputName, Below], BeforeValidator(_named, json_schema_input_type=list[str] | dict[str, str])] = Field(
        default_factory=dict
    )
    """Files beside this one that go with the task, read-only at $INPUT_PATH: a list of paths, or NAME: PATH."""
    single_node: bool = False
    """The server's task: runs once, at the submission's server_node, and is started before the others."""
    host_list: Annotated[tuple[str, ...], BeforeValidator(hosts, json_schema_input_type=str | list[str])] = ("*",)
    """Nodes where it may run; * is all."""
    ends_with_clients: bool = False
    """A server that never ends by itself: being ended once its clients are done is its success."""

    def allows(self, node: str) -> bool:
        """Whether it may run there."""
        return "*" in self.host_list or node in self.host_list


class Tool(Entry):
    """What a user runs by its name."""

    model_config = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64", title="Tool")

    name: Id
    """Its id: a-z, 0-9 and -."""
    title: str = ""
    """For people."""
    version: str = ""
    """In quotes, since 1.10 without them is the number 1.1."""
    author: str = ""
    description: str = ""
    visibility: Literal["public", "project", "private"] = "public"
    """Who may run it: everybody, the members of its projects, its author alone."""
    projects: tuple[str, ...] = ()
    plan_type: str = "task"
    """`FL_session` for a server with clients that learn together."""
    tasks: Annotated[tuple[TaskTemplate, ...], Field(min_length=1)]

    #: Path beside the tool's file -> content, for `files`; the loader's to fill, never a key of a file.
    contents: SkipJsonSchema[dict[str, bytes]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _tasks_differ(self) -> Tool:
        ids = [task.id for task in self.tasks]
        if twice := sorted({id_ for id_ in ids if ids.count(id_) > 1}):
            raise ValueError(f"two tasks have the id {', '.join(twice)}")
        if self.visibility == "project" and not self.projects:
            raise ValueError("projects: a tool with visibility `project` names its projects")
        return self

    def task(self, id_: str) -> TaskTemplate:
        """The template of that id; KeyError if there is none."""
        for task in self.tasks:
            if task.id == id_:
                return task
        raise KeyError(id_)

    @property
    def has_server(self) -> bool:
        """Some of its tasks serve the others; where all are single_node, each is an ordinary task of one node."""
        return any(task.single_node for task in self.tasks) and not all(task.single_node for task in self.tasks)
