"""Sessions on RabbitMQ, MinIO and Docker, in which nodes are killed in mid-round: a combiner's, and clients'."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from federation.learning import opening
from federation.learning.models import ModelFile
from federation.learning.trail import Trail
from storage.learning import SessionRow
from tests.conftest import Services
from tests.support.dying_learner import run
from tests.support.learning import a_session, step, value
from tests.support.learning_image import learning_image
from tests.support.rig import Rig
from tests.support.services import real_rig
from tests.support.waiting import SOON


@pytest.fixture
def house(services: Services, tmp_path: Path) -> Iterator[Rig]:
    """Three clients and a node for a combiner; no worker is started yet."""
    name = f"learn-{time.time_ns():x}"
    nodes = tuple(f"{name}-{number}" for number in (1, 2, 3, 4))
    with real_rig(services, tmp_path / "fem", nodes, name, options={"keep_sandboxes": True}) as made:
        yield made


def model(house: Rig, session: SessionRow, folder: Path) -> float:
    """Of the first round."""
    (row,) = (row for row in house.centre.records.learning.models(session.id) if row.round == 1)
    return value(ModelFile(Trail(house.centre).fetch(row, folder / "1.safetensors")))


async def test_a_combiner_and_a_client_killed_in_mid_round(house: Rig, services: Services, tmp_path: Path, unique: str) -> None:
    first, second, lost, combiner = house.federation.nodes
    house.start(first)
    house.start(second)
    # Once its container runs: in the middle of its training, and of its folding.
    dying = [house.start_dying(node, "after:start-container") for node in (lost, combiner)]
    tree = [{"name": "top"}, {"name": "left", "at": combiner, "above": "top"}, {"name": "right", "at": first, "above": "top"}]
    asked = a_session(
        tmp_path, python="python3", image=learning_image(services), nodes=(first, second, lost), combiners=tree, rounds=1, buffer=2,
        clients_required=2, validate=False,
    )  # fmt: skip
    session = opening.begin(house.centre, asked, unique)
    await run(house.centre, session.id)

    assert [process.wait(SOON) for process in dying] == [-signal.SIGKILL] * 2
    learning = house.centre.records.learning
    assert learning.find_session(session.id).state == "FINISHED"
    outcomes = {row.client: (row.outcome, row.combiner) for row in learning.updates(session.id, 1)}
    assert outcomes == {first: ("COUNTED", "right"), second: ("COUNTED", "right"), lost: ("LATE", "")}
    assert model(house, session, tmp_path) == pytest.approx(step(0, [1, 2]), abs=1e-9), "the flat mean of those that answered"


async def test_a_client_killed_in_the_middle_of_a_secure_sum(house: Rig, services: Services, tmp_path: Path, unique: str) -> None:
    first, second, lost, _ = house.federation.nodes
    house.start(first)
    house.start(second)
    # Its fourth container is to mask what it has trained; it has shared its secrets then.
    dying = house.start_dying(lost, "after:start-container:*:4")
    asked = a_session(
        tmp_path, python="python3", image=learning_image(services), nodes=(first, second, lost), rounds=1, validate=False,
        secure_sum={"threshold": 2},
    )  # fmt: skip
    session = opening.begin(house.centre, asked, unique)
    await run(house.centre, session.id)

    assert dying.wait(SOON) == -signal.SIGKILL
    learning = house.centre.records.learning
    assert {row.client: row.outcome for row in learning.updates(session.id, 1)} == {first: "COUNTED", second: "COUNTED", lost: "LOST"}
    assert model(house, session, tmp_path) == pytest.approx(step(0, [1, 2]), abs=1e-8)
