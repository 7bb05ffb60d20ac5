"""Daemons: started in a session of their own, known by pid and start time, ended exactly."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from deployments.services.place import ServiceError

#: Stands in the environment of all that descends from a service, even of what left its session (containerd's shims).
MARK = "FEM_STARTED_FOR"


@dataclass(frozen=True)
class Process:
    """A pid alone may belong to somebody else by now; with boot and start time it cannot."""

    name: str
    pid: int
    started: str

    @classmethod
    def of(cls, name: str, pid: int) -> Process | None:
        """None when there is no such process, or it is a zombie."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return None
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return None if fields[0] in "ZX" else cls(name, pid, f"{boot}:{fields[19]}")

    @property
    def alive(self) -> bool:
        return Process.of(self.name, self.pid) == self

    def kill(self, number: signal.Signals) -> None:
        if self.alive:
            os.kill(self.pid, number)


def start(name: str, argv: list[str], environ: Mapping[str, str], log: Path, mark: str) -> Process:
    """A daemon that outlives us, deaf to our terminal's Ctrl-C, with its output in `log`."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        child = subprocess.Popen(
            argv,
            env={**environ, MARK: mark},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    child.returncode = 0  # it is meant to outlive us: nothing for the interpreter to warn of
    process = Process.of(name, child.pid)
    if process is None:
        raise ServiceError(f"{name} ended at once{tail(log)}")
    return process


def wait_until(ready: Callable[[], bool], process: Process, log: Path, seconds: float = 90.0) -> None:
    """Return once `ready()`; a daemon that died or does not come up is an error with the end of its log."""
    deadline = time.monotonic() + seconds
    while not ready():
        if not process.alive:
            raise ServiceError(f"{process.name} ended while it started{tail(log)}")
        if time.monotonic() > deadline:
            raise ServiceError(f"{process.name} was not ready within {seconds:.0f} s{tail(log)}")
        time.sleep(0.05)


def stop(processes: Iterable[Process], patience: float = 20.0) -> None:
    """TERM to each, KILL to what is left after `patience` seconds. Returns when all are gone."""
    mine = list(processes)
    for process in mine:
        process.kill(signal.SIGTERM)
    if not _gone(mine, patience):
        for process in mine:
            process.kill(signal.SIGKILL)
        if not _gone(mine, 10.0):
            left = ", ".join(f"{process.name} (pid {process.pid})" for process in mine if process.alive)
            raise ServiceError(f"cannot end {left}; it may hang in the kernel: look at `ps -o pid,stat,wchan,args`")


def marked(mark: str) -> list[Process]:
    """Every process that a service with this mark started, and what those started (a container's, whose environment is its own)."""
    wanted = f"{MARK}={mark}".encode()
    parents, found = {}, set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    found.add(int(folder.name))
            except (PermissionError, FileNotFoundError, ProcessLookupError):
                continue  # somebody else's, or gone
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return [process for pid in sorted(found) if (process := Process.of("left over", pid))]


def free_ports(count: int) -> list[int]:
    """Ports of the loopback address, below the range that outgoing connections take theirs from."""
    ports = []
    for port in random.sample(range(20000, 32000), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise ServiceError(f"no {count} free ports between 20000 and 32000 on 127.0.0.1; see `ss -ltn` for what holds them")


def tail(log: Path, lines: int = 15) -> str:
    """The end of a log, ready to stand behind an error's first line."""
    text = log.read_text(errors="replace").splitlines()[-lines:] if log.exists() else []
    return "\n".join([f"; the end of {log}:", *text])


def _gone(processes: list[Process], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while any(process.alive for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
