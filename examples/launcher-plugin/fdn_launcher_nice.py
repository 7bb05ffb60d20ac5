"""NiceLauncher: processes of low priority, for machines that others work on as well. Like `process` it isolates nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import Field

from fdn_worker.errors import SettingsError, TaskFailed
from fdn_worker.launchers import Exit, LaunchSpec, LogLine
from fdn_worker.launchers.options import read_options
from fdn_worker.launchers.process import ProcessLauncher, ProcessOptions

#: What `nice` says, with exit code 126 or 127, when it has nothing to execute.
_NO_COMMAND = re.compile(r"^(?:\S*/)?nice: (?P<command>.+): (?P<why>[^:]+)$")


class NiceOptions(ProcessOptions):
    """The table [launchers.nice]: those of [launchers.process], and how far others go first."""

    level: Annotated[int, Field(ge=1, le=19)] = 10


class NiceLauncher(ProcessLauncher):
    """Starts each command through `nice`, which becomes that command; everything else is the process launcher's."""

    def __init__(self, state: Path, **options: object) -> None:
        found = read_options(NiceOptions, "launchers.nice", {"root": state} | options)
        super().__init__(**found.model_dump(exclude={"level"}))
        nice = shutil.which("nice")
        if nice is None:
            raise SettingsError("the launcher nice needs the command nice", remedy="install coreutils")
        self._prefix = (nice, "-n", str(found.level))

    def start(self, spec: LaunchSpec) -> None:
        super().start(replace(spec, argv=(*self._prefix, *spec.argv)))

    def follow(self, name: str, on_line: Callable[[LogLine], None], after: str = "") -> Exit:
        last = ""

        def line(found: LogLine) -> None:
            nonlocal last
            last = found.text
            on_line(found)

        ended = super().follow(name, line, after)
        missing = _NO_COMMAND.match(last) if ended.code in (126, 127) else None
        if missing:
            raise TaskFailed(
                f"command {missing['command']} cannot be started: {missing['why']}", code="command-not-found",
                remedy="name a program that this machine has",
            )  # fmt: skip
        return ended
