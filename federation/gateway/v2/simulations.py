"""Simulations: the results that lie in the folder that the settings name."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
from fastapi import APIRouter, Request

from federation.gateway import simulations as shown
from federation.gateway.services import of
from federation.gateway.signing import Who
from federation.gateway.v2 import shapes

router = APIRouter(prefix="/simulations", tags=["simulations"])


@router.get("")
def list_simulations(request: Request, who: Who) -> list[shapes.Simulation]:
    """Those whose results are there, the newest first."""
    return [shapes.Simulation.model_validate(one, from_attributes=True) for one in shown.simulations(of(request), who)]


@router.get("/{name}")
def show(request: Request, who: Who, name: str) -> shapes.SimulationResults:
    """One of them."""
    found = shown.simulation(of(request), who, name)
    return shapes.SimulationResults(
        name=found.name, configurations=found.configurations, summary=_rows(found.summary), rounds=_rows(found.rounds)
    )  # fmt: skip


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """As JSON has them: what is not a number is null."""
    return list(json.loads(frame.to_json(orient="records")))
