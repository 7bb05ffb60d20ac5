"""The relay's part in waking suspended executions: it tells Prefect, by an event, of those that have something to do again."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from fdn_worker.errors import FdnError
from federation.centre import Centre
from federation.suspension import due_among
from storage.records import ExecutionRow

log = logging.getLogger(__name__)

#: The automation federation-resume resumes the flow run that such an event names.
READY = "fem.execution.ready"
#: News that wait at most, and executions that are announced again at a time.
MOST = 1000
#: Seconds until an execution that is still suspended is announced again, each time twice as long; and how often it is announced at most.
PAUSE, TIMES = 15.0, 5


class Waker:
    """A thread of its own, so that the relay never waits for Prefect or this. What is lost here, the reconciler finds.

    Nothing says whether Prefect could do what an event asks for, so an execution is announced again until it was taken up.
    """

    def __init__(self, centre: Centre, announce: Callable[[ExecutionRow], None] | None = None, *, pause: float = PAUSE) -> None:
        self._centre, self._announce, self._pause = centre, announce or emit, pause
        self._news: queue.Queue[set[str] | None] = queue.Queue(MOST)
        #: Execution -> how often it was announced, and the monotonic moment of the next time.
        self._again: dict[str, tuple[int, float]] = {}
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
        while True:
            try:
                news = self._news.get(timeout=self._patience())
            except queue.Empty:
                news = set()
            if news is None:
                return
            try:
                self._wake(news)
            except FdnError as error:
                log.error("suspended executions stay so until the reconciler comes: %s", error, extra={"action": "wake-failed"})

    def _patience(self) -> float | None:
        """Seconds until something is to be announced again."""
        return max(0.0, min(moment for _, moment in self._again.values()) - time.monotonic()) if self._again else None

    def _wake(self, news: set[str]) -> None:
        moment = time.monotonic()
        # Those announced already have their turn.
        wanted = (news - self._again.keys()) | {one for one, (_, turn) in self._again.items() if turn <= moment}
        told = {one: self._again.pop(one, (0, 0.0))[0] for one in wanted}
        for row in due_among(self._centre, sorted(wanted)):
            self._announce(row)
            times = told[row.id] + 1
            if times < TIMES and len(self._again) < MOST:
                self._again[row.id] = (times, moment + self._pause * 2 ** (times - 1))


def emit(row: ExecutionRow) -> None:
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
