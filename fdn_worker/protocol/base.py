"""What every message has in common: frozen, versioned, JSON, unknown fields kept and warned about."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from fdn_worker.protocol.names import ID_PATTERN

log = logging.getLogger(__name__)

#: Version of the messages, major.minor. A new minor adds optional fields; a new major is refused by old readers.
WIRE_VERSION = "1.1"

#: A site, task or dataset id.
Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
#: A file's SHA-256, in lower-case hexadecimal.
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError(f"moment {value} has no place in UTC") from error


#: A moment with its zone, kept in UTC.
Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


def now() -> datetime:
    """The present moment in UTC."""
    return datetime.now(UTC)


def check_relative_path(path: str) -> str:
    """A POSIX path below a folder: not absolute, not climbing, one line, no empty part."""
    parts = path.split("/")
    if not path or path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"path {path!r} must be relative, without '..', '.' or empty parts")
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise ValueError(f"path {path!r} holds a control character")
    return path


#: A relative POSIX path that stays below its folder.
RelativePath = Annotated[str, AfterValidator(check_relative_path)]


class Part(BaseModel):
    """A part of a message."""

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    def unknown_fields(self, place: str = "") -> Iterator[str]:
        """Dotted names of the fields that this version does not know."""
        yield from (place + name for name in self.model_extra or {})
        for name in type(self).model_fields:
            value: Any = getattr(self, name)
            for item in value if isinstance(value, tuple) else (value,):
                if isinstance(item, Part):
                    yield from item.unknown_fields(f"{place}{name}.")


class Message(Part):
    """A whole message; `kind` tells which."""

    kind: ClassVar[str]
    #: False for what may be lost without harm (heartbeats): it is not made durable on the way.
    durable: ClassVar[bool] = True

    version: Annotated[str, StringConstraints(pattern=r"^\d+\.\d+$")] = Field(default=WIRE_VERSION)

    @property
    def message_id(self) -> str:
        """The same for a repeat of the same message, by which receivers drop duplicates."""
        raise NotImplementedError


ByteCount = Annotated[int, Field(ge=0)]
Direction = Literal["get", "put"]
#: How files travel between a node and the store: by signed URLs, or in chunks over the broker.
Way = Literal["store", "broker"]
