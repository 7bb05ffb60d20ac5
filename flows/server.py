"""A Prefect server of one's own, started from a migrated database: seconds rather than half a minute.

For the demo, the tests and the benchmarks. A federation in earnest has its server running already.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from fdn_worker.errors import SystemFault

#: Seconds to answer, with a migrated database and without.
START_SECONDS = 120.0

#: The blocks' picture; the server that has it beside its UI's files serves it as /federation.svg.
LOGO = Path(__file__).resolve().parents[1] / "deployments/prefect/federation.svg"

#: No telemetry, no analytics, fewer services; batched writers as for a busy server.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_API_KEEPALIVE_TIMEOUT": "30",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TRIGGERS_READ_BATCH_SIZE": "100",
    "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
}


@contextmanager
def prefect_server(home: Path, *, seed: Path | None = None, ui: bool = False, port: int = 0) -> Iterator[dict[str, str]]:
    """Start a server with its home in `home`, from database `seed` if that is there; the variables for its clients.

    Without a `port` it takes one that is free.
    """
    home.mkdir(parents=True, exist_ok=True)
    database = home / "prefect.db"
    if seed is not None and seed.exists() and not database.exists():
        shutil.copy(seed, database)
    with socket.socket() as free:
        # One that has just been left is free, too.
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", port))
        port = free.getsockname()[1]
    client = {"PREFECT_HOME": str(home), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "DO_NOT_TRACK": "1"}
    own = {
        "PREFECT_UI_STATIC_DIRECTORY": str(home / "ui"),
        "PREFECT_SERVER_DATABASE_MIGRATE_ON_START": str(not database.exists()).lower(),
        "PREFECT_SERVER_REGISTER_BLOCKS_ON_START": "false",
        "PREFECT_SERVER_UI_ENABLED": str(ui).lower(),
    }
    with (home / "server.log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env=os.environ | QUIET | client | own, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    try:
        _wait(process, client["PREFECT_API_URL"], home)
        if ui:
            # Beside the UI's own files, which the server lays out as it starts: `fem blocks` finds it there for a logo.
            shutil.copy(LOGO, home / "ui" / "v1" / LOGO.name)
        yield client
    finally:
        drain()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def drain() -> None:
    """Have this process's Prefect clients send what they hold; without the server, exit would wait a minute for them."""
    if "prefect.events.worker" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for service in (APILogWorker, EventsWorker):
        service.drain_all(timeout=10)


def _wait(process: subprocess.Popen[bytes], url: str, home: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/health", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise SystemFault("the Prefect server did not start", remedy=f"see {home / 'server.log'}")
