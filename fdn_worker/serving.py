"""A server's ports: watched from its start until all of them are open, or their time is over."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from fdn_worker.errors import JournalUnavailable, SystemFault
from fdn_worker.launchers import Launcher, Serving

log = logging.getLogger(__name__)

#: Seconds between two looks: the first ones, and at most.
_FIRST, _LONGEST = 0.05, 0.5


@contextmanager
def watching(
    launcher: Launcher, name: str, ports: Mapping[int, int], within: float, *, opened: Callable[[], None], late: Callable[[], None]
) -> Iterator[None]:
    """Inside, the attempt runs: `opened` is called once all its ports take connections, `late` if they do not within so many seconds.

    Neither is called after the attempt has ended. Nothing is watched where there is no port.
    """
    if not ports:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_watch, args=(launcher, name, ports, within, over, opened, late), name=f"ports-{name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _watch(
    launcher: Launcher, name: str, ports: Mapping[int, int], within: float, over: threading.Event, opened: Callable[[], None],
    late: Callable[[], None],
) -> None:  # fmt: skip
    end, pause = time.monotonic() + within, _FIRST
    while not over.wait(pause):
        pause = min(_LONGEST, 1.5 * pause)
        try:
            if _all_open(launcher, name, ports):
                return opened()
            if time.monotonic() > end:
                return late()
        except JournalUnavailable as error:
            log.warning("%s: what its ports do waits: %s", name, error, extra={"action": "journal-waits"})
    return None


def _all_open(launcher: Launcher, name: str, ports: Mapping[int, int]) -> bool:
    if not isinstance(launcher, Serving):
        return False
    try:
        return launcher.listening(name, ports) == set(ports)
    except SystemFault as error:
        # An engine that does not answer, or a task that has just ended: whoever follows it will tell.
        log.debug("%s: its ports cannot be looked at: %s", name, error)
        return False
