"""Aggregator: what is summed of the updates, and how the sums move the global model. Found by its name.

A linear aggregator looks at each update once and at sums of them ever after, which is what lets updates be streamed, nested and masked.
A robust one compares the updates of one coordinate with each other, and needs them all. Ours are in linear.py, privacy.py and robust.py; others are
found among the entry points of group `federation.aggregators`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fdn_worker.errors import SettingsError
from federation.learning.models import Array, ModelInfo, ModelRefused

GROUP = "federation.aggregators"
BUILT_IN = {
    "fedavg": "linear:FedAvg",
    "fedavgm": "linear:FedAvgM",
    "fedprox": "linear:FedProx",
    "fednova": "linear:FedNova",
    "scaffold": "linear:Scaffold",
    "feddyn": "linear:FedDyn",
    "fedadam": "linear:FedAdam",
    "fedyogi": "linear:FedYogi",
    "fedadagrad": "linear:FedAdagrad",
    "norm-clipping": "linear:NormClipping",
    "dp-fedavg": "privacy:DPFedAvg",
    "median": "robust:Median",
    "trimmed-mean": "robust:TrimmedMean",
}


class Aggregator(BaseModel):
    """Its fields are its arguments; it keeps nothing between calls."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]

    def settings(self) -> dict[str, float]:
        """What every client is to be told."""
        return {}

    def __str__(self) -> str:
        return f"{self.name} {self.model_dump_json(exclude_none=True)}"


class Linear(Aggregator):
    """One that needs sums alone. All arrays are flat blocks of the same coordinates, in float64.

    As it stands it is FedAvg, to be changed where another one differs.
    """

    #: Names of the sums; each weighs the updates in its own way.
    sums: ClassVar[tuple[str, ...]] = ("model",)
    #: An update further from the global model than this is shortened to it. None: as they come.
    clip: float | None = Field(None, gt=0)

    def weights(self, info: ModelInfo, name: str) -> dict[str, float]:
        """What an update counts in each sum; `name` is what errors call it. Raises ModelRefused when it does not say what is needed."""
        return {"model": said(info.examples, "examples", name)}

    def totals(self, info: ModelInfo) -> dict[str, float]:
        """Further numbers to be added up over the updates."""
        return {}

    def memory(self) -> dict[str, float]:
        """What the server remembers of each coordinate from one round to the next, by name, with what it begins with."""
        return {}

    def step(self, model: Array, sums: Mapping[str, Array], totals: Mapping[str, float], memory: dict[str, Array]) -> Array:
        """The new global model. Puts new arrays into `memory`. `totals` has the weight of each sum by its name, `clients`, `examples` and `totals()`."""
        return mean(sums, totals)

    def whole(self, model: Array, sums: Mapping[str, Array], totals: Mapping[str, float]) -> Array:
        """The same for integers, which are not learned: their mean."""
        return mean(sums, totals)


class Corrected(Linear):
    """One whose clients correct their gradients by an array that is their own, and remembered from round to round."""

    def correction(self, own: Array, memory: Mapping[str, Array]) -> Array:
        """What a client adds to its gradient, of what is remembered of it (zeros at first) and what the server remembers."""
        raise NotImplementedError

    def remember(self, own: Array, memory: Mapping[str, Array], model: Array, update: Array, steps: float | None) -> Array:
        """What is remembered of the client from now on. `memory` is the server's at the round's beginning, and `model` the global one."""
        raise NotImplementedError


class Robust(Aggregator):
    """One that needs the updates of all clients, coordinate by coordinate."""

    def enough(self, count: int) -> None:
        """Raises SettingsError when nothing can be made of so few updates."""

    def combine(self, updates: Array) -> Array:
        """The new global model. `updates`: clients x coordinates, which may be written over."""
        raise NotImplementedError


def mean(sums: Mapping[str, Array], totals: Mapping[str, float]) -> Array:
    """The weighted mean of the updates."""
    return sums["model"] / totals["model"]


def said(value: float | None, what: str, name: str) -> float:
    """A value of an update's metadata that the aggregator cannot do without."""
    if value is None:
        raise ModelRefused(
            f"{name}: its metadata do not say {what}", remedy=f"the client's train has to write {what!r}; see reference/learning.md"
        )
    return value


def load(name: str, arguments: Mapping[str, Any] | None = None) -> Aggregator:
    """The aggregator of that name with its arguments. Raises SettingsError that names what is unknown or impossible."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    kind: type[Aggregator]
    if name in BUILT_IN:
        module, _, attribute = BUILT_IN[name].partition(":")
        kind = getattr(import_module(f"federation.learning.{module}"), attribute)
    elif name in found:
        kind = found[name].load()
    else:
        raise SettingsError(f"there is no aggregator {name!r}", remedy=f"there are {', '.join(sorted(BUILT_IN.keys() | found.keys()))}")
    try:
        return kind.model_validate(dict(arguments or {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise SettingsError(
            f"aggregator {name}: {key}: {first['msg']}", remedy=f"its arguments are {', '.join(kind.model_fields) or 'none'}"
        ) from error
