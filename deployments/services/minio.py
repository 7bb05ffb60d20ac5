"""MinIO: built once from its module at a pinned version (its project gives out no binaries any more)."""

from __future__ import annotations

import secrets
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deployments.services.installs import Install
from deployments.services.place import Place, ServiceError, without_user_settings
from deployments.services.processes import Process, free_ports, start, wait_until

MODULE = "github.com/minio/minio"
VERSION = "v0.0.0-20260212201848-7aac2a2c5b7c"


@dataclass(frozen=True)
class MinIO:
    """Where a started server listens, and its keys."""

    port: int
    user: str
    password: str
    process: Process
    log: Path

    @property
    def url(self) -> str:
        return f"s3+http://{self.user}:{self.password}@127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Until it serves requests."""
        wait_until(lambda: _ready(self.port), self.process, self.log)


def installs(place: Place) -> list[Install]:
    """The build, unless a binary of this version is here."""
    if binary(place):
        return []
    if shutil.which("go") is None:
        raise ServiceError("MinIO has to be built and Go is not there; install Go 1.21 or newer and have `go` on the PATH")
    return [
        Install("MinIO, built from its source (about 2 minutes)", ["go", "install", f"{MODULE}@{VERSION}"], {"GOBIN": str(_bin(place))})
    ]


def binary(place: Place) -> Path | None:
    """The server of this very version: our own build, or the user's."""
    own = _bin(place) / "minio"
    if own.exists():
        return own
    if shutil.which("go") is None:
        return None
    users = Path(_output(["go", "env", "GOPATH"]).split(":")[0]) / "bin/minio"
    return users if users.exists() and f"\t{VERSION}\t" in _output(["go", "version", "-m", str(users)]) else None


def launch(place: Place, note: Callable[[Process], None]) -> MinIO:
    """Start it without waiting; `note` is told of the process as soon as it runs."""
    program = binary(place)
    if program is None:
        raise ServiceError(f"`go install {MODULE}@{VERSION}` left no {_bin(place) / 'minio'}; is GOBIN or GOOS set in the Go settings?")
    folder = place.folder / "minio"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "data").mkdir(parents=True)
    (port,) = free_ports(1)
    user, password = "fem", secrets.token_hex(16)
    environ = {
        **without_user_settings(),
        "HOME": str(folder),
        "MINIO_ROOT_USER": user,
        "MINIO_ROOT_PASSWORD": password,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
    }
    argv = [str(program), "server", "--quiet", "--address", f"127.0.0.1:{port}", "--certs-dir", str(folder / "certs"), str(folder / "data")]
    log = place.folder / "minio.log"
    process = start("minio", argv, environ, log, str(place.json))
    note(process)
    return MinIO(port, user, password, process, log)


def _bin(place: Place) -> Path:
    return place.cache / "bin" / f"minio-{VERSION.rpartition('-')[2]}"


def _output(argv: list[str]) -> str:
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip()


def _ready(port: int) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(f"http://127.0.0.1:{port}/minio/health/ready", timeout=2.0):
            return True
    except (urllib.error.URLError, OSError):
        return False
