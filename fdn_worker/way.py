"""Ways: how the bytes of a file travel between the node and the centre's store, once the relay has granted it.

By signed URLs straight to the store (`signed_urls`), or in chunks over the broker (`chunks`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from fdn_worker.errors import TaskFailed
from fdn_worker.protocol import TaskOrder, base


class Stopped(Exception):
    """The attempt was told to stop meanwhile."""


@dataclass(frozen=True)
class Place:
    """Where a part goes, or an input comes from."""

    order: TaskOrder
    #: Below the attempt's prefix; of an input, its key.
    path: str
    #: Bytes of the whole file.
    size: int
    #: "" where the way needs none.
    url: str = ""
    upload_id: str | None = None
    number: int = 1


class Way(Protocol):
    """Safe from every thread. Each method raises StoreUnavailable or BrokerUnavailable for what may pass."""

    @property
    def name(self) -> base.Way: ...

    def put(self, place: Place, file: Path, offset: int, length: int, stopping: Callable[[], bool]) -> str:
        """Put `length` bytes of the file from `offset`; the part's ETag, if the store gave one."""

    def read(self, place: Place, offset: int, stopping: Callable[[], bool]) -> Iterator[bytes]:
        """The input's bytes from `offset` on; nothing from beyond its end."""

    def close(self) -> None:
        """Let go of connections."""


@contextmanager
def opened(file: Path) -> Iterator[BinaryIO]:
    """The output to read from, no link followed; TaskFailed when it is gone or cannot be read."""
    try:
        with open(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0) as source:
            yield source
    except OSError as error:
        raise TaskFailed(f"output {file.name} is gone: {error.strerror}", code="output-changed") from error


def changed(file: Path) -> TaskFailed:
    """The output has fewer bytes than it had."""
    return TaskFailed(f"output {file.name} changed while it was staged out", code="output-changed")
