"""`fem learn` and `fem sessions continue`: the flow, called in this process, with the session's table shown as it grows; nodes on this machine where
the session has them.
"""

from __future__ import annotations

import asyncio
import os
import re
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import tags
from prefect.client.schemas.objects import State
from rich.console import Console

from fdn_worker.errors import FdnError, SystemFault
from federation.learning.session import SessionConfiguration
from federation.local import LocalFederation
from flows import connection
from flows.federated_learning import SessionResult, federated_learning
from flows.learning_view import show
from storage.learning import SessionRow

#: Names of the nodes that a session has made for itself.
LOCAL = re.compile(r"site-\d+")


def run_session(row: SessionRow, console: Console) -> SessionResult:
    """Run the flow to its end, and return how far the session came; the errors that it meets are raised as they were."""
    learning, over = connection.centre().records.learning, threading.Event()
    shown = threading.Thread(target=show, args=(learning, row.id, console, over), daemon=True)
    shown.start()
    try:
        with tags("federation", f"session:{row.id[:8]}"):
            state = asyncio.run(_flow_run(row.id))
    finally:
        over.set()
        shown.join()
    outcome = state.result(raise_on_failure=False)
    if isinstance(outcome, FdnError):
        raise outcome
    if isinstance(outcome, SessionResult):
        return outcome
    if state.is_cancelled() or state.is_crashed():
        raise KeyboardInterrupt
    raise SystemFault(f"the flow ended {state.name}: {state.message}", remedy="see its log in the Prefect UI")


async def _flow_run(session: str) -> State[Any]:
    state: State[Any] = await federated_learning(session=session, return_state=True)
    return state


@contextmanager
def nodes_of(asked: SessionConfiguration) -> Iterator[SessionConfiguration]:
    """The session as it can be run here. One with a section `local`, where no federation is, gets nodes in the embedded home for as long as it runs."""
    centre = connection.centre()
    home = centre.settings.home
    enrolled = [row.name for row in centre.records.nodes() if row.retired is None]
    if asked.local is None or not centre.settings.embedded or not all(_made_here(home, name) for name in enrolled):
        yield asked
        return
    # A client's `python3` is the one that runs this, which has what the examples need.
    options = {"path": f"{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"}
    datasets = asked.local.write(home / "local-data")
    with LocalFederation(home, asked.local.names(), datasets, launcher_options=options) as local:
        local.wait_connected(centre)
        yield asked.model_copy(update={"nodes": asked.local.names(), "datasets": asked.datasets or (asked.local.dataset,)})


def _made_here(home: Path, node: str) -> bool:
    return LOCAL.fullmatch(node) is not None and (home / f"{node}.toml").exists()
