"""The devices of a repetition as they are drawn: when they are there, when they fail, how fast they are."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from federation.simulation.configuration import Configuration
from federation.simulation.errors import SimulationError
from federation.simulation.streams import Purpose, Rng, stream


@dataclass(frozen=True)
class Devices:
    """Arrays [rounds, devices] or [devices]. The centre alone knows them; no worker sees one."""

    availability: np.ndarray
    failures: np.ndarray
    ips: np.ndarray
    energy: np.ndarray
    net_speed: np.ndarray
    local_data_sizes: np.ndarray

    def with_sizes(self, sizes: np.ndarray) -> Devices:
        """The same, with the examples that a partition gave them."""
        return replace(self, local_data_sizes=sizes)


def draw(configuration: Configuration, repetition: int) -> Devices:
    """All draws of one repetition."""
    rounds, devices = configuration.simulation.num_rounds, configuration.devices.num
    rng = stream(configuration.simulation.seed, Purpose.DEVICES, repetition)
    shape = (rounds, devices)
    return Devices(
        availability=rng.random(shape) < configuration.devices.p_available,
        failures=rng.random(shape) < configuration.devices.p_fail,
        ips=around(rng, configuration.computation.ips_mean, configuration.computation.ips_var, devices),
        energy=around(rng, configuration.energy.avail_mean, configuration.energy.avail_var, devices),
        net_speed=_speeds(rng, configuration.network.speed_mean, configuration.network.speed_var, shape),
        local_data_sizes=around(rng, configuration.data.num_examples_mean, configuration.data.num_examples_var, devices),
    )


def around(rng: Rng, mean: int, var: int, size: int) -> np.ndarray:
    """Integers, uniform in [mean - var, mean + var); the constant where var is 0."""
    return rng.integers(mean - var, mean + var, size) if var else np.full(size, mean)


def _speeds(rng: Rng, mean: int, var: int, shape: tuple[int, int]) -> np.ndarray:
    """[rounds, devices]: each device has a mean and a spread of its own. Never 0, with which nothing would ever arrive."""
    middle = around(rng, mean, var, shape[1])
    spread = var * rng.uniform(0.01, 0.99, shape[1])
    low = np.maximum(middle - spread, 1).astype(np.int64)
    high = np.maximum((middle + spread).astype(np.int64), low + 1)
    return rng.integers(low, high, shape)


class Trace:
    """Availability of devices from a file: CSV with `device,start,end`, in simulated seconds."""

    def __init__(self, spans: Iterable[tuple[int, float, float]], devices: int) -> None:
        rows = sorted(spans, key=lambda span: span[1])
        self._device = np.array([row[0] for row in rows], dtype=np.int64)
        self._start, self._end = np.array([row[1] for row in rows]), np.array([row[2] for row in rows])
        self._devices = devices

    @classmethod
    def read(cls, path: Path, devices: int) -> Trace:
        """SimulationError names file and line."""
        try:
            with path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file)
                if reader.fieldnames != ["device", "start", "end"]:
                    raise SimulationError(f"{path}:1: the columns are {reader.fieldnames}", remedy="the first line is device,start,end")
                return cls([_span(row, f"{path}:{reader.line_num}", devices) for row in reader], devices)
        except (OSError, UnicodeDecodeError) as error:
            raise SimulationError(f"devices.trace: {path} cannot be read: {error}", remedy="name a CSV file") from error

    def at(self, moment: float) -> np.ndarray:
        """[devices]: who is there."""
        there = np.zeros(self._devices, dtype=bool)
        there[self._device[(self._start <= moment) & (moment < self._end)]] = True
        return there

    def next(self, moment: float) -> float | None:
        """The first moment from then on at which somebody is there."""
        if self.at(moment).any():
            return moment
        later = self._start[self._start > moment]
        return float(later[0]) if len(later) else None


def _span(row: dict[str, str], place: str, devices: int) -> tuple[int, float, float]:
    try:
        device, start, end = int(row["device"]), float(row["start"]), float(row["end"])
    except (TypeError, ValueError) as error:
        raise SimulationError(f"{place}: {', '.join(map(str, row.values()))} are not three numbers", remedy="write 3,0,60.5") from error
    if not 0 <= device < devices:
        raise SimulationError(f"{place}: there is no device {device}", remedy=f"devices are 0 to {devices - 1} (devices.num)")
    if not 0 <= start < end:
        raise SimulationError(f"{place}: the span from {start:g} to {end:g} is empty", remedy="start is at least 0 and less than end")
    return device, start, end
