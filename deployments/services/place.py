"""Where the services keep their things, and how they speak to whoever runs them."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class ServiceError(Exception):
    """A service cannot be had; the message says what, where, and how to mend it."""


def say(text: str) -> None:
    """One line to whoever started us."""
    sys.stdout.write(f"services: {text}\n")
    sys.stdout.flush()


@dataclass(frozen=True)
class Place:
    """Paths: `json` says where the services listen; `folder` has their data and logs; `cache` what is dear to fetch or build."""

    json: Path
    folder: Path
    cache: Path

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Place:
        """FEM_SERVICES and FEM_CACHE, or the checkout's own .cache folder."""
        cache = Path(environ.get("FEM_CACHE") or ROOT / ".cache").resolve()
        if given := environ.get("FEM_SERVICES"):
            # Its folder may hold anything; one beside it is ours to empty.
            json = Path(given).resolve()
            return cls(json, json.with_name(json.name + ".d"), cache)
        return cls(cache / "services/services.json", cache / "services", cache)

    @property
    def state(self) -> Path:
        """What was started here, for `down`."""
        return self.folder / "started.json"

    @property
    def tag(self) -> str:
        """Short and the checkout's own: in the names of the broker's node, the bridge and the folder of sockets."""
        return hashlib.sha256(str(self.json).encode()).hexdigest()[:8]

    @property
    def run(self) -> Path:
        """Docker's sockets: the path of a Unix socket has at most 107 characters, and a checkout may lie deep."""
        return Path("/run") / f"fem-{self.tag}"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """One `up` or `down` at a time."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say(f"another start or stop is under way in {self.folder}; waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            yield


def without_user_settings(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment less what would turn a service or Prefect to the user's own."""
    ours = ("PREFECT_", "RABBITMQ_", "MINIO_", "ERL_")
    return {name: value for name, value in environ.items() if not name.startswith(ours) and name != "PYTHONDONTWRITEBYTECODE"}
