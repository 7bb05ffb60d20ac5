"""The policy file as it stands: rules, each with conditions, grants and limits. docs/reference/policy.md says what they mean."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    model_validator,
)

from fdn_worker.errors import SettingsError
from fdn_worker.policy.names import check_image_pattern, check_source_pattern
from fdn_worker.protocol.base import Id
from fdn_worker.protocol.image import PublicKey
from fdn_worker.protocol.order import AbsolutePath, Digest
from fdn_worker.release.rules import RuleId
from fdn_worker.settings import explain

#: none; the ports and servers of the order's own execution; what the site's proxy lets through; all of it.
Network = Literal["none", "server", "proxy", "open"]


def _moment(value: Any) -> Any:
    if not isinstance(value, datetime) or value.tzinfo is None:
        raise ValueError("write a moment with its zone, such as 2030-01-31T00:00:00Z")
    return value


Moment = Annotated[AwareDatetime, BeforeValidator(_moment)]


def _some(value: tuple[Any, ...]) -> tuple[Any, ...]:
    if not value:
        raise ValueError("an empty list matches nothing: leave the key out")
    return value


#: Glob patterns, of which one must stand for the whole name.
Patterns = Annotated[tuple[str, ...], AfterValidator(_some)]
ImagePatterns = Annotated[tuple[Annotated[str, AfterValidator(check_image_pattern)], ...], AfterValidator(_some)]
SourcePatterns = Annotated[tuple[Annotated[str, AfterValidator(check_source_pattern)], ...], AfterValidator(_some)]
Bytes = Annotated[ByteSize, Field(ge=0)]

#: Keys of grants and limits: a rule that denies has none of them.
GRANTS = (
    "network", "shelves", "secrets", "host_paths", "keep_sandboxes", "cpus", "memory", "gpus", "disk", "timeout", "max_runs", "max_at_once"
)  # fmt: skip


@dataclass(frozen=True)
class Runs:
    """What a rule has let in: ever, and of that unfinished now."""

    ever: int = 0
    now: int = 0


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Rule(_Table):
    """One `[[rule]]`. What stands in no key is no condition, grants nothing, and limits nothing."""

    id: RuleId
    effect: Literal["allow", "deny"]

    # Conditions: all that are named must hold
    tools: Patterns | None = None
    users: Patterns | None = None
    projects: Patterns | None = None
    images: ImagePatterns | None = None
    digests: Annotated[tuple[Digest, ...], AfterValidator(_some)] | None = None
    #: Signers of whom one has signed the image's digest.
    signed_by: Annotated[tuple[Id, ...], AfterValidator(_some)] | None = None
    from_: Annotated[Moment | None, Field(alias="from")] = None
    until: Moment | None = None

    # Grants; of a rule that denies the first three are conditions: the order asks for any of them
    datasets: Patterns | None = None
    sources: SourcePatterns | None = None
    #: An allowing rule without it allows the node's own launcher alone.
    launchers: Patterns | None = None
    network: Network = "none"
    shelves: Patterns | None = None
    secrets: Patterns | None = None
    host_paths: Annotated[tuple[AbsolutePath, ...], AfterValidator(_some)] | None = None
    keep_sandboxes: bool = False

    # Limits
    cpus: Annotated[float, Field(gt=0)] | None = None
    memory: Bytes | None = None
    gpus: Annotated[int, Field(ge=0)] | None = None
    disk: Bytes | None = None
    #: Seconds.
    timeout: Annotated[float, Field(gt=0)] | None = None
    #: Orders that the rule lets in, ever and at the same time.
    max_runs: Annotated[int, Field(ge=0)] | None = None
    max_at_once: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _fitting(self) -> Rule:
        if self.effect == "deny" and (misplaced := sorted(self.model_fields_set & set(GRANTS))):
            raise ValueError(f"rule {self.id!r} denies, so that {misplaced[0]!r} has no place in it")
        return self


class Policy(_Table):
    """The whole file."""

    #: Name -> public key in base64, by which signatures of images are checked.
    signers: Annotated[dict[Id, PublicKey], Field(default_factory=dict)]
    rule: tuple[Rule, ...] = ()
    _digest: str = PrivateAttr(default="")

    @property
    def digest(self) -> str:
        """SHA-256 of the file, which says which policy made a decision."""
        return self._digest

    @model_validator(mode="after")
    def _whole(self) -> Policy:
        seen: set[str] = set()
        for rule in self.rule:
            if rule.id in seen:
                raise ValueError(f"two rules have the id {rule.id!r}; decisions are recorded by it")
            seen.add(rule.id)
            if unknown := sorted(set(rule.signed_by or ()) - set(self.signers)):
                raise ValueError(f"rule {rule.id!r} names signer {unknown[0]!r}, whose key does not stand under [signers]")
        return self


def read(text: str, path: Path) -> Policy:
    """The policy in `text`; SettingsError names every wrong key with its place in `path`."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"policy file {path}: {error}", remedy="mend the TOML there") from error
    try:
        policy = Policy(**data)
    except ValidationError as error:
        raise SettingsError("; ".join(explain(item, text, str(path), Policy) for item in error.errors())) from error
    policy._digest = hashlib.sha256(text.encode()).hexdigest()
    return policy
