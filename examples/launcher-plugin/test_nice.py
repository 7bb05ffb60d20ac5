"""The published contract tests on the launcher as its entry point gives it, and the one thing that is its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from fdn_worker.errors import SettingsError
from fdn_worker.launchers import LaunchSpec, load
from fdn_worker.testing import HELLO, LauncherContract, MakeLauncher, MakeSpec, run, spec_of, texts


class TestNice(LauncherContract):
    SERVER = (sys.executable, "-c", HELLO, "$PORT_8080")

    @pytest.fixture
    def make_launcher(self, tmp_path: Path) -> MakeLauncher:
        return lambda: load("nice", {"level": 7}, tmp_path / "state")

    @pytest.fixture
    def launcher(self, make_launcher: MakeLauncher):
        return make_launcher()

    @pytest.fixture
    def make_spec(self, make_launcher: MakeLauncher, tmp_path: Path) -> Iterator[MakeSpec]:
        numbers, made = count(1), []

        def make(*argv: str, **changes: object) -> LaunchSpec:
            made.append(f"nice-{next(numbers)}")
            return spec_of(made[-1], "north", argv, tmp_path / "sandboxes" / made[-1], **changes)

        yield make
        for name in made:
            make_launcher().remove(name)

    def test_the_task_stands_back(self, launcher, make_spec: MakeSpec) -> None:
        assert texts(run(launcher, make_spec("nice"))[1]) == ["7"]


def test_a_wrong_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"\[launchers.nice\] level"):
        load("nice", {"level": 20}, tmp_path)
