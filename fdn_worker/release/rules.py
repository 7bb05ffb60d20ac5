"""Section [release] of the settings: the first rule that fits a file decides about it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, StringConstraints, model_validator

from fdn_worker.release.kinds import Kind

#: Stands in manifests as the rule that let a file go.
RuleId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,62}[A-Za-z0-9])?$")]


class Rule(BaseModel):
    """All that it names must fit; what it leaves out fits everything. Patterns are as those of outputs: `*` stays within a folder."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: RuleId
    #: Let it go, let it go if `checks` find nothing, have a person decide, or keep it here.
    action: Literal["auto", "check", "person", "deny"]
    #: The attempt's log instead of its outputs.
    log: bool = False

    #: Patterns of what the order says of itself.
    tools: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    #: Patterns of datasets, and of host folders. A rule that lets go (auto, check) fits when it names all that the order
    #: mounts, one that holds or denies when it names any of it.
    datasets: tuple[str, ...] = ()

    #: Patterns of paths below the sandbox.
    files: tuple[str, ...] = ()
    #: Types, by content.
    kinds: tuple[Kind, ...] = ()
    #: Bytes of a file; and how many files it may be for in one attempt: when there are more, it fits none of them.
    max_size: ByteSize | None = None
    max_files: Annotated[int, Field(ge=1)] | None = None

    #: Name of a check -> its options.
    checks: Annotated[dict[str, dict[str, Any]], Field(default_factory=dict)]
    #: What follows when a check finds something.
    otherwise: Literal["person", "deny"] = "person"

    @model_validator(mode="after")
    def _consistent(self) -> Rule:
        if (self.action == "check") != bool(self.checks):
            raise ValueError(f"rule {self.id!r}: action check and a table of checks belong together")
        if self.log and self.files:
            raise ValueError(f"rule {self.id!r}: the log is one file, so that there are no patterns of files")
        return self


class ReleaseSection(BaseModel):
    """Without rules and default everything leaves that matches the order's patterns."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[Rule, ...] = ()
    #: What no rule fits: let it go, have a person decide, or keep it here. Not given: `person` where there are rules.
    default: Literal["auto", "person", "deny"] | None = None

    @model_validator(mode="after")
    def _told_apart(self) -> ReleaseSection:
        ids = [rule.id for rule in self.rules]
        if twice := sorted({name for name in ids if ids.count(name) > 1 or name == DEFAULT}):
            raise ValueError(f"rule {twice[0]!r} is there twice, or has a name that is taken")
        return self

    @property
    def otherwise(self) -> Literal["auto", "person", "deny"]:
        """The default that holds."""
        return self.default or ("person" if self.rules else "auto")

    @property
    def closed(self) -> bool:
        """Whether anything may be kept from leaving."""
        return bool(self.rules) or self.otherwise != "auto"


#: Stands for a rule where none fitted.
DEFAULT = "default"
