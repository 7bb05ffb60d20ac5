"""The files of examples/learning and examples/flower are sound, and what they name is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from federation.catalogue.folder import load_tool
from federation.learning.package import Package
from federation.learning.session import load_session
from tests.support.checkout import ROOT

SESSIONS = sorted((ROOT / "examples/learning").glob("*.yaml"))


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.stem)
def test_a_session_of_the_examples_is_sound(path: Path) -> None:
    asked = load_session(path)
    package = Package.load(Path(asked.package))
    assert asked.local is not None
    assert asked.datasets == (asked.local.dataset,) == (package.settings["dataset"],)
    assert asked.settings.keys() <= package.settings.keys()
    assert asked.clients_required <= asked.local.nodes


def test_both_examples_are_there() -> None:
    assert [path.stem for path in SESSIONS] == ["breast_cancer", "digits"]


def test_the_tool_of_a_flower_app_is_sound() -> None:
    tool = load_tool(ROOT / "examples/flower/flower.yaml")
    server, client = tool.tasks
    assert server.single_node
    assert set(server.files) == {"server.py", "app/pyproject.toml", "app/server_app.py", "app/client_app.py"}
    assert set(client.files) == {"client.py"}
