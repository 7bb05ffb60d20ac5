"""What `fem apply` does: Prefect's server is made to match `prefect.yaml` and `federation.yaml`, and cleared of what it made before.

A variable of Prefect's remembers what was made, so that nothing of anybody else's is ever taken away. It is written before
anything is made, so that an apply that is cut off half way forgets nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect.blocks.core import Block
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import VariableCreate, VariableUpdate

from flows import cli_blocks
from flows.apply_files import DeploymentsFile, FederationFile
from flows.apply_kinds import Automations, Blocks, ConcurrencyLimits, Deployments, Kind, WorkPools, block_of, shown

Made = dict[str, list[str]]


@dataclass(frozen=True)
class Change:
    """`sign` is + (made), ~ (changed) or - (taken away); `details` say what of it changes."""

    sign: str
    kind: str
    name: str
    details: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join((f"{self.sign} {self.kind} {self.name}", *(f"    {detail}" for detail in self.details)))


def apply(
    client: SyncPrefectClient, federation: FederationFile, path: Path, deployments: DeploymentsFile, *, dry_run: bool = False
) -> Iterator[Change]:  # fmt: skip
    """Each change as it is made, or would be. `path` is that of prefect.yaml."""
    kinds = _kinds(client, federation, path, deployments)
    memory = f"fem_applied_{federation.name}"
    before = _recall(client, memory)
    wanted = {kind.name: sorted(kind.wanted()) for kind in kinds}
    if not dry_run:
        _remember(client, memory, {name: sorted({*names, *before.get(name, ())}) for name, names in wanted.items()}, before)
    for kind in kinds:
        changes = [*_changes(kind)]
        if changes and not dry_run:
            kind.put([change.name for change in changes])
        yield from changes
    for kind in reversed(kinds):
        for name in sorted(kind.standing(set(before.get(kind.name, ())) - set(wanted[kind.name]))):
            if not dry_run:
                kind.remove(name)
            yield Change("-", kind.name, name)
    if not dry_run:
        _remember(client, memory, wanted, _recall(client, memory))


def _kinds(client: SyncPrefectClient, federation: FederationFile, path: Path, file: DeploymentsFile) -> list[Kind]:
    """In the order in which one may need another."""
    saved: dict[str, Block] = {name: block_of(name, block) for name, block in federation.blocks.items()}
    if federation.federation_blocks:
        for block in cli_blocks.of_settings():
            saved[f"{type(block).get_block_type_slug()}/{federation.federation_blocks}"] = block
    blocks, deployments = Blocks(client, saved), Deployments(client, path, file)
    return [
        WorkPools(client, federation.work_pools), ConcurrencyLimits(client, federation.concurrency_limits), blocks, deployments,
        Automations(client, federation.automations, blocks, deployments),
    ]  # fmt: skip


def _changes(kind: Kind) -> Iterator[Change]:
    wanted = kind.wanted()
    standing = kind.standing(wanted)
    for name, values in wanted.items():
        if name not in standing:
            yield Change("+", kind.name, name)
        elif differing := tuple(_differing(values, standing[name])):
            yield Change("~", kind.name, name, differing)


def _differing(wanted: Mapping[str, Any], standing: Mapping[str, Any], above: str = "") -> Iterator[str]:
    for key in sorted({*wanted, *(standing if above else ())}):
        now, then = standing.get(key), wanted.get(key)
        if isinstance(now, dict) and isinstance(then, dict):
            yield from _differing(then, now, f"{above}{key}.")
        elif now != then:
            yield f"{above}{key}: {shown(now)} -> {shown(then)}"


def _recall(client: SyncPrefectClient, memory: str) -> Made:
    found = client.read_variable_by_name(memory)
    return dict(found.value) if found is not None and isinstance(found.value, dict) else {}


def _remember(client: SyncPrefectClient, memory: str, made: Made, before: Made) -> None:
    if made == before:
        return
    if before or client.read_variable_by_name(memory) is not None:
        client.update_variable(VariableUpdate(name=memory, value=made))
    else:
        client.create_variable(VariableCreate(name=memory, value=made))
