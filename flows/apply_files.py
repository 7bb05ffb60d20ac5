"""The two files that say what Prefect is to hold: `prefect.yaml`, and `deployments/prefect/federation.yaml` for what that cannot say.

Prefect itself passes over a key that it does not know; here one is an error with its place and the nearest right key.
`{{ $NAME }}` stands for a variable of the environment, which must be set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from federation.catalogue.document import CatalogueError, Document, Place

Read = TypeVar("Read", bound=BaseModel)

_VARIABLE = re.compile(r"\{\{\s*\$(\w+)\s*\}\}")


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Schedule(_Part):
    """When a deployment runs by itself. The slug is how a later change finds it."""

    slug: str
    cron: str | None = None
    #: Seconds.
    interval: Annotated[float, Field(gt=0)] | None = None
    rrule: str | None = None
    anchor_date: datetime | None = None
    timezone: str | None = None
    active: bool = True
    parameters: dict[str, Any] = {}

    @model_validator(mode="after")
    def _one(self) -> Schedule:
        if sum(value is not None for value in (self.cron, self.interval, self.rrule)) != 1:
            raise ValueError("give one of cron, interval and rrule")
        return self


class RunLimit(_Part):
    """How many runs of a deployment there may be at once, and what becomes of one more."""

    limit: Annotated[int, Field(gt=0)]
    collision_strategy: Literal["ENQUEUE", "CANCEL_NEW"]


class DeploymentPool(_Part):
    name: str
    work_queue_name: str | None = None
    job_variables: dict[str, Any] = {}


class Deployment(_Part):
    """An entry of prefect.yaml; of all that Prefect takes there, what a federation needs."""

    name: str
    description: str
    entrypoint: str
    tags: tuple[str, ...] = ()
    parameters: dict[str, Any] = {}
    concurrency_limit: RunLimit | None = None
    schedules: tuple[Schedule, ...] = ()
    work_pool: DeploymentPool
    pull: list[dict[str, Any]] | None = None


class DeploymentsFile(_Part):
    """prefect.yaml."""

    name: str
    prefect_version: str = Field(alias="prefect-version")
    #: A place for anchors.
    definitions: Any = None
    build: None = None
    push: None = None
    pull: list[dict[str, Any]]
    deployments: tuple[Deployment, ...]


class WorkPool(_Part):
    type: str = "process"
    description: str = ""
    #: Flow runs at once; None sets no bound.
    concurrency_limit: Annotated[int, Field(gt=0)] | None = None


class ConcurrencyLimit(_Part):
    limit: Annotated[int, Field(gt=0)]
    slot_decay_per_second: Annotated[float, Field(ge=0)] = 0.0


class _Conditional(_Part):
    #: A variable of the environment without which this is left out.
    when: str | None = None


class SavedBlock(_Conditional):
    values: dict[str, Any]


class Automation(_Conditional):
    """Trigger and actions in Prefect's own words; an action names its `block` (TYPE/NAME) or `deployment` (FLOW/NAME)."""

    description: str = ""
    trigger: dict[str, Any]
    actions: tuple[dict[str, Any], ...]


class FederationFile(_Part):
    """federation.yaml: each part maps a name to what it is."""

    #: What this file made is remembered under it, so that two federations may share a Prefect server.
    name: Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]
    #: The name under which broker, store and records of the centre's settings are saved as blocks; "" saves none.
    federation_blocks: str = ""
    work_pools: dict[str, WorkPool] = {}
    concurrency_limits: dict[str, ConcurrencyLimit] = {}
    #: TYPE/NAME of a block.
    blocks: dict[str, SavedBlock] = {}
    automations: dict[str, Automation] = {}


def read(path: Path, model: type[Read], environment: Mapping[str, str] = os.environ) -> Read:
    """The file as `model`; CatalogueError tells all that is wrong in it, each with its line."""
    document = Document(path)
    wrong: list[str] = []
    document.data = _filled(_present(document.data, environment), (), document, environment, wrong)
    if wrong:
        raise CatalogueError(wrong)
    return document.build(model)


def _present(data: Any, environment: Mapping[str, str]) -> Any:
    """Without the entries whose `when` names a variable that is not set."""
    if not isinstance(data, dict):
        return data
    return {key: _present(value, environment) for key, value in data.items() if _wanted(value, environment)}


def _wanted(entry: Any, environment: Mapping[str, str]) -> bool:
    when = entry.get("when") if isinstance(entry, dict) else None
    return not isinstance(when, str) or bool(environment.get(when))


def _filled(data: Any, place: Place, document: Document, environment: Mapping[str, str], wrong: list[str]) -> Any:
    """With the variables' values; those that are not set are told in `wrong`."""
    if isinstance(data, dict):
        return {key: _filled(value, (*place, key), document, environment, wrong) for key, value in data.items()}
    if isinstance(data, list):
        return [_filled(value, (*place, index), document, environment, wrong) for index, value in enumerate(data)]
    if not isinstance(data, str):
        return data
    wrong += [document.told(place, f"variable {name} is not set") for name in _VARIABLE.findall(data) if not environment.get(name)]
    return _VARIABLE.sub(lambda found: environment.get(found[1], ""), data)
