"""Placeholders: `%%name%%` in a template's texts, filled in by the centre. `$NAME` is the node's, and stays as it is here."""

from __future__ import annotations

import re
from collections.abc import Mapping

from federation.nearest import unknown
from federation.request import BadRequest

#: Placeholders beside those of the tool's own arguments, `args.ID`.
NAMES = (
    *("execution_id", "user_id", "task_id", "node_name", "project_id", "tool_id", "node_count"),
    *("server_node", "server_host", "server_port"),
)  # fmt: skip
#: Prefix of the placeholders that stand for the value of an argument.
ARGUMENT = "args."
#: Those whose value somebody outside chooses freely.
FREE = ("user_id", "project_id")

_PLACEHOLDER = re.compile(r"%%([A-Za-z_][A-Za-z0-9_.-]*)%%")


def named(text: str) -> list[str]:
    """The placeholders in a text."""
    return _PLACEHOLDER.findall(text)


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with its placeholders filled in, once: what a value holds is never looked at again."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            raise BadRequest(missing(found[1], values), code="unknown-placeholder")
        return values[found[1]]

    return _PLACEHOLDER.sub(value, text)


def missing(name: str, known: Mapping[str, object] | tuple[str, ...]) -> str:
    """What is said of a placeholder without a value."""
    if name.startswith("server_") and name in NAMES:
        return f"%%{name}%% has no value here: the task is no client of a server that listens on a port"
    near = unknown(name, known)
    return f"unknown placeholder %%{name}%%" + (f", {near}" if near else "")


def below_data(pattern: str) -> str:
    """A pattern of pre_checks, which may be written with $DATA_PATH before it or without."""
    return re.sub(r"^\$(\{DATA_PATH\}|DATA_PATH)/", "", pattern)
