"""The relay's part in waking suspended executions: it tells Prefect, by an event, of those that have something to do again."""

from __future__ import annotations

import logging
import queue
import threading
from datetime import datetime

from fdn_worker.errors import FdnError
from federation.centre import Centre
from federation.suspension import due_among
from storage.records import ExecutionRow

log = logging.getLogger(__name__)

#: The automation federation-resume resumes the flow run that such an event names.
READY = "fem.execution.ready"
#: Announcements that wait at most, and executions that are remembered as announced.
MOST = 1000


class Waker:
    """A thread of its own, so that the relay never waits for Prefect or this. What is lost here, the reconciler finds."""

    def __init__(self, centre: Centre) -> None:
        self._centre = centre
        self._news: queue.Queue[set[str] | None] = queue.Queue(MOST)
        self._told: dict[str, datetime | None] = {}
        self._thread = threading.Thread(target=self._run, name="waker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def tell(self, executions: set[str]) -> None:
        """The relay's `on_news`: returns at once."""
        try:
            self._news.put_nowait(executions)
        except queue.Full:
            log.warning("news of %d executions dropped; the reconciler wakes them", len(executions), extra={"action": "wake-dropped"})

    def stop(self) -> None:
        """Handle what has come, and end."""
        self._news.put(None)
        self._thread.join(10.0)

    def _run(self) -> None:
        while (executions := self._news.get()) is not None:
            try:
                self._wake(executions)
            except FdnError as error:
                log.error("suspended executions stay so until the reconciler comes: %s", error, extra={"action": "wake-failed"})

    def _wake(self, executions: set[str]) -> None:
        for row in due_among(self._centre, sorted(executions)):
            # Once for each time that it is suspended.
            if self._told.get(row.id) != row.suspended:
                if len(self._told) >= MOST:
                    self._told.clear()
                self._told[row.id] = row.suspended
                announce(row)


def announce(row: ExecutionRow) -> None:
    """Emit the event. It goes out in the background, when Prefect can be reached."""
    # Not before the first: most relays never need Prefect, which takes 100 MB.
    from prefect.events import emit_event
    from prefect.settings import PREFECT_API_URL

    if not PREFECT_API_URL.value():
        log.error("execution %s cannot be resumed from here: set PREFECT_API_URL", row.id, extra={"action": "wake-failed"})
        return
    log.info("execution %s has something to do again", row.id, extra={"action": "wake"})
    emit_event(
        READY,
        resource={"prefect.resource.id": f"fem.execution.{row.id}", "prefect.resource.name": row.tool or row.id},
        related=[{"prefect.resource.id": f"prefect.flow-run.{row.flow_run}", "prefect.resource.role": "flow-run"}],
    )
