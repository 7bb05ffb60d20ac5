"""What has to be installed: said first, with the commands, and then done."""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from deployments.services.place import ServiceError, say

#: Debian's interface by which packages are kept from starting their system services while they are installed.
POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Install:
    """One command, and why it is needed."""

    why: str
    argv: list[str]
    environ: dict[str, str] = field(default_factory=dict)
    root: bool = False

    def __str__(self) -> str:
        return shlex.join([*(f"{name}={value}" for name, value in self.environ.items()), *self.argv])


def packages(wanted: dict[str, bool]) -> list[Install]:
    """How to get the Debian packages for which True stands, all at once."""
    names = sorted(name for name, missing in wanted.items() if missing)
    if not names:
        return []
    environ = {"DEBIAN_FRONTEND": "noninteractive"}
    return [
        Install("the lists of Debian's packages", ["apt-get", "update"], root=True),
        Install(
            f"Debian packages {', '.join(names)} (their system services are not started)",
            ["apt-get", "install", "--yes", "--no-install-recommends", *names],
            environ,
            root=True,
        ),
    ]


def perform(installs: list[Install]) -> None:
    """Say all of it, then do it. Without root what needs root is only said."""
    if not installs:
        return
    say("this machine lacks something; going to install:")
    for item in installs:
        say(f"  {item.why}\n              {item}")
    for_root = [item for item in installs if item.root]
    if for_root and os.geteuid() != 0:
        commands = "\n".join(f"    sudo {item}" for item in for_root)
        raise ServiceError(f"packages are missing and only root may install them; run these, then `make services` again:\n{commands}")
    if for_root and shutil.which("apt-get") is None:
        system = platform.freedesktop_os_release().get("PRETTY_NAME", "this system")
        raise ServiceError(f"{system} has no apt-get; install these by its own means: {' '.join(for_root[-1].argv[4:])}")
    with _services_not_started() if for_root else nullcontext():
        for item in installs:
            run(item.argv, {**os.environ, **item.environ})


def run(argv: list[str], environ: Mapping[str, str] = os.environ, folder: Path | None = None) -> None:
    """Run to its end; what it prints is shown only when it fails."""
    done = subprocess.run(argv, env=environ, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        end = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise ServiceError(f"`{shlex.join(argv)}` failed with status {done.returncode}; its last words:\n{end}")


@contextmanager
def _services_not_started() -> Iterator[None]:
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
