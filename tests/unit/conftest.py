"""What several unit tests share and must be cleared away."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.centre import Centre
from federation.enrol import enrol
from federation.settings import CentreSettings


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    """A centre of the embedded profile, without a relay, with the nodes `site-a` and `site-b`."""
    centre = Centre.open(CentreSettings(home=tmp_path / "fem", relay="service", patience=0.2))
    for node in ("site-a", "site-b"):
        enrol(centre.broker, centre.records, node)
    yield centre
    centre.close()
