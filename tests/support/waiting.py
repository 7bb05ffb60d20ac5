"""Waiting for what must come about. A limit costs nothing when it does, so there is one, and a slow machine keeps it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

#: Seconds in which a thing that must happen has happened. Below pytest's own limit for a test, so that what is missing is said.
SOON = 120.0
T = TypeVar("T")


def eventually(what: str, condition: Callable[[], T], seconds: float = SOON) -> T:
    """The first true value of `condition`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it did not come about: {what}"
        time.sleep(0.02)
    return value
