"""What a task is told about its surroundings, alike under every launcher.

`$NAME` and `${NAME}` of the places, of the site's variables and of PORT_<n> are filled in, in argv and in the order's
environment; any other `$` stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from fdn_worker.launchers import LaunchSpec
from fdn_worker.protocol.order import PLACES, PORT_VARIABLE

_REFERENCE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")


@dataclass(frozen=True)
class Command:
    """What is executed: argv and the whole environment."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


def fill(text: str, places: Mapping[str, str]) -> str:
    """`text` with the places filled in."""
    return _REFERENCE.sub(lambda found: places.get(found[1] or found[2], found[0]), text)


def command_of(spec: LaunchSpec, *, data: str, sandbox: str, inputs: str, source: str, secrets: str, shared_ports: bool = False) -> Command:
    """The command of `spec`, given where the task sees each folder. What is filled in cannot be overridden by an order, HOME can.

    With `shared_ports` the task listens on this machine's own ports, so on the published ones.
    """
    ports = {f"{PORT_VARIABLE}{port}": str(published if shared_ports else port) for port, published in spec.ports.items()}
    own = dict(zip(PLACES, (data, sandbox, inputs, source, spec.node, secrets), strict=True))
    places = {**spec.variables, **ports, **own}
    filled = {name: fill(value, places) for name, value in spec.environment.items()}
    return Command(tuple(fill(word, places) for word in spec.argv), {"HOME": sandbox, **filled, **places})
