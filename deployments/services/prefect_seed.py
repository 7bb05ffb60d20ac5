"""A migrated Prefect database to copy from: migrating takes 18 s, a copy nothing."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from deployments.services.installs import run
from deployments.services.place import ROOT, Place, ServiceError, say, without_user_settings

VERSION_OF_PREFECT = "from importlib.metadata import version; print(version('prefect'))"


def ensure(place: Place) -> Path:
    """The database, made anew when Prefect's version changed."""
    seed, made_with = place.cache / "prefect-seed.db", place.cache / "prefect-seed.version"
    python = _interpreter()
    version = subprocess.run([python, "-c", VERSION_OF_PREFECT], capture_output=True, text=True, check=True).stdout.strip()
    if seed.exists() and made_with.exists() and made_with.read_text().strip() == version:
        return seed
    say(f"migrating a database for Prefect {version}, once (20 s)")
    place.cache.mkdir(parents=True, exist_ok=True)
    # Not in the cache itself: Prefect reads settings from the folder that it runs in, and from its home.
    with tempfile.TemporaryDirectory(prefix="fem-seed-") as home:
        database = Path(home) / "prefect.db"
        environ = {
            **without_user_settings(),
            "PREFECT_HOME": home,
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        run([python, "-m", "prefect", "server", "database", "upgrade", "--yes"], environ, Path(home))
        fresh = seed.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        # A copy through SQLite takes what may still stand in the write-ahead log.
        with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(fresh)) as target:
            source.backup(target)
        fresh.replace(seed)
        made_with.write_text(version + "\n")
    return seed


def _interpreter() -> str:
    """The Python that has Prefect: the one that runs this, or the checkout's."""
    if find_spec("prefect"):
        return sys.executable
    own = ROOT / ".venv/bin/python"
    if not own.exists():
        raise ServiceError(f"Prefect is not installed for {sys.executable}, and {own} is not there; run `make setup`")
    return str(own)
