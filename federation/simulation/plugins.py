"""Plug-ins by name: those here, and those of installed packages by their entry points.

A plug-in is a pydantic model: its fields are its hyperparameters, and stand in the configuration beside its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from federation.catalogue.document import explained
from federation.nearest import unknown
from federation.simulation.errors import SimulationError


class Plugin(BaseModel):
    """The base of all kinds. Fields are hyperparameters; what one remembers stands in private attributes."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Kind = TypeVar("Kind", bound=Plugin)
Made = TypeVar("Made", bound=type[Plugin])


class Registry(Generic[Kind]):
    """The plug-ins of one kind. Packages add theirs in the entry point group `fem.simulation.KIND`."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._here: dict[str, type[Kind]] = {}

    def register(self, name: str) -> Callable[[Made], Made]:
        """Decorator: the class is known by that name."""

        def add(plugin: Made) -> Made:
            self._here[name] = plugin  # type: ignore[assignment]
            return plugin

        return add

    def names(self) -> list[str]:
        """All names, those of installed packages too."""
        return sorted({*self._here, *(point.name for point in self._installed())})

    def make(self, name: str, parameters: Mapping[str, Any], place: str) -> Kind:
        """A plug-in with its hyperparameters; SimulationError names `place` in the configuration."""
        plugin = self._find(name, place)
        try:
            return plugin.model_validate(dict(parameters))
        except ValidationError as error:
            wrong = [f"{'.'.join((f'{place}_params', *map(str, at)))}: {why}" for at, why in explained(error, plugin, dict(parameters))]
            known = ", ".join(plugin.model_fields) or "none"
            raise SimulationError("; ".join(wrong), remedy=f"hyperparameters of {name}: {known}") from error

    def _find(self, name: str, place: str) -> type[Kind]:
        if name in self._here:
            return self._here[name]
        for point in self._installed():
            if point.name == name:
                return self._load(point, place)
        raise SimulationError(f"{place}: there is no {name!r}", remedy=unknown(name, self.names()))

    def _load(self, point: EntryPoint, place: str) -> type[Kind]:
        try:
            loaded = point.load()
        except (ImportError, AttributeError) as error:
            raise SimulationError(f"{place}: {point.value}, which a package calls {point.name!r}, cannot be loaded: {error}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, Plugin)):
            raise SimulationError(f"{place}: {point.value}, which a package calls {point.name!r}, is no class of plug-ins")
        return loaded  # type: ignore[return-value]

    def _installed(self) -> Iterable[EntryPoint]:
        return entry_points(group=f"fem.simulation.{self.kind}")
