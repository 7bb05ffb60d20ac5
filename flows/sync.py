"""The deployment by which a merge in Git changes the federation: its pull step clones the repository, and this syncs a folder of it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_markdown_artifact
from prefect.client.schemas.objects import State as PrefectState
from prefect.concurrency.asyncio import concurrency
from prefect.states import Completed

from federation.catalogue.folder import load
from federation.sync import Step, carry_out, differing
from flows import connection

#: A limit of deployments/prefect/federation.yaml: two folders at once would undo each other's work half way.
LIMIT = "federation-sync"


@flow(name="sync", persist_result=False, validate_parameters=True)
async def sync(folder: str = "deployments/catalogue", dry_run: bool = False) -> PrefectState[Any]:
    """Make the federation match a catalogue's folder: nodes and tools.

    Args:
        folder: The folder with tools/ and nodes/; a relative one is looked for where the flow runs, which is its clone.
        dry_run: Tell the difference, and change nothing.
    """
    async with concurrency(LIMIT, strict=False):
        steps = await asyncio.to_thread(_synced, Path(folder), dry_run)
    logger = get_run_logger()
    for step in steps:
        logger.info("%s", step)
    count = sum(step.counts for step in steps)
    said = "nothing to change" if not count else f"{count} to change" if dry_run else f"{count} changed"
    if steps:
        listed = "\n".join(f"- {step}" for step in steps)
        await acreate_markdown_artifact(f"# Sync of {folder}\n\n{listed}\n", key="sync", description=said)
    return Completed(name="Unchanged" if not count or dry_run else "Changed", message=said, data=[str(step) for step in steps])


def _synced(folder: Path, dry_run: bool) -> list[Step]:
    # Read as a whole before anything is changed.
    catalogue = load(folder)
    centre = connection.centre()
    steps = differing(centre, catalogue)
    if not dry_run:
        carry_out(centre, catalogue, steps)
    return steps
