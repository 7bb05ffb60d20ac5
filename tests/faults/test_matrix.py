"""Each fault of the matrix once, and then what must hold; and that what does not hold is found."""

from __future__ import annotations

import pytest

from fdn_worker.protocol import State
from federation.results import ManifestDiffers
from tests.faults.conftest import Grounds
from tests.faults.invariants import check
from tests.faults.matrix import Fault, all_faults, endure


@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", all_faults(), ids=lambda fault: fault.id)
def test_fault(grounds: Grounds, fault: Fault) -> None:
    with grounds.of(fault.kind) as ground:
        endure(ground, [fault])


def test_a_second_execution_is_found(grounds: Grounds) -> None:
    with grounds.of("process") as ground:
        case = ground.begin()
        once = case.count.read_text()
        case.count.write_text(once * 2)
        ground.go(case)
        with pytest.raises(AssertionError, match="ran 2 times"):
            check(ground)
        case.count.write_text(once)
        check(ground)


def test_another_end_is_found(grounds: Grounds) -> None:
    with grounds.of("process") as ground:
        case = ground.begin(ends=frozenset({State.LOST}))
        ground.go(case)
        with pytest.raises(AssertionError, match="and not"):
            check(ground)
        case.ends = frozenset({State.SUCCEEDED})
        check(ground)


def test_what_is_left_over_is_found(grounds: Grounds, monkeypatch: pytest.MonkeyPatch) -> None:
    with grounds.of("process") as ground:
        case = ground.begin()
        ground.go(case)
        folder = ground.rig.state_dir(ground.node) / "runs/left"
        folder.mkdir()
        monkeypatch.setattr("tests.support.rig.SOON", 1.0)  # it will never be cleared away
        with pytest.raises(AssertionError, match="runs/left"):
            check(ground)
        folder.rmdir()
        check(ground)


def test_a_lost_output_is_found(grounds: Grounds) -> None:
    with grounds.of("process") as ground:
        case = ground.begin()
        ground.go(case)
        result = ground.rig.result(case.submission)
        ground.rig.centre.store.delete([file.key for file in result.outputs])
        with pytest.raises(ManifestDiffers):
            check(ground)
        ground.cases.clear()
