"""A simulation as a flow: the same as `fem simulate`, with its summary as an artifact."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import acreate_table_artifact

from federation.simulation import sweep
from federation.simulation.simulator import Seen


@flow(name="simulation", persist_result=False, validate_parameters=True)
async def simulation(file: str = "examples/simulation/digits.yaml", output: str | None = None) -> list[dict[str, Any]]:
    """Simulate federated learning; a row for each variant comes back.

    Args:
        file: The configuration; a relative one is looked for where the flow runs.
        output: Folder for the results; else the file's own `output_folder`.
    """
    logger = get_run_logger()

    def seen(variant: str, what: Seen) -> None:
        logger.info("%s repetition %d, round %d: metric %.4f, loss %.4f", variant, what.repetition, what.round, what.metric, what.loss)

    path = Path(file)
    configurations = sweep.checked(path)
    done = await asyncio.to_thread(sweep.run, path, configurations, output=Path(output) if output else None, watch=seen)
    rows = sweep.table(done)
    await acreate_table_artifact(rows, key="simulation", description=f"Simulation {path.stem}")
    return rows
