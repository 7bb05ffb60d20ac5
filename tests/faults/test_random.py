"""The random mode: what it draws, what it tells, and a few seconds of it."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest

from tests.faults.matrix import all_faults
from tests.faults.random import draw, table
from tests.support.rig import ROOT


def test_the_same_seed_draws_the_same() -> None:
    faults = all_faults()
    first, second, other = ([[one.id for one in draw(faults, random.Random(seed))] for _ in range(50)] for seed in (1, 1, 2))
    assert first == second != other


def test_what_is_drawn_together_can_be_made_together() -> None:
    faults, chance = all_faults(), random.Random(1)
    drawn = [draw(faults, chance) for _ in range(2000)]
    assert {one.id for some in drawn for one in some} == {one.id for one in faults}
    assert {len(some) for some in drawn} == {1, 2, 3}
    for some in drawn:
        assert len({one.id for one in some}) == len(some)
        assert len({one.kind for one in some}) == 1
        assert len(some) == 1 or all(one.mixes for one in some)
        assert "worker killed" not in [one.name for one in some[:-1]]


def test_the_table_counts_what_did_not_hold() -> None:
    found = table({"01 a": [*map(float, range(1, 21)), None], "02 b": [None]})
    assert "| 01 a | 21 | 20 | 10.5 s | 19.0 s |" in found
    assert "| 02 b | 1 | 0 | | |" in found
    assert "| all | **22** | **20** | | |" in found


@pytest.mark.timeout(240)
@pytest.mark.usefixtures("servers")
def test_a_few_seconds() -> None:
    words = [sys.executable, "-m", "tests.faults.random", "--seconds", "5", "--seed", "3", "--lanes", "1"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("seed 3\n")
    assert "\nlane 0: " in done.stdout
    assert "| all | **" in done.stdout
