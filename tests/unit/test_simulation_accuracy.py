"""What federated learning costs in accuracy on digits, from one seed: the settings of `python -m benchmarks accuracy`, and fewer rounds."""

from __future__ import annotations

from functools import cache

import pytest

from benchmarks import accuracy
from federation.simulation.configuration import merged

SEED, ROUNDS = 1, 25


@cache
def percent(name: str) -> float:
    """Mean accuracy over the last five rounds."""
    settings = {"iid": accuracy.IID, "centralised": accuracy.CENTRALISED}.get(name) or merged(
        accuracy.DIRICHLET, {"algorithms": accuracy.ALGORITHMS[name]}
    )
    return float(accuracy.curve(accuracy.run(settings, SEED, ROUNDS))[-5:].mean())


def test_fedavg_on_iid_data_is_within_a_point_of_training_in_one_place() -> None:
    assert percent("centralised") > 95
    assert percent("iid") >= percent("centralised") - 1


@pytest.mark.parametrize("name", ["scaffold", "feddyn"])
def test_where_devices_hold_few_classes_corrected_steps_are_ahead_of_fedavg(name: str) -> None:
    assert percent(name) > percent("fedavg") + 2


def test_fedprox_stays_near_fedavg() -> None:
    """Its pull is small here; without one it would be FedAvg to the last bit."""
    assert 0 < abs(percent("fedprox") - percent("fedavg")) < 5
