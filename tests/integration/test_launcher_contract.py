"""Both launchers, by the one set of contract tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.launchers import Launcher, LaunchSpec, load
from fdn_worker.testing import HELLO, LauncherContract, MakeLauncher, MakeSpec, spec_of
from tests.conftest import Services


@pytest.fixture
def launcher(make_launcher: MakeLauncher) -> Launcher:
    return make_launcher()


@pytest.fixture
def image() -> str | None:
    return None


@pytest.fixture
def make_spec(make_launcher: MakeLauncher, image: str | None, unique: str, tmp_path: Path) -> Iterator[MakeSpec]:
    numbers, made = count(1), []

    def make(*argv: str, **changes: Any) -> LaunchSpec:
        name = f"{unique}-{next(numbers)}"
        made.append(name)
        return spec_of(name, unique, argv, tmp_path / "sandboxes" / name, **{"image": image} | changes)

    yield make
    launcher = make_launcher()
    for name in made:
        launcher.remove(name)
        assert not list(Path("/sys/fs/cgroup").glob(f"*/fdn/{name}"))


class TestProcess(LauncherContract):
    SERVER = (sys.executable, "-c", HELLO, "$PORT_8080")

    @pytest.fixture
    def make_launcher(self, tmp_path: Path) -> Callable[[], Launcher]:
        return lambda: load("process", {}, tmp_path / "state")


class TestDocker(LauncherContract):
    SERVER = ("/bin/sh", "-c", 'until [ -e go ]; do sleep 0.02; done; echo hello | nc -l -p "$1"', "sh", "$PORT_8080")

    @pytest.fixture
    def make_launcher(self, services: Services, tmp_path: Path) -> Callable[[], Launcher]:
        return lambda: load("docker", {"docker_host": services.docker_host, "pull_policy": "never", "network": "bridge"}, tmp_path)

    @pytest.fixture
    def image(self, make_launcher: MakeLauncher, services: Services) -> str | None:
        return make_launcher().prepare(services.images["busybox"], None)
