"""The one centre of a flow's process: its connections are made once and shared by every flow run in it."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable
from typing import Any

from fdn_worker.errors import SettingsError
from fdn_worker.protocol import TaskEvent
from federation.centre import Centre
from federation.settings import CentreSettings, load

#: Names the saved blocks to take the addresses from; without it settings file and FEM_* variables count.
BLOCKS_VARIABLE = "FEM_BLOCKS"

#: Called with each event that a wait in this process hears; the command line shows them.
watcher: Callable[[TaskEvent], None] | None = None

_lock = threading.Lock()
_centre: Centre | None = None


def centre() -> Centre:
    """The centre, opened at first use and closed with the process."""
    global _centre
    with _lock:
        if _centre is None:
            name = os.environ.get(BLOCKS_VARIABLE)
            _centre = Centre.open(_from_blocks(name) if name else load())
            atexit.register(close)
        return _centre


def close() -> None:
    """Close the process's centre, if there is one; the next use opens another."""
    global _centre
    with _lock:
        if _centre is not None:
            _centre.close()
            _centre = None


def _from_blocks(name: str) -> CentreSettings:
    from pathlib import Path

    from blocks import FederationBroker, FederationRecords, FederationStore

    try:
        # `_sync` is Prefect's own way to load from a synchronous place within an event loop.
        loaded: list[Any] = [kind.load(name, _sync=True) for kind in (FederationBroker, FederationStore, FederationRecords)]  # type: ignore[call-arg]
    except ValueError as error:
        raise SettingsError(f"{BLOCKS_VARIABLE}: {str(error).splitlines()[0]}", remedy=f"save them with `fem blocks {name}`") from error
    broker, store, records = loaded
    return CentreSettings(
        broker_url=broker.url, broker_site_url=broker.site_url, relay=broker.relay,
        key=Path(broker.signing_key) if broker.signing_key else None, key_id=broker.key_id,
        store_url=store.url, store_site_url=store.site_url, records_url=records.url,
    )  # fmt: skip
