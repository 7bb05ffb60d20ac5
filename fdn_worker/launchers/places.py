"""What a task is told about its surroundings, alike under every launcher.

`$NAME` and `${NAME}` of the places are filled in, in argv and in the order's environment; any other `$` stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fdn_worker.launchers import LaunchSpec
from fdn_worker.protocol.order import PLACES

_REFERENCE = re.compile(rf"\$(?:\{{({'|'.join(PLACES)})\}}|({'|'.join(PLACES)})(?![A-Za-z0-9_]))")


@dataclass(frozen=True)
class Command:
    """What is executed: argv and the whole environment."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


def fill(text: str, places: Mapping[str, str]) -> str:
    """`text` with the places filled in."""
    return _REFERENCE.sub(lambda found: places[found[1] or found[2]], text)


def command_of(spec: LaunchSpec, *, data: str, sandbox: str, inputs: str, source: str) -> Command:
    """The command of `spec`, given where the task sees each folder. The places cannot be overridden by an order, HOME can."""
    places = dict(zip(PLACES, (data, sandbox, inputs, source, spec.node), strict=True))
    filled = {name: fill(value, places) for name, value in spec.environment.items()}
    return Command(tuple(fill(word, places) for word in spec.argv), {"HOME": sandbox, **filled, **places})
