"""The kinds of things that Prefect keeps for a federation: how each stands on the server, and how it is made and taken away."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.schemas.automations import Automation as PrefectAutomation
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import MissingFlowError, ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.utilities.callables import parameter_schema
from prefect.utilities.dispatch import lookup_type
from prefect.workers.base import BaseWorker
from pydantic import BaseModel, SecretStr, ValidationError

from fdn_worker.errors import SettingsError, SystemFault
from federation.nearest import unknown
from flows.apply_files import Automation, ConcurrencyLimit, Deployment, DeploymentsFile, SavedBlock, WorkPool

#: In the place of an id that will be known once the thing it names was made.
NOT_YET = UUID(int=0)


class Kind(Protocol):
    """One kind of thing. Values are plain and comparable; a secret in them shows as nothing."""

    name: str

    def wanted(self) -> Mapping[str, Mapping[str, Any]]: ...
    def standing(self, names: Collection[str]) -> Mapping[str, Mapping[str, Any]]:
        """Those of these names that are there; of each the fields that are wanted."""

    def put(self, names: Sequence[str]) -> None:
        """Make these as they are wanted."""

    def remove(self, name: str) -> None: ...


class WorkPools:
    name = "work pool"

    def __init__(self, client: SyncPrefectClient, pools: Mapping[str, WorkPool]) -> None:
        self._client, self._pools = client, pools
        for name, pool in pools.items():
            self._check(name, pool)

    def _check(self, name: str, pool: WorkPool) -> None:
        """The type can be had, and is what it was."""
        known = BaseWorker.get_all_available_worker_types()
        if pool.type not in known:
            raise SettingsError(f"work pool {name}: there is no type {pool.type!r} here", remedy=unknown(pool.type, known))
        if (there := self.standing([name])) and there[name]["type"] != pool.type:
            raise SettingsError(
                f"work pool {name} is of type {there[name]['type']!r}, and Prefect cannot change that",
                remedy=f"`prefect work-pool delete {name}` first, or name the new one otherwise",
            )

    def wanted(self) -> Mapping[str, Mapping[str, Any]]:
        return {name: pool.model_dump() for name, pool in self._pools.items()}

    def standing(self, names: Collection[str]) -> Mapping[str, Mapping[str, Any]]:
        found = {}
        for name in names:
            try:
                pool = self._client.read_work_pool(name)
            except ObjectNotFound:
                continue
            found[name] = {"type": pool.type, "description": pool.description or "", "concurrency_limit": pool.concurrency_limit}
        return found

    def put(self, names: Sequence[str]) -> None:
        there = self.standing(names)
        for name in names:
            pool = self._pools[name]
            if name in there:
                self._client.update_work_pool(name, WorkPoolUpdate(**pool.model_dump(exclude={"type"})))
                continue
            worker = BaseWorker.get_worker_class_from_type(pool.type)
            assert worker is not None, "checked before"
            template = worker.get_default_base_job_template()
            self._client.create_work_pool(WorkPoolCreate(name=name, base_job_template=template, **pool.model_dump()))

    def remove(self, name: str) -> None:
        self._client.delete_work_pool(name)


class ConcurrencyLimits:
    name = "concurrency limit"

    def __init__(self, client: SyncPrefectClient, limits: Mapping[str, ConcurrencyLimit]) -> None:
        self._client, self._limits = client, limits

    def wanted(self) -> Mapping[str, Mapping[str, Any]]:
        return {name: limit.model_dump() for name, limit in self._limits.items()}

    def standing(self, names: Collection[str]) -> Mapping[str, Mapping[str, Any]]:
        found = {}
        for name in names:
            try:
                limit = self._client.read_global_concurrency_limit_by_name(name)
            except ObjectNotFound:
                continue
            found[name] = {"limit": limit.limit, "slot_decay_per_second": limit.slot_decay_per_second}
        return found

    def put(self, names: Sequence[str]) -> None:
        there = self.standing(names)
        for name in names:
            values = self._limits[name].model_dump()
            if name in there:
                self._client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(**values))
            else:
                self._client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, **values))

    def remove(self, name: str) -> None:
        self._client.delete_global_concurrency_limit_by_name(name)


class Blocks:
    """Saved blocks, by TYPE/NAME."""

    name = "block"

    def __init__(self, client: SyncPrefectClient, blocks: Mapping[str, Block]) -> None:
        self._client, self._blocks = client, blocks

    def wanted(self) -> Mapping[str, Mapping[str, Any]]:
        return {name: _values(block) for name, block in self._blocks.items()}

    def standing(self, names: Collection[str]) -> Mapping[str, Mapping[str, Any]]:
        found = {}
        for name in names:
            slug, _, document = name.partition("/")
            try:
                stored = self._client.read_block_document_by_name(document, slug).data
            except ObjectNotFound:
                continue
            found[name] = _values(type(self._blocks[name]).model_validate(stored)) if name in self._blocks else {}
        return found

    def put(self, names: Sequence[str]) -> None:
        for name in names:
            block = self._blocks[name]
            type(block).register_type_and_schema()
            block.save(name.partition("/")[2], overwrite=True)

    def remove(self, name: str) -> None:
        slug, _, document = name.partition("/")
        self._client.delete_block_document(self._client.read_block_document_by_name(document, slug).id)

    def id(self, name: str) -> UUID:
        """Of a saved block; NOT_YET if it is not there yet."""
        slug, _, document = name.partition("/")
        try:
            return self._client.read_block_document_by_name(document, slug).id
        except ObjectNotFound:
            return NOT_YET


def block_of(name: str, saved: SavedBlock) -> Block:
    """The block that an entry describes."""
    import prefect.blocks.notifications
    import prefect.blocks.system
    import prefect.blocks.webhook  # noqa: F401 (a type is known once its module was imported)

    slug, slash, document = name.partition("/")
    if not slash or not document:
        raise SettingsError(f"block {name!r}", remedy="name it TYPE/NAME, such as webhook/federation-alerts")
    try:
        kind = lookup_type(Block, slug)
    except KeyError as error:
        raise SettingsError(f"block {name}: no type {slug!r} is known", remedy="take one of Prefect's own, such as webhook") from error
    if strange := set(saved.values) - set(kind.model_fields):
        raise SettingsError(f"block {name}: unknown value {min(strange)!r}", remedy=unknown(min(strange), kind.model_fields))
    try:
        return kind.model_validate(saved.values)
    except ValidationError as error:
        raise _wrong(f"block {name}", error) from error


def _values(block: Block) -> dict[str, Any]:
    return {name: getattr(block, name) for name in type(block).model_fields}


class Deployments:
    """prefect.yaml, by FLOW/NAME. `prefect deploy --all` makes them; schedules and deployments that are named no more go here."""

    name = "deployment"

    def __init__(self, client: SyncPrefectClient, path: Path, file: DeploymentsFile) -> None:
        self._client, self._path, self._file = client, path, file
        self._flows = {entry.entrypoint: _flow(path, entry.entrypoint) for entry in file.deployments}
        self._entries = {f"{self._flows[entry.entrypoint].name}/{entry.name}": entry for entry in file.deployments}
        if len(self._entries) < len(file.deployments):
            raise SettingsError(f"{path}: two deployments of one flow have one name", remedy="give each a name of its own")

    def wanted(self) -> Mapping[str, Mapping[str, Any]]:
        return {name: self._described(entry) for name, entry in self._entries.items()}

    def _described(self, entry: Deployment) -> dict[str, Any]:
        return {
            "description": entry.description, "entrypoint": entry.entrypoint, "tags": sorted(entry.tags), "parameters": entry.parameters,
            "work_pool": entry.work_pool.name, "job_variables": entry.work_pool.job_variables,
            "concurrency_limit": entry.concurrency_limit.model_dump() if entry.concurrency_limit else None,
            "schedules": {schedule.slug: schedule.model_dump(exclude_unset=True) for schedule in entry.schedules},
            "pull": self._file.pull if entry.pull is None else entry.pull,
            "form": parameter_schema(self._flows[entry.entrypoint]).model_dump(exclude_unset=True),
        }  # fmt: skip

    def standing(self, names: Collection[str]) -> Mapping[str, Mapping[str, Any]]:
        found = {}
        for name in names:
            try:
                deployment = self._client.read_deployment_by_name(name)
            except ObjectNotFound:
                continue
            found[name] = _stands(deployment, self._entries.get(name))
        return found

    def put(self, names: Sequence[str]) -> None:
        words = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", self._path.name]
        done = subprocess.run(words, cwd=self._path.parent, capture_output=True, text=True, check=False)
        if done.returncode:
            said = " ".join((done.stdout + done.stderr).split())
            raise SystemFault(f"prefect deploy: {said[-500:]}", remedy=f"mend {self._path}, or see that the server answers")
        for name in names:
            deployment = self._client.read_deployment_by_name(name)
            slugs = {schedule.slug for schedule in self._entries[name].schedules}
            for schedule in deployment.schedules:
                if schedule.slug not in slugs:
                    self._client.delete_deployment_schedule(deployment.id, schedule.id)

    def remove(self, name: str) -> None:
        self._client.delete_deployment(self._client.read_deployment_by_name(name).id)

    def id(self, name: str) -> UUID:
        """Of a deployment; NOT_YET if it is not there yet."""
        try:
            return self._client.read_deployment_by_name(name).id
        except ObjectNotFound:
            return NOT_YET


def _flow(path: Path, entrypoint: str) -> Flow[..., Any]:
    try:
        return load_flow_from_entrypoint(entrypoint)
    except (ImportError, AttributeError, MissingFlowError, ValueError) as error:
        raise SettingsError(
            f"{path}: entrypoint {entrypoint}: {error}", remedy="name it MODULE.FUNCTION, and run this in the checkout"
        ) from error


def _stands(deployment: DeploymentResponse, entry: Deployment | None) -> dict[str, Any]:
    limit, options = deployment.global_concurrency_limit, deployment.concurrency_options
    wanted = {schedule.slug: schedule.model_fields_set for schedule in entry.schedules} if entry else {}
    schedules = {}
    for schedule in deployment.schedules:
        timed = schedule.schedule.model_dump()
        if "interval" in timed:
            timed["interval"] = timed["interval"].total_seconds()
        stands = timed | {"slug": schedule.slug, "active": schedule.active, "parameters": schedule.parameters}
        slug = schedule.slug or str(schedule.id)
        schedules[slug] = {key: value for key, value in stands.items() if key in wanted.get(slug, ())}
    return {
        "description": deployment.description, "entrypoint": deployment.entrypoint, "tags": sorted(deployment.tags),
        "parameters": deployment.parameters, "work_pool": deployment.work_pool_name, "job_variables": deployment.job_variables,
        "concurrency_limit": {"limit": limit.limit, "collision_strategy": options.collision_strategy.value if options else "ENQUEUE"}
        if limit else None,
        "schedules": schedules, "pull": deployment.pull_steps, "form": deployment.parameter_openapi_schema,
    }  # fmt: skip


class Automations:
    name = "automation"

    def __init__(self, client: SyncPrefectClient, automations: Mapping[str, Automation], blocks: Blocks, deployments: Deployments) -> None:
        self._client, self._automations, self._blocks, self._deployments = client, automations, blocks, deployments
        self.wanted()  # so that a wrong one is told before anything is changed

    def wanted(self) -> Mapping[str, Mapping[str, Any]]:
        return {name: self._core(name).model_dump(exclude={"name"}) for name in self._automations}

    def standing(self, names: Collection[str]) -> Mapping[str, Mapping[str, Any]]:
        return {name: found[0].model_dump(exclude={"id", "name"}) for name in names if (found := self._found(name))}

    def put(self, names: Sequence[str]) -> None:
        for name in names:
            if found := self._found(name):
                self._client.update_automation(found[0].id, self._core(name))
            else:
                self._client.create_automation(self._core(name))

    def remove(self, name: str) -> None:
        for found in self._found(name):
            self._client.delete_automation(found.id)

    def _found(self, name: str) -> list[PrefectAutomation]:
        return self._client.read_automations_by_name(name)

    def _core(self, name: str) -> AutomationCore:
        automation = self._automations[name]
        actions = [self._action(name, action) for action in automation.actions]
        try:
            core = AutomationCore.model_validate(
                {"name": name, "description": automation.description, "trigger": automation.trigger, "actions": actions}
            )
        except ValidationError as error:
            raise _wrong(f"automation {name}", error) from error
        for said, taken in [(automation.trigger, core.trigger), *zip(actions, core.actions, strict=True)]:
            _check_keys(f"automation {name}", said, taken)
        return core

    def _action(self, name: str, action: Mapping[str, Any]) -> dict[str, Any]:
        """With the ids of the block and the deployment that it names."""
        action = dict(action)
        for key, field, kind in (("block", "block_document_id", self._blocks), ("deployment", "deployment_id", self._deployments)):
            if (said := action.pop(key, None)) is not None:
                if said not in kind.wanted():
                    raise SettingsError(f"automation {name}: {key} {said!r} is not declared", remedy=unknown(str(said), kind.wanted()))
                action[field] = kind.id(said)
        return action


def _check_keys(where: str, said: Mapping[str, Any], taken: BaseModel) -> None:
    """Prefect passes over keys that it does not know; here they are errors."""
    fields = type(taken).model_fields
    for key in said:
        if key not in fields:
            raise SettingsError(f"{where}: unknown key {key!r}", remedy=unknown(key, fields, "right would be"))
    for index, inner in enumerate(said.get("triggers", ())):
        _check_keys(where, inner, getattr(taken, "triggers")[index])  # noqa: B009 (of composite triggers alone)


def _wrong(what: str, error: ValidationError) -> SettingsError:
    said = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
    return SettingsError(f"{what}: {said}")


def shown(value: Any) -> str:
    """A value for people: short, and without secrets."""
    if isinstance(value, SecretStr) or "Secret" in type(value).__name__:
        return "(secret)"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
