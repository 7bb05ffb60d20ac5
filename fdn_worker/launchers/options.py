"""A launcher's options, read from its settings table; a wrong key or value is named with its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from fdn_worker.errors import SettingsError


class Options(BaseModel):
    """Base of every launcher's options: frozen, nothing unknown."""

    model_config = ConfigDict(frozen=True, extra="forbid")


T = TypeVar("T", bound=Options)


def read_options(model: type[T], table: str, values: Mapping[str, object]) -> T:
    """The options in `values`; SettingsError names each wrong key as `[table] key`."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        problems = "; ".join(f"[{table}] {'.'.join(map(str, item['loc'])) or table}: {item['msg']}" for item in error.errors())
        raise SettingsError(problems, remedy=f"known keys are: {', '.join(sorted(model.model_fields))}") from error
