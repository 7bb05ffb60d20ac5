"""What a model alone cannot see in a tool: references between its parts, and values that would reach a shell."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from federation.catalogue.document import Place
from federation.catalogue.placeholders import ARGUMENT, NAMES, missing, named
from federation.catalogue.tool import TaskTemplate, Tool
from federation.catalogue.values import convert, in_order
from federation.request import BadRequest

SHELLS = frozenset({"sh", "bash", "dash", "ash", "zsh", "ksh", "fish"})
#: Options whose next word is a program's text: sh -c, python -c, perl -e.
_PROGRAM_TEXT = re.compile(r"^-[A-Za-z]*[ce]$")
#: Texts for people, in which a placeholder is only spoken of.
_FOR_PEOPLE = ("description", "title", "label")


def problems(tool: Tool) -> Iterator[tuple[Place, str]]:
    """What is wrong, each with its place in the tool."""
    for index, task in enumerate(tool.tasks):
        place: Place = ("tasks", index)
        unknown = list(_unknown_placeholders(tool, task, place))
        yield from unknown or _circles(task, place)
        yield from _values(task, place)
        yield from _program_texts(task, place)
        if task.ends_with_clients and not (task.single_node and tool.has_server):
            yield (*place, "ends_with_clients"), "only a server's task ends with its clients (single_node: true, beside tasks of clients)"


def _texts(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in _FOR_PEOPLE:
                yield from _texts(item, (*place, key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _texts(item, (*place, index))


def _unknown_placeholders(tool: Tool, task: TaskTemplate, place: Place) -> Iterator[tuple[Place, str]]:
    of_client = tool.has_server and not task.single_node
    known = [name for name in NAMES if of_client or not name.startswith("server_")]
    known += [ARGUMENT + argument.id for argument in task.command.args]
    for where, text in _texts(task.model_dump(), place):
        for name in named(text):
            if name not in known:
                yield where, missing(name, tuple(known))


def _circles(task: TaskTemplate, place: Place) -> Iterator[tuple[Place, str]]:
    try:
        in_order(task.command.args)
    except BadRequest as error:
        yield (*place, "command", "args"), error.message


def _values(task: TaskTemplate, place: Place) -> Iterator[tuple[Place, str]]:
    """Defaults and choices are of their argument's type."""
    for index, argument in enumerate(task.command.args):
        at = (*place, "command", "args", index)
        free = argument.model_copy(update={"choices": ()})
        try:
            convert(free, argument.choices, "choices")
        except BadRequest as error:
            yield (*at, "choices"), str(error)
            continue
        if argument.default is None or any(named(text) for _, text in _texts(argument.default, ())):
            continue
        try:
            convert(argument, argument.default, "default")
        except BadRequest as error:
            yield (*at, "default"), str(error)


def _program_texts(task: TaskTemplate, place: Place) -> Iterator[tuple[Place, str]]:
    """A value in a word that some program reads as its text would be run, not passed on."""
    base = task.command.base
    for word in program_texts(base):
        if values := [name for name in named(word) if name.startswith(ARGUMENT)]:
            yield (
                (*place, "command", "base"),
                f'%%{values[0]}%% would be read as program text by {base[0]}: pass it in args or environment, and use "$1" or the variable',
            )


def program_texts(base: Sequence[str]) -> list[str]:
    """The words of a command that a shell or an interpreter reads as its program, or might."""
    return [
        word for index, word in enumerate(base)
        if any(_PROGRAM_TEXT.match(other) or other.rpartition("/")[2] in SHELLS for other in base[:index])
    ]  # fmt: skip
