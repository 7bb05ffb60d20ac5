"""The threat model names tests: each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs/explanation/threat-model.md").read_text()
NAMED = sorted(set(re.findall(r"`((?:unit/|integration/|faults/)?test_\w+(?:\.py|\[[\w.-]+\])?)`", PAGE)))
HOSTILE = (TESTS / "integration/test_hostile.py").read_text()


def test_it_names_tests() -> None:
    assert len(NAMED) > 20


@pytest.mark.parametrize("name", NAMED)
def test_what_it_names_is_there(name: str) -> None:
    if name.endswith(".py"):
        assert list(TESTS.glob(name if "/" in name else f"*/{name}"))
    else:
        function, _, case = name.rstrip("]").partition("[")
        assert any(f"def {function}(" in path.read_text() for path in TESTS.glob("*/test_*.py"))
        assert not case or f'"{case.removesuffix("...")}' in HOSTILE


@pytest.mark.parametrize("case", sorted(set(re.findall(r"`\[([\w.-]+)\]`", PAGE)) - {"secret"}))
def test_so_is_each_attack(case: str) -> None:
    assert f'"{case.removesuffix("...")}' in HOSTILE
