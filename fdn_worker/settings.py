"""The worker's settings: one TOML file, overridden by FDN_* variables (`FDN_BROKER__URL`). Only the entry point reads them."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tomllib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    SecretStr,
    StringConstraints,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict
from pydantic_settings import SettingsError as VariableError

from fdn_worker.errors import SettingsError
from fdn_worker.protocol.base import Id, Way
from fdn_worker.protocol.order import PLACES, PORT_VARIABLE, Text, VariableName
from fdn_worker.release.rules import ReleaseSection

#: What of the network a task is kept to: the servers of its own execution, what the site's proxy lets through, or nothing less than all.
KeepTo = Literal["", "server", "proxy"]

DEFAULT_PATH = Path("/etc/fdn-worker/fdn-worker.toml")
MIB = 1024**2


#: A collector of traces.
Endpoint = Annotated[str, StringConstraints(pattern=r"^$|^https?://[^\s@]+$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BrokerSection(_Section):
    #: amqps://USER:PASSWORD@HOST, or sqlite:///PATH for the embedded one.
    url: SecretStr


class KeysSection(_Section):
    #: This node's private key; None leaves its messages unsigned, which only an embedded federation takes.
    private: Path | None = None
    #: key id -> public key in base64: whose orders are obeyed.
    trusted: Annotated[dict[str, str], Field(default_factory=dict)]
    #: key id -> why: whose orders are not obeyed any more, even if they are trusted above.
    revoked: Annotated[dict[str, str], Field(default_factory=dict)]


class LimitsSection(_Section):
    """Caps for one attempt."""

    #: Bytes of the log that are kept for upload.
    log_bytes: ByteSize = ByteSize(64 * MIB)
    #: Log lines that are sent as events, and how many a second on average.
    log_lines: int = 10_000
    log_lines_per_second: float = 500.0
    #: Characters of a sent line.
    log_line_length: int = 4096
    #: What an order may ask for at most; None is the machine's own.
    cpus: float | None = None
    memory: ByteSize | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    timeout: float = 30 * 24 * 3600.0
    #: Files and bytes of the outputs together.
    output_files: int = 100_000
    output_bytes: ByteSize = ByteSize(1024 * 1024 * MIB)
    #: Files and folders that a sandbox may hold.
    sandbox_files: Annotated[int, Field(ge=1)] = 1_000_000
    #: Free bytes on the state folder's disk below which no order is taken.
    disk_reserve: ByteSize = ByteSize(1024 * MIB)


class BudgetSection(_Section):
    """Bytes that what the worker keeps may take; None is as much as the disk has."""

    #: All sandboxes: over it, kept ones that are not in use go, the longest unused first.
    sandboxes: ByteSize | None = None
    #: Images that the worker pulled: over it, those that were not used for longest go.
    images: ByteSize | None = None
    #: Patterns of images that never go, as a policy's rules have them.
    keep_images: tuple[str, ...] = ()
    #: Over it, ended attempts are forgotten whose orders have expired.
    journal: Annotated[ByteSize, Field(ge=8 * MIB)] = ByteSize(256 * MIB)
    #: The worker's own log, if it has a file.
    logs: Annotated[ByteSize, Field(ge=MIB)] = ByteSize(50 * MIB)
    #: Seconds between two looks.
    every: Annotated[float, Field(gt=0)] = 60.0


class TransferSection(_Section):
    #: How files travel: straight to the store by signed URLs, or in chunks over the broker, where that is all a site reaches.
    by: Way = "store"
    #: Bytes of an upload's part, and how many go at once.
    part_size: Annotated[ByteSize, Field(ge=5 * MIB)] = ByteSize(16 * MIB)
    parallel: Annotated[int, Field(ge=1, le=64)] = 4
    #: Seconds for which an upload is tried again before its run fails.
    keep_trying: float = 7 * 24 * 3600.0
    #: Take file:// addresses from the centre; only where node and centre share a machine.
    allow_file: bool = False
    #: The store's address as this site sees it; `fdn-worker check` alone uses it.
    store: str = ""


class MetricsSection(_Section):
    #: HOST:PORT at which Prometheus asks, in the clear; "" is nowhere.
    listen: Annotated[str, StringConstraints(pattern=r"^$|^[^\s/@]+:\d{1,5}$")] = ""


class TracingSection(_Section):
    #: Base address of OTLP over HTTP, such as http://127.0.0.1:4318; "" traces nothing.
    endpoint: Endpoint = ""


class SourceSection(_Section):
    #: Clone from file:// addresses as well as https://.
    allow_file: bool = False
    #: Seconds for a clone or fetch.
    timeout: float = 600.0


class WorkerSettings(BaseSettings):
    """All of it, frozen."""

    model_config = SettingsConfigDict(env_prefix="FDN_", env_nested_delimiter="__", extra="forbid", frozen=True, str_strip_whitespace=True)

    node: Id
    display_name: str = ""
    #: Journal, sandboxes and caches stand here.
    state_dir: Path = Path("/var/lib/fdn-worker")
    broker: BrokerSection
    keys: KeysSection = Field(default_factory=KeysSection)  # type: ignore[arg-type]

    #: Tasks that run at once.
    slots: Annotated[int, Field(ge=1, le=1024)] = 2
    #: Unfinished orders that the journal takes in beyond the slots; more wait at the broker.
    backlog: Annotated[int, Field(ge=1)] = 64
    #: Seconds between heartbeats.
    heartbeat: Annotated[float, Field(gt=0)] = 10.0
    #: Seconds by which the centre's clock may be ahead; what was issued later than that is refused.
    clock_tolerance: Annotated[float, Field(gt=0)] = 300.0
    #: Seconds between TERM and KILL.
    grace: Annotated[float, Field(ge=0)] = 10.0

    #: The launcher of orders that name none, and all that an order may name.
    launcher: str = "docker"
    allowed_launchers: tuple[str, ...] = ("docker",)
    #: Launcher name -> its own options.
    launchers: Annotated[dict[str, dict[str, Any]], Field(default_factory=dict)]
    #: Whether an order may ask for the network, or at least reach the server of its own execution.
    allow_network: bool = False
    allow_servers: bool = False
    #: Where others reach servers that run here, by name or number; "" lets nothing be reached.
    address: str = ""
    #: Address of this machine at which their ports are published; "" is `address` itself, so that no other one is opened.
    bind: str = ""
    #: Ports of this machine that tasks may publish, such as "20000-20999"; "" is none.
    ports: Annotated[str, StringConstraints(pattern=r"^(\d{1,5}-\d{1,5})?$")] = ""
    #: What the centre may do with the images here: nothing, see them, or pull and remove them too.
    images: Literal["none", "list", "manage"] = "list"
    #: Image with a shell in which `fdn-worker check` looks round; "" is the smallest here that has one.
    probe_image: str = ""
    #: When a task's log lines leave the site: as they come, with its outputs alone, or not at all.
    logs: Literal["live", "after-release", "never"] = "live"

    #: Dataset name -> folder; each must lie under one of the roots.
    datasets: Annotated[dict[Id, Path], Field(default_factory=dict)]
    data_roots: tuple[Path, ...] = ()
    #: Folders of this machine below which an order may have paths of its own mounted, read-only.
    host_paths: tuple[Path, ...] = ()
    #: Shelf name -> folder into which orders may have results copied that are to stay here.
    shelves: Annotated[dict[Id, Path], Field(default_factory=dict)]
    #: Secret name -> file of the site's, for tasks that ask for it; handed over from memory, in a folder below `secrets_dir`.
    secrets: Annotated[dict[Id, Path], Field(default_factory=dict)]
    secrets_dir: Path = Path("/dev/shm")
    #: NAME -> value, for every task: in its environment, and for `$NAME` in its command.
    variables: Annotated[dict[VariableName, Text], Field(default_factory=dict)]
    #: Whether an order may have its sandbox kept for the next one of the same user, and days after which an unused one goes.
    keep_sandboxes: bool = False
    keep_days: Annotated[float, Field(gt=0)] = 30.0

    #: The site's policy file: who may run what on which data. None leaves it to these settings, for everybody alike.
    policy: Path | None = None

    #: The worker's own log; None is standard error.
    log_file: Path | None = None

    limits: LimitsSection = LimitsSection()
    budget: BudgetSection = BudgetSection()
    transfer: TransferSection = TransferSection()
    source: SourceSection = SourceSection()
    release: ReleaseSection = ReleaseSection()
    metrics: MetricsSection = MetricsSection()
    tracing: TracingSection = TracingSection()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return env_settings, init_settings

    @field_validator("state_dir", "secrets_dir", "policy", "log_file")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        if value is not None and not value.is_absolute():
            raise ValueError("must be an absolute path")
        return value

    @field_validator("host_paths")
    @classmethod
    def _below_the_root(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        if wrong := [str(path) for path in value if not path.is_absolute() or path == Path("/")]:
            raise ValueError(f"{wrong[0]!r} must be an absolute path, and not the root")
        return value

    @field_validator("variables")
    @classmethod
    def _no_place(cls, value: dict[str, str]) -> dict[str, str]:
        if taken := sorted(name for name in value if name in PLACES or name.startswith(PORT_VARIABLE)):
            raise ValueError(f"{taken[0]} is set by the worker itself; name it otherwise")
        return value

    @field_validator("bind")
    @classmethod
    def _numeric(cls, value: str) -> str:
        if value:
            ipaddress.ip_address(value)
        return value

    @model_validator(mode="after")
    def _consistent(self) -> WorkerSettings:
        if self.ports and not self.address:
            raise ValueError(f"ports {self.ports!r} are of no use without the address at which others reach them")
        if self.ports and not (self.published and self.published[0] > 0 and self.published[-1] <= 65535):
            raise ValueError(f"ports {self.ports!r} must be a first and a last one, of 1 to 65535")
        if self.launcher not in self.allowed_launchers:
            raise ValueError(f"launcher {self.launcher!r} is not among allowed_launchers {list(self.allowed_launchers)}")
        if not self.embedded and self.keys.private is None:
            raise ValueError("keys.private is required with this broker: only an embedded federation works unsigned")
        return self

    @property
    def published(self) -> range:
        """The ports that tasks may publish."""
        first, _, last = self.ports.partition("-")
        return range(int(first), int(last) + 1) if last else range(0)

    @property
    def unsigned(self) -> bool:
        """Whether unsigned orders are obeyed: in an embedded federation that names no keys, and nowhere else."""
        return self.embedded and not self.keys.trusted

    @property
    def embedded(self) -> bool:
        """Everything on one machine."""
        return self.broker.url.get_secret_value().startswith("sqlite:")


def load(path: Path) -> WorkerSettings:
    """Read the file and the environment; SettingsError names every wrong key with its place."""
    try:
        text = path.read_text()
        data = tomllib.loads(text)
    except OSError as error:
        raise SettingsError(f"settings file {path}: {error.strerror}", remedy="write one with `fdn-worker init`") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path}: {error}", remedy="mend the TOML there") from error
    try:
        return WorkerSettings(**data)
    except ValidationError as error:
        raise SettingsError("; ".join(explain(item, text, str(path), WorkerSettings) for item in error.errors())) from error
    except VariableError as error:
        named = re.search(r'"(\w+)"', str(error))
        variable = f"FDN_{named[1].upper()}" if named else "FDN_*"
        raise SettingsError(f"variable {variable} cannot be read", remedy='write lists and tables as JSON: ["docker"]') from error


def explain(item: Any, text: str, path: str, model: type[BaseModel]) -> str:
    """One line for one of pydantic's errors: file, line, key, what is wrong and the nearest right key."""
    location = [str(part) for part in item["loc"]]
    key = ".".join(location)
    line = next((line for end in range(len(location), 0, -1) if (line := _line(text, location[:end]))), None)
    place = f"{path}:{line}" if line else path
    if (variable := "FDN_" + "__".join(location).upper()) in os.environ:
        place = f"variable {variable}"
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(location[-1], _keys(model, location[:-1]), n=1)
        return f"{place}: unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else "")
    if item["type"] == "missing":
        return f"{place}: key {key!r} is required"
    return f"{place}: {key + ': ' if key else ''}{item['msg'].removeprefix('Value error, ')}"


def _line(text: str, location: Sequence[str]) -> int | None:
    """The line of a TOML file in which a key or table stands."""
    table, tables = "", Counter[str]()
    for number, row in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*(\[\[?)([^\[\]]+)\]", row):
            table = re.sub(r"[\s\"']", "", header[2])
            if header[1] == "[[":
                tables[table] += 1
            # The one that stands last of several of the same name is meant, by itself and by what lies below it.
            for name, count in tables.items():
                if f"{table}.".startswith(f"{name}."):
                    table = f"{name}.{count - 1}{table.removeprefix(name)}"
            table += "."
        named = table[:-1] if header else table + re.sub(r"[\s\"']", "", row.partition("=")[0])
        if named == ".".join(location):
            return number
    return None


def _keys(model: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        if part.isdigit():  # one of several
            continue
        field = model.model_fields.get(part)
        kinds = (field.annotation, *get_args(field.annotation)) if field else ()
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
        if inner is None:
            return []
        model = inner
    return [field.alias or name for name, field in model.model_fields.items()]
