"""Metrics that clients log while they train, as measures: from lines of the log, checked and thinned.

    ::metrics {"step": 3, "loss": 0.41, "accuracy": 0.9}

An object of numbers after the mark, alone on its line. `step` counts within the round; without it, lines are counted. What is wrong is left out,
never raised: a client's log is text that anybody wrote. What a client says of one round is bounded whatever it logs: see `wanted` and NAMES.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID

from fdn_worker.protocol import TaskEvent
from storage.learning_rows import MeasureRow, Phase
from storage.schema import LARGEST_NUMBER

log = logging.getLogger(__name__)

MARK = "::metrics "
#: Characters of a line.
LONGEST = 4096
#: Different names that one client may use in a phase of a round.
NAMES = 32
#: Values of a name that are kept one by one; of what comes after them, ever fewer.
DENSE = 256
NAME = re.compile(r"[A-Za-z_][\w./@%+:\- ]{0,63}", re.ASCII)


class Line(NamedTuple):
    """What a line says. `complaint` tells what of it was left out, and why."""

    values: dict[str, float]
    step: int | None = None
    complaint: str = ""


def parse(line: str) -> Line | None:
    """The metrics of a line of the log; None for a line of any other kind."""
    if not line.startswith(MARK):
        return None
    if len(line) > LONGEST:
        return Line({}, complaint=f"a line of {len(line):,} characters; at most {LONGEST:,} are read")
    try:
        told = json.loads(line[len(MARK) :])
    except (ValueError, RecursionError) as error:
        return Line({}, complaint=f"no JSON: {error}")
    if not isinstance(told, dict):
        return Line({}, complaint='no JSON object: write ::metrics {"loss": 0.41}')
    step = told.pop("step", None)
    if step is not None and not (isinstance(step, int | float) and 0 <= step <= LARGEST_NUMBER and step == int(step)):
        return Line({}, complaint=f"step {step!r} is no count")
    values, complaint = {}, ""
    for name, value in told.items():
        if wrong := _wrong(name, value):
            complaint = wrong
        else:
            values[name] = float(value)
    return Line(values, None if step is None else int(step), complaint)


def _wrong(name: str, value: object) -> str:
    if not NAME.fullmatch(name):
        return f"name {name[:80]!r}: begin with a letter; at most 64 letters, digits, spaces and ./@%+:_- are taken"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{name}: {str(value)[:80]!r} is no number"
    try:
        return "" if math.isfinite(value) else f"{name}: {value} is not finite"
    except OverflowError:
        return f"{name}: larger than any float"


def wanted(ordinal: int) -> bool:
    """Whether to keep value `ordinal`, from 1 on, of a name: all up to DENSE, every 2nd up to twice that, every 4th up to four times, ...

    Of *n* values about DENSE (1 + log2(n / DENSE) / 2) are kept: a million leave some 1,800.
    """
    return ordinal % (1 << max(0, math.ceil(math.log2(ordinal / DENSE)))) == 0


@dataclass
class _Heard:
    """Of a client in a phase of a round."""

    attempt: int
    lines: int = 0
    counts: Counter[str] = field(default_factory=Counter)


class Measuring:
    """Makes measures of a session's events. The same events in the same order give the same measures: hearing them again changes nothing."""

    def __init__(self, session: str | UUID) -> None:
        self._session = str(session)
        self._heard: dict[tuple[int, str, Phase], _Heard] = {}
        self._told: set[str] = set()

    def measures_of(self, round: int, client: str, phase: Phase, event: TaskEvent) -> list[MeasureRow]:
        """What the lines of an event say. A new attempt begins to count again, and its values take the place of the former's."""
        key = round, client, phase
        heard = self._heard.get(key)
        if heard is None or event.attempt > heard.attempt:
            heard = self._heard[key] = _Heard(event.attempt)
        # Values of one step are one measure; the last one said counts.
        found = {(step, name): value for step, name, value in self._values(client, heard, event)}
        if event.state is not None and event.state.terminal:
            del self._heard[key]
        return [MeasureRow(self._session, round, client, phase, step, name, value, event.at) for (step, name), value in found.items()]

    def _values(self, client: str, heard: _Heard, event: TaskEvent) -> Iterator[tuple[int, str, float]]:
        for text in event.lines:
            if (line := parse(text)) is None:
                continue
            heard.lines += 1
            if line.complaint:
                self._tell(client, line.complaint)
            for name, value in line.values.items():
                if name not in heard.counts and len(heard.counts) == NAMES:
                    self._tell(client, f"{name}: only the first {NAMES} names of a round are kept")
                    continue
                heard.counts[name] += 1
                if wanted(heard.counts[name]):
                    yield heard.lines if line.step is None else line.step, name, value

    def _tell(self, client: str, complaint: str) -> None:
        """Once a client: one that gets its metrics wrong does so in each line."""
        if client not in self._told:
            self._told.add(client)
            log.warning("metrics of %s: %s; left out, as are others like it", client, complaint, extra={"action": "metrics-refused"})
