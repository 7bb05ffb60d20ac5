"""What somebody's shell has set."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from federation.local import clean_environment


def shell(commands: Path, *variables: Mapping[str, str]) -> dict[str, str]:
    """What the shell of somebody at the centre has set: the folder of commands, these variables, and no settings of whoever runs the tests."""
    made = clean_environment()
    made["PATH"] = f"{commands}:{made['PATH']}"
    for some in variables:
        made |= some
    return made
