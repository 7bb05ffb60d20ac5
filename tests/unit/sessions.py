"""A session of federated learning as its records tell it: losses that fall, clients that differ, and one of each outcome."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np

from federation.learning.dashboard import Seen
from storage.learning_rows import MeasureRow, RoundRow, SessionRow, UpdateRow
from tests.unit.helpers import MOMENT

SESSION = "5f0a9a51-0b0e-4a70-8d3c-3f1c52d2a001"
STEPS = 60


def a_session(**changes: Any) -> SessionRow:
    """It runs, in its first round."""
    configuration = json.dumps({"rounds": 12, "aggregator": {"name": "fedavg", "arguments": {}}})
    row = SessionRow(
        id=SESSION, name="digits", user="anna", project="", key="k", configuration=configuration, package="a" * 64, state="RUNNING",
        wanted="run", reason="", round=1, flow_run=None, created=MOMENT, changed=MOMENT, ended=None,
    )  # fmt: skip
    return replace(row, **changes)


def an_update(client: str, round: int = 1, **changes: Any) -> UpdateRow:
    """Counted, of ten examples, after ten seconds."""
    row = UpdateRow(
        session=SESSION, round=round, client=client, combiner="", run=None, outcome="COUNTED", reason="", examples=10.0, metrics={"loss": 1.0},
        began=MOMENT, ended=MOMENT + timedelta(seconds=10), validated=None, validation_began=None, validation_ended=None,
    )  # fmt: skip
    return replace(row, **changes)


def a_round(number: int = 1, **changes: Any) -> RoundRow:
    """Done within a minute."""
    row = RoundRow(SESSION, number, "DONE", MOMENT, MOMENT + timedelta(minutes=1), None, "", [])
    return replace(row, **changes)


def measure(client: str, step: int, value: float, *, round: int = 1, name: str = "loss", phase: Any = "train") -> MeasureRow:
    """A number that a client logged."""
    return MeasureRow(SESSION, round, client, phase, step, name, value, MOMENT)


def seen(rounds: int = 10, clients: int = 10, seed: int = 1, steps: int = STEPS) -> Seen:
    """Each round takes 40 s; the last one goes on."""
    rng = np.random.default_rng(seed)
    names = [f"site-{number:02d}" for number in range(clients)]
    found, updates, measures = [], [], []
    for number in range(1, rounds + 1):
        began, last = MOMENT + timedelta(seconds=40 * (number - 1)), number == rounds
        found.append(a_round(
            number, state="OPEN" if last else "DONE", began=began, ended=None if last else began + timedelta(seconds=38), requested=names,
            model=None if last else f"{number:08d}-0000-4000-8000-000000000000",
        ))  # fmt: skip
        for place, client in enumerate(names):
            loss = 2.3 * math.exp(-number / 4) * (1 + 0.1 * rng.normal()) + (0.8 if place == 3 else 0.05)
            seconds = 8 + 6 * rng.random() + (9 if place == 5 else 0)
            accuracy = max(0.0, 1 - loss / 2.6)
            changes: dict[str, Any] = {
                "began": began, "ended": began + timedelta(seconds=seconds), "examples": 100.0 + 20 * place,
                "metrics": {"loss": loss, "accuracy": accuracy}, "validated": {"loss": loss * 1.1, "accuracy": accuracy * 0.97, "examples": 40},
                "validation_began": began + timedelta(seconds=25), "validation_ended": began + timedelta(seconds=27 + 3 * rng.random()),
            }  # fmt: skip
            if (number + place) % 17 == 0:
                changes |= {"outcome": "REFUSED", "reason": f"{client}: dense.weight holds NaN", "metrics": {}}
            elif (number + place) % 23 == 0:
                changes |= {"outcome": "LATE", "reason": "came 12 s after the round had ended"}
            elif last and place % 2:
                changes |= {
                    "outcome": None,
                    "ended": None,
                    "validated": None,
                    "validation_began": None,
                    "validation_ended": None,
                    "metrics": {},
                }
            updates.append(an_update(client, number, **changes))
            for step in range(1, steps + 1):
                before = 2.3 * math.exp(-(number - 1 + step / steps) / 4) + (0.8 if place == 3 else 0.05)
                measures.append(measure(client, step, before * (1 + 0.08 * rng.normal()), round=number))
    return Seen(a_session(round=rounds), found, updates, measures)
