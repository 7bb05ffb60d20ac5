"""Whether orders are taken, as far as people decide it: the site's drain and the centre's pause, flags of the journal that hold over restarts.

A flag is in force once the worker has acted on it, which it notes in the journal as well. Until then it may take an order, so
whoever sets a flag waits for that.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fdn_worker.journal import Journal

#: Flags: `fdn-worker drain` has set it, to "stay" or "exit"; the centre has paused the intake, and the value says for whom.
DRAIN, PAUSED = "drain", "paused"
#: Flag: the two as they were when the worker last acted on them.
_MINDED = "intake"
#: Seconds between looks.
_LOOK = 0.05


def asked(journal: Journal) -> str:
    """The flags as they stand."""
    return f"drain={journal.flag(DRAIN)} paused={journal.flag(PAUSED)}"


def mind(journal: Journal, flags: str | None) -> None:
    """The worker has acted on these flags; None: on none yet."""
    if journal.flag(_MINDED) != flags:
        journal.set_flag(_MINDED, flags)


def in_force(journal: Journal, goes_on: Callable[[], bool]) -> bool:
    """Wait, while `goes_on`, until the worker has acted on the flags; whether it has."""
    while not (done := journal.flag(_MINDED) == asked(journal)) and goes_on():
        time.sleep(_LOOK)
    return done
