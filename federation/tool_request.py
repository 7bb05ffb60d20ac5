"""ToolRequest: one submission of a tool at nodes: what to run, where, with which arguments and under which policies."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, field_validator, model_validator

from fdn_worker.protocol.base import Id

_SHARE = re.compile(r"^(\d{1,3})\s*%$")


class ToolRequest(BaseModel):
    """What a researcher asks for. Names of nodes are ids; the catalogue resolves display names before."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    tool: str
    #: Where the tasks run that are no server's, each at all of them.
    nodes: Annotated[tuple[Id, ...], Field(min_length=1)]
    #: Where a server's task runs; needed by a tool that has one.
    server_node: Id | None = None
    #: Argument id -> value; an entry named after a node, or `server`, holds values for that one alone.
    arguments: dict[str, Any] = Field(default_factory=dict)
    #: Files of the submitter's machine for every task: PATH or NAME=PATH; at $INPUT_PATH.
    inputs: tuple[str, ...] = ()

    #: How many of `nodes` must succeed: all, a number, or a share such as "80%".
    quorum: Literal["all"] | Annotated[int, Field(ge=1)] | str = "all"
    #: For a node that is gone: `wait` until the deadline, `skip` it (it counts against the quorum), `fail` before anything is sent.
    on_node_offline: Literal["wait", "skip", "fail"] = "wait"
    #: Compute ends by this moment; None gives the longest timeout and a day of waiting.
    deadline: AwareDatetime | None = None
    #: New attempts of a run after faults of the infrastructure.
    retries: Annotated[int, Field(ge=0, le=100)] = 0
    #: End what still runs as soon as the quorum cannot be reached any more.
    fail_fast: bool = False
    #: Runs that are under way at once; None is all of them.
    max_parallel: Annotated[int, Field(ge=1)] | None = None
    user: str = ""
    project: str = ""

    @field_validator("nodes")
    @classmethod
    def _each_once(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if twice := sorted({node for node in value if value.count(node) > 1}):
            raise ValueError(f"{', '.join(twice)} named twice")
        return value

    @field_validator("quorum")
    @classmethod
    def _readable(cls, value: int | str) -> int | str:
        if isinstance(value, str) and value != "all":
            share = _SHARE.match(value)
            if value.isdigit() and int(value) >= 1:
                return int(value)
            if share is None or not 0 < int(share[1]) <= 100:
                raise ValueError(f"{value!r} is none of: all, a number of nodes, a share such as 80%")
        return value

    @model_validator(mode="after")
    def _reachable(self) -> ToolRequest:
        if isinstance(self.quorum, int) and self.quorum > len(self.nodes):
            raise ValueError(f"quorum {self.quorum} is more than the {len(self.nodes)} nodes")
        return self

    @property
    def needed(self) -> int:
        """Nodes that must succeed; a share is rounded up."""
        if self.quorum == "all":
            return len(self.nodes)
        if isinstance(self.quorum, int):
            return self.quorum
        share = _SHARE.match(self.quorum)
        assert share is not None
        return -(-len(self.nodes) * int(share[1]) // 100)
