"""What several unit tests share and must be cleared away."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from federation.centre import Centre
from federation.enrol import enrol
from federation.settings import CentreSettings

# Few examples and no clock: this room is to be quick on any machine.
hypothesis.settings.register_profile("unit", max_examples=40, deadline=None, database=None)
hypothesis.settings.load_profile("unit")


def open_centre(home: Path) -> Centre:
    return Centre.open(CentreSettings(home=home, relay="service", patience=0.2))


@pytest.fixture(scope="session")
def _enrolled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a centre with its nodes, made once and copied."""
    home = tmp_path_factory.mktemp("centre") / "fem"
    centre = open_centre(home)
    for node in ("site-a", "site-b"):
        enrol(centre.broker, centre.records, node)
    centre.close()
    return home


@pytest.fixture
def centre(_enrolled: Path, tmp_path: Path) -> Iterator[Centre]:
    """A centre of the embedded profile, without a relay, with the nodes `site-a` and `site-b`."""
    centre = open_centre(Path(shutil.copytree(_enrolled, tmp_path / "fem")))
    yield centre
    centre.close()
