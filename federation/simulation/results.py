"""Results of simulations that lie in folders, as `report.write` leaves them: found, and read back as tables."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from federation.simulation.errors import SimulationError


@dataclass(frozen=True)
class Found:
    """A folder with results, and since when they are there."""

    name: str
    at: datetime


@dataclass(frozen=True)
class Results:
    """Of one simulation, or a sweep. Each table has a column `variant`; that of a single simulation is empty."""

    name: str
    #: As `analysis.summary` has it: a row a variant.
    summary: pd.DataFrame
    #: As `analysis.rounds`, of all repetitions.
    rounds: pd.DataFrame
    #: As `analysis.by_device`.
    devices: pd.DataFrame
    #: Variant -> what it changes of the defaults: a.b.c -> value.
    configurations: dict[str, dict[str, object]]

    @property
    def variants(self) -> list[str]:
        """In the file's order."""
        return list(self.configurations)


def found(folder: Path) -> list[Found]:
    """The folders in this one that have results, the newest first."""
    stats = {path.parent.name: path.stat().st_mtime for path in folder.glob("*/configurations.json")}
    return sorted((Found(name, datetime.fromtimestamp(at, UTC)) for name, at in stats.items()), key=lambda one: one.at, reverse=True)


def read(folder: Path, name: str) -> Results | None:
    """The results of this name; None where there are none. SimulationError if they are damaged."""
    # A name is looked for among those that are there, and never a path.
    if name not in {one.name for one in found(folder)}:
        return None
    place = folder / name
    try:
        tables = {table: pd.read_csv(place / f"{table}.csv", keep_default_na=True) for table in ("summary", "rounds", "devices")}
        for frame in tables.values():
            frame["variant"] = frame["variant"].fillna("").astype(str)
        configurations = json.loads((place / "configurations.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError) as error:
        raise SimulationError(f"{name}: its results cannot be read: {error}", remedy="simulate it again") from error
    return Results(name, configurations=configurations, **tables)
