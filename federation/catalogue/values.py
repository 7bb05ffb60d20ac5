"""Values of a tool's arguments: where each comes from, its type, and the words that it makes in argv."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from federation.catalogue.placeholders import ARGUMENT, fill, missing, named
from federation.catalogue.tool import Argument, Scalar
from federation.nearest import unknown
from federation.request import BadRequest

Value = Scalar | tuple[Scalar, ...]

#: What a value of each type looks like, for people.
FORMS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}


def convert(argument: Argument, value: Any, place: str) -> Value:
    """The value in the argument's type; of a list each item. `place` says where it stands, for the error."""
    if isinstance(value, list | tuple):
        return tuple(_converted(argument, item, place) for item in value)
    return _converted(argument, value, place)


def _converted(argument: Argument, value: Any, place: str) -> Scalar:
    made = _READERS[argument.type](value)
    if made is None or (isinstance(made, float) and not math.isfinite(made)):
        raise BadRequest(
            f"{place}: {str(value)[:80]!r} is not {FORMS[argument.type]}", remedy=f"argument {argument.id} is of type {argument.type}"
        )
    if argument.choices and made not in argument.choices:
        near = unknown(text(made), map(text, argument.choices), "choose from")
        raise BadRequest(f"{place}: {text(made)[:80]!r} is not among the choices of {argument.id}", remedy=near)
    return made


def _int(value: Any) -> int | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value) if math.isfinite(value) and value == math.floor(value) else None
    return int(value) if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,4000}\s*", value) else None


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except (ValueError, OverflowError):
        return None


def _bool(value: Any) -> bool | None:
    return (
        value if isinstance(value, bool) else {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else None
    )


def _str(value: Any) -> str | None:
    return text(value) if isinstance(value, str | int | float) else None


_READERS = {"int": _int, "float": _float, "bool": _bool, "str": _str}


def text(value: Value) -> str:
    """A value as a process finds it: true and false in small letters, a list with commas."""
    if isinstance(value, tuple):
        return ",".join(map(text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def in_order(arguments: Sequence[Argument]) -> list[Argument]:
    """Each after those that its default names. Raises BadRequest where defaults name each other in a circle, or none that is there."""
    known = {argument.id: argument for argument in arguments}
    graph: dict[str, list[str]] = {argument.id: [] for argument in arguments}
    for argument in arguments:
        for name in _references(argument.default):
            if name not in known:
                raise BadRequest(f"default of argument {argument.id}: " + missing(ARGUMENT + name, {ARGUMENT + id_: 0 for id_ in known}))
            graph[argument.id].append(name)
    try:
        return [known[id_] for id_ in TopologicalSorter(graph).static_order()]
    except CycleError as error:
        raise BadRequest(f"defaults of arguments refer to each other in a circle: {' -> '.join(error.args[1])}", code="circular") from error


def _references(default: Any) -> Iterable[str]:
    for item in default if isinstance(default, tuple) else (default,):
        if isinstance(item, str):
            yield from (name.removeprefix(ARGUMENT) for name in named(item) if name.startswith(ARGUMENT))


def chosen(arguments: Sequence[Argument], sources: Sequence[tuple[str, Mapping[str, Any]]], texts: Mapping[str, str]) -> dict[str, Value]:
    """Argument id -> value, from the first of `sources` (where, entries) that has one, else the default.

    `texts` fills the placeholders of defaults. An argument without a value is left out; a required one is a BadRequest.
    """
    found: dict[str, Value] = {}
    for argument in in_order(arguments):
        where, given = next(
            ((where, entries[argument.id]) for where, entries in sources if entries.get(argument.id) is not None), ("", None)
        )
        if given is None and argument.default is not None:
            where, given = "default", _default(argument.default, {**texts, **{ARGUMENT + id_: text(value) for id_, value in found.items()}})
        if given is None or given in ([], ()):
            if argument.required:
                raise BadRequest(f"argument {argument.id} is required, and has no value", remedy=f"give {FORMS[argument.type]}")
            continue
        found[argument.id] = convert(argument, given, f"{where}{'.' * bool(where)}{argument.id}")
    return found


def _default(default: Value, texts: Mapping[str, str]) -> Value:
    if isinstance(default, tuple):
        return tuple(fill(item, texts) if isinstance(item, str) else item for item in default)
    return fill(default, texts) if isinstance(default, str) else default


def words(arguments: Sequence[Argument], values: Mapping[str, Value], texts: Mapping[str, str]) -> list[str]:
    """The arguments by position: each value a word of its own, after its prefix."""
    made: list[str] = []
    placed = sorted(arguments, key=lambda argument: (argument.position is None, argument.position or 0))
    for argument in placed:
        if argument.argv and argument.id in values:
            made += _words(fill(argument.prefix, texts), argument, values[argument.id])
    return made


def _words(prefix: str, argument: Argument, value: Value) -> list[str]:
    if argument.type == "bool" and prefix and isinstance(value, bool):
        return [prefix] if value else []
    items = [text(item) for item in (value if isinstance(value, tuple) else (value,))]
    if not prefix:
        return items
    return [prefix, *items] if argument.separate else [f"{prefix.removesuffix('=')}={item}" for item in items]
