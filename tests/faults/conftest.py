"""The ground on which faults are made, one for all tests here."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest

from deployments.services import minio, rabbitmq
from deployments.services.place import Place
from tests.faults.ground import Ground, ground
from tests.faults.own import Own, running

#: What is drawn inside a fault is the same in each test run.
SEED = 1


class Grounds:
    """One of each kind, made when it is first asked for; all are made anew, with the services, after a test that failed on one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._own: Own | None = None
        self._made: dict[str, Ground] = {}
        self._undo = ExitStack()

    @contextmanager
    def of(self, kind: str) -> Iterator[Ground]:
        if self._own is None:
            self._own = self._undo.enter_context(running(self._new("own")))
        if kind not in self._made:
            self._made[kind] = self._undo.enter_context(ground(self._own, self._new(kind), kind, random.Random(SEED)))
        with ExitStack() as failed:
            failed.callback(self.close)
            yield self._made[kind]
            failed.pop_all()

    def close(self) -> None:
        """End what stands."""
        self._own, self._made = None, {}
        self._undo.close()

    def _new(self, name: str) -> Path:
        return self._folder / f"{name}-{time.time_ns():x}"


@pytest.fixture(scope="session")
def servers() -> None:
    """What is to be killed can be started; otherwise a test is skipped on a laptop and fails in CI."""
    if any(rabbitmq.missing().values()) or minio.binary(Place.of(os.environ)) is None or os.geteuid() != 0:
        reason = "the fault suite starts a RabbitMQ, a MinIO and a dockerd of its own: `make services` installs them, root starts them"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


@pytest.fixture(scope="session")
def grounds(servers: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Grounds]:
    with closing(Grounds(tmp_path_factory.mktemp("faults"))) as made:
        yield made
