"""The ground on which faults are made, one for all tests here."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from deployments.services import minio, rabbitmq
from deployments.services.place import Place
from tests.faults.ground import Ground, ground
from tests.faults.own import running

#: What is drawn inside a fault is the same in each test run.
SEED = 1


class Grounds:
    """One of each kind, made when it is first asked for, and anew after a test that failed on it."""

    def __init__(self, folder: Path, undo: ExitStack) -> None:
        self._folder, self._undo = folder, undo
        self._own = undo.enter_context(running(folder / "own"))
        self._made: dict[str, Ground] = {}

    @contextmanager
    def of(self, kind: str) -> Iterator[Ground]:
        if kind not in self._made:
            folder = self._folder / f"{kind}-{time.time_ns():x}"
            self._made[kind] = self._undo.enter_context(ground(self._own, folder, kind, random.Random(SEED)))
        # Comes back when all is well.
        found = self._made.pop(kind)
        yield found
        self._made[kind] = found


@pytest.fixture(scope="session")
def servers() -> None:
    """What is to be killed can be started; otherwise a test is skipped on a laptop and fails in CI."""
    if any(rabbitmq.missing().values()) or minio.binary(Place.of(os.environ)) is None or os.geteuid() != 0:
        reason = "the fault suite starts a RabbitMQ, a MinIO and a dockerd of its own: `make services` installs them, root starts them"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def grounds(servers: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    with ExitStack() as undo:
        yield Grounds(tmp_path_factory.mktemp("faults"), undo)
