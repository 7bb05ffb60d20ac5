"""ProcessLauncher: each attempt is a process of this machine. For development: it isolates nothing.

Of an order's wishes, memory (RLIMIT_DATA: private writable memory of each process, not of all together; RLIMIT_AS would
count address space that is only reserved) and disk (RLIMIT_FSIZE: of each file) are limited; cpus, gpus, network and
image are not looked at, and datasets are not read-only beyond the permissions of their files. Whether memory ran out
cannot be told. A port that an order publishes is one of this machine's, at which the task listens itself, on whatever
address it likes. CPU seconds are of all processes of the task; peak memory is that of its largest one, and at least what
the shim itself has (about 10 MB).

An attempt is the folder ROOT/<name>: `data/` (links to the datasets, if any), and the keeper's `claim` and `log` (see
`shim`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import ByteSize, Field

from fdn_worker.errors import LauncherUnavailable, PolicyRefused, RunVanished, SettingsError, TaskFailed
from fdn_worker.launchers import Exit, LaunchSpec, LogLine
from fdn_worker.launchers.options import Options, read_options
from fdn_worker.launchers.places import command_of
from fdn_worker.launchers.process_log import Tail
from fdn_worker.launchers.process_server import Server
from fdn_worker.launchers.process_tree import Keeper
from fdn_worker.launchers.sockets import listened
from fdn_worker.protocol import TaskOrder, Usage

#: Seconds between two looks at a live task's log; its end is noticed at once.
_TICK = 0.05


class ProcessOptions(Options):
    """The table [launchers.process]."""

    #: Folder of the launcher's state.
    root: Path
    #: Processes and threads that a task may add to those of the machine (not enforced for root).
    max_processes: Annotated[int, Field(ge=1)] = 512
    #: Bytes of a task's log that are kept.
    log_limit: ByteSize = ByteSize(64 * 1024**2)
    open_files: Annotated[int, Field(ge=64)] = 4096
    #: PATH of tasks that bring none.
    path: str = "/usr/local/bin:/usr/bin:/bin"
    #: Seconds for the shim to answer.
    timeout: Annotated[float, Field(gt=0)] = 30.0


class ProcessLauncher:
    """Options are those of ProcessOptions; a wrong one is a SettingsError."""

    def __init__(self, state: Path | None = None, **options: object) -> None:
        standard = {"root": state} if state is not None else {}
        self.options = read_options(ProcessOptions, "launchers.process", standard | options)
        if not hasattr(os, "pidfd_open"):
            raise SettingsError("the launcher process needs Linux 5.3 or later", remedy="use the launcher docker")
        self._root = self.options.root.absolute()
        self._server = Server(self.options.timeout)

    def prepare(self, image: str | None, digest: str | None) -> str | None:  # noqa: ARG002
        """None: a process has no image, and what the order says of one is not looked at."""
        return None

    def start(self, spec: LaunchSpec) -> None:
        home = self._root / spec.name
        _furnish(home, spec)
        answer = self._server.ask(self._request(home, spec))
        if "error" in answer:
            self.remove(spec.name)
            if answer["system"]:
                raise LauncherUnavailable(f"{spec.name}: {answer['error']}")
            raise TaskFailed(
                f"command {spec.argv[0]!r} cannot be started: {answer['error']}", code="command-not-found",
                remedy="name a program that this machine has",
            )  # fmt: skip

    def follow(self, name: str, on_line: Callable[[LogLine], None], after: str = "") -> Exit:
        home = self._root / name
        keeper = Keeper.of(home)
        if keeper is None:
            raise RunVanished(f"nothing was started as {home}")
        tail = Tail(home / "log", after)
        with keeper.watch() as ended:
            while not ended(_TICK):
                for line in tail.lines():
                    on_line(line)
        for line in tail.lines(last=True):
            on_line(line)
        return _exit(home)

    def stop(self, name: str, grace: float) -> None:
        keeper = Keeper.of(self._root / name)
        if keeper is not None:
            keeper.stop(grace)

    def remove(self, name: str) -> None:
        home = self._root / name
        self.stop(name, 0)
        try:
            shutil.rmtree(home)
        except FileNotFoundError:
            return
        except OSError as error:
            raise LauncherUnavailable(f"{home} cannot be cleared away: {error.strerror}") from error

    def names(self, node: str) -> set[str]:
        keepers = (Keeper.of(claim.parent) for claim in self._root.glob("*/claim"))
        return {keeper.home.name for keeper in keepers if keeper is not None and keeper.node == node}

    def refusals(self, order: TaskOrder) -> Iterator[PolicyRefused]:
        if order.mounts:
            yield PolicyRefused(
                "a process sees this machine's folders as they are, so nothing can be mounted for it", code="mounts-refused",
                remedy="use the launcher docker, or $DATA_PATH/NAME and $SANDBOX_PATH in the command",
            )  # fmt: skip

    def listening(self, name: str, ports: Mapping[int, int]) -> set[int]:
        keeper = Keeper.of(self._root / name)
        found = listened(keeper.pid, loopback=True) if keeper is not None else None
        return {port for port, published in ports.items() if published in (found or ())}

    def _request(self, home: Path, spec: LaunchSpec) -> dict[str, Any]:
        command = command_of(
            spec, data=str(home / "data"), sandbox=str(spec.sandbox),
            inputs=str(spec.inputs or home / "inputs"), source=str(spec.source or home / "source"),
            secrets=str(spec.secrets or home / "secrets"), shared_ports=True,
        )  # fmt: skip
        # Of /proc/loadavg's five words the fourth is "running/all" threads of the machine.
        threads = int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
        return {
            "home": str(home), "node": spec.node, "argv": command.argv, "environment": {"PATH": self.options.path, **command.environment},
            "sandbox": str(spec.sandbox), "log_limit": self.options.log_limit,
            "limits": {
                "RLIMIT_CORE": 0, "RLIMIT_DATA": spec.resources.memory, "RLIMIT_FSIZE": spec.resources.disk,
                "RLIMIT_NOFILE": self.options.open_files, "RLIMIT_NPROC": threads + self.options.max_processes,
            },
        }  # fmt: skip


def _furnish(home: Path, spec: LaunchSpec) -> None:
    """Make the attempt's folder; a second time changes nothing."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        if spec.datasets:
            (home / "data").mkdir(exist_ok=True)
        for name, folder in spec.datasets.items():
            link = home / "data" / name
            if not link.is_symlink():
                link.symlink_to(folder)
    except OSError as error:
        raise LauncherUnavailable(f"{home} cannot be made: {error.strerror}", remedy="may the worker write there?") from error


def _exit(home: Path) -> Exit:
    keeper = Keeper.of(home)
    told = keeper.exit if keeper else None
    if told is None:
        raise RunVanished(f"{home.name} ended and left no exit status: its keeper was killed")
    started, finished = (datetime.fromtimestamp(told[key], UTC) for key in ("began", "finished"))
    return Exit(told["code"], False, started, finished, Usage(cpu_seconds=told["cpu_seconds"], peak_memory=told["peak_memory"]))
