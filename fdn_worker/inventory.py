"""The images at this node, from every launcher that has some."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable

from fdn_worker.errors import SystemFault
from fdn_worker.launchers import Images, Launcher
from fdn_worker.protocol import ImageHere

log = logging.getLogger(__name__)

#: Seconds for which what was seen is good enough for a heartbeat, and how many names one carries.
_FRESH, MOST_NAMES = 60.0, 50


class Inventory:
    """`launchers` gives those of the node that the centre may see the images of."""

    def __init__(self, launchers: Callable[[], Iterable[Launcher]]) -> None:
        self._launchers = launchers
        self._names: tuple[str, ...] = ()
        self._seen = -_FRESH
        self._looking = threading.Lock()

    def stores(self) -> list[Images]:
        """The launchers that have images."""
        return [launcher for launcher in self._launchers() if isinstance(launcher, Images)]

    def images(self) -> tuple[ImageHere, ...]:
        """All of them now. Raises LauncherUnavailable."""
        return tuple(image for store in self.stores() for image in store.images())

    def known(self) -> tuple[str, ...]:
        """Names as of a while ago, a bounded number: an engine may be slow, and no heartbeat waits for it."""
        if time.monotonic() - self._seen > _FRESH and self._looking.acquire(blocking=False):
            threading.Thread(target=self._look, name="inventory", daemon=True).start()
        return self._names

    def _look(self) -> None:
        try:
            self._names = tuple(image.name for image in self.images())[:MOST_NAMES]
        except SystemFault as error:
            log.warning("images: %s", error, extra={"action": "launcher-waits"})
        finally:
            self._seen = time.monotonic()
            self._looking.release()
