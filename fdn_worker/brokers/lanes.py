"""Many messages published at once, so that they share the broker's round trips and its fsyncs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

#: Lanes side by side.
WIDTH = 16

T = TypeVar("T")


class Lanes:
    """Handles items side by side, those of one lane in their order. One lane alone is handled in the caller's thread."""

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(WIDTH, thread_name_prefix=name)

    def run(self, items: Iterable[T], lane_of: Callable[[T], str], handle: Callable[[T], None]) -> None:
        """Return when all are handled; or raise the first lane's error, after which no lane has begun another item."""
        lanes: dict[str, list[T]] = {}
        for item in items:
            lanes.setdefault(lane_of(item), []).append(item)
        failed = threading.Event()

        def follow(lane: list[T]) -> None:
            for item in lane:
                if failed.is_set():
                    return
                try:
                    handle(item)
                except BaseException:
                    failed.set()
                    raise

        if len(lanes) == 1:
            follow(*lanes.values())
            return
        futures = [self._pool.submit(follow, lane) for lane in lanes.values()]
        wait(futures)
        for future in futures:
            future.result()
