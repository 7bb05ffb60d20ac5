"""What all tests share: the real services, and a broker address of a test's own."""

from __future__ import annotations

import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
#: Written by `make services`; says where the real services listen.
SERVICES = Path(os.environ.get("FEM_SERVICES", ROOT / ".cache/services/services.json"))


@dataclass(frozen=True)
class Services:
    """The real RabbitMQ, MinIO and Docker Engine that the tests use."""

    amqp_url: str
    amqp_management_url: str
    s3_url: str
    docker_host: str
    images: dict[str, str]


@pytest.fixture(scope="session")
def services() -> Services:
    """The real services; without them a test is skipped on a laptop and fails in CI."""
    if not SERVICES.exists():
        reason = f"no real services: {SERVICES} is missing (start them with `make services`)"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    return Services(**json.loads(SERVICES.read_text()))


@pytest.fixture
def unique() -> str:
    """A valid id that no other test uses."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the settings of whoever runs it."""
    for name in list(os.environ):
        if name.startswith(("FEM_", "FDN_")) and name != "FEM_SERVICES":
            monkeypatch.delenv(name)
