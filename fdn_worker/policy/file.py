"""The policy's file, read anew when it changes: a broken one refuses everything, since neither the old one nor none is the site's word."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from fdn_worker.errors import SettingsError
from fdn_worker.policy.document import Policy, read

log = logging.getLogger(__name__)


class PolicyFile:
    """Safe from any thread. `on_change` is told what was read, each time that is something else: the policy, or
    what is wrong. If it raises, so does `current`, and the next call tells it again.
    """

    def __init__(self, path: Path, on_change: Callable[[Policy | SettingsError], None] = lambda _: None) -> None:
        self.path, self._on_change = path, on_change
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._held: Policy | SettingsError | None = None

    def current(self) -> Policy:
        """The policy as the file has it now. Raises SettingsError, with file, line and key, while it is broken."""
        with self._lock:
            stamp = self._looked()
            if self._held is None or stamp != self._stamp:
                found = self._read()
                if self._held is None or _told(found) != _told(self._held):
                    self._on_change(found)
                self._held, self._stamp = found, stamp
            if isinstance(self._held, SettingsError):
                raise self._held
            return self._held

    def _looked(self) -> tuple[int, ...] | None:
        try:
            found = self.path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino

    def _read(self) -> Policy | SettingsError:
        try:
            return read(self.path.read_text(), self.path)
        except SettingsError as error:
            return error
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            return SettingsError(f"policy file {self.path}: {why}", remedy="put it there, readable for the worker's user")


def _told(found: Policy | SettingsError) -> str:
    return found.digest if isinstance(found, Policy) else str(found)
