"""What the worker keeps, held to the site's budgets: over one of them, what is old goes, and while that does not help no order is taken."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from fdn_worker import policy
from fdn_worker.attempts import Attempts
from fdn_worker.disk import weigh
from fdn_worker.errors import JournalUnavailable, SystemFault
from fdn_worker.holds import Holds
from fdn_worker.journal import Journal
from fdn_worker.launchers import Collecting, Launcher
from fdn_worker.policy.names import image_matches, image_name
from fdn_worker.settings import WorkerSettings

log = logging.getLogger(__name__)


class Housekeeping:
    """`launchers` gives those of the node. Each budget is looked at from time to time, the free disk whenever it is asked for."""

    def __init__(
        self, settings: WorkerSettings, journal: Journal, holds: Holds, attempts: Attempts, launchers: Callable[[], Iterable[Launcher]]
    ) -> None:
        self._settings, self._journal, self._holds, self._attempts, self._launchers = settings, journal, holds, attempts, launchers
        self._over: tuple[str, ...] = ()
        self._looking = threading.Lock()

    def full(self) -> str:
        """Why there is no room for another order, in words; "" while there is."""
        reserve, promised = self._settings.limits.disk_reserve, self._attempts.promised()
        if policy.disk_free(self._settings.state_dir) - promised < reserve:
            more = f", with {promised:,} bytes that running tasks may still fill" if promised else ""
            return f"the disk of {self._settings.state_dir} is nearly full{more}"
        return "; ".join(self._over)

    def look(self) -> None:
        """Bring all within its budget, as far as may be. Returns at once while another thread does so."""
        if not self._looking.acquire(blocking=False):
            return
        try:
            self._over = tuple(filter(None, (self._sandboxes(), self._journal_file())))
            self._images()
        except (OSError, JournalUnavailable, SystemFault) as error:
            log.warning("budgets: %s", error, extra={"action": "budget-waits"})
        finally:
            self._looking.release()

    def _sandboxes(self) -> str:
        most = self._settings.budget.sandboxes
        if most is None:
            return ""
        taken = sum(weigh(self._settings.state_dir / folder).size for folder in ("runs", "kept"))
        if taken > most:
            taken -= self._holds.collect(taken - most)
        return _over("sandboxes take", taken, most)

    def _journal_file(self) -> str:
        most = self._settings.budget.journal
        return _over("the journal takes", self._journal.compact(most), most)

    def _images(self) -> None:
        most = self._settings.budget.images
        if most is None:
            return
        wanted = {entry.order.image for entry in self._journal.unfinished() if entry.order is not None and entry.order.image}
        repositories = {name[0] for name in map(image_name, wanted) if name is not None}

        def keep(reference: str) -> bool:
            name = image_name(reference)
            return (
                name is None
                or name[0] in repositories
                or any(image_matches(pattern, name) for pattern in self._settings.budget.keep_images)
            )

        for launcher in self._launchers():
            if isinstance(launcher, Collecting) and (taken := launcher.collect(most, keep)) > most:
                # They do no harm but to the disk, which has its reserve.
                log.warning("images in use or kept take %s of %s bytes", f"{taken:,}", f"{most:,}", extra={"action": "budget-over"})


def _over(what: str, taken: int, most: int) -> str:
    return f"{what} {taken:,} bytes of a budget of {most:,}" if taken > most else ""


def log_files(path: Path, most: int) -> logging.Handler:
    """The worker's own log, in files that together take at most so many bytes."""
    from logging.handlers import RotatingFileHandler

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    return RotatingFileHandler(path, maxBytes=most // 5, backupCount=4, encoding="utf-8")
