"""Combiners as tasks at nodes: real workers, the embedded broker, the process launcher; whatever the tree, the result is the flat mean."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from federation.centre import Centre
from federation.learning import combining, opening
from federation.learning.models import ModelFile
from federation.learning.phases import phase_execution
from federation.learning.running import Learner, RoundFailed
from federation.learning.secure_sum import to_fixed
from federation.learning.trail import Trail
from federation.local import LocalFederation
from storage.keys import execution_prefix
from storage.learning import SessionRow
from tests.integration.test_learning_sessions import scaffold
from tests.support.dying_learner import run
from tests.support.learning import a_session, step, value
from tests.unit.test_policy_judge import a_rule

NODES, AWAY = ("site-1", "site-2", "site-3"), "site-9"
#: Three levels: two combiners at one node, one above them at another, and the top at the centre.
TREE = [
    {"name": "top"},
    {"name": "middle", "at": "site-3", "above": "top"},
    {"name": "left", "at": "site-1", "above": "middle"},
    {"name": "right", "at": "site-1", "above": "middle"},
]
NAMES = {"site-1": "left", "site-2": "right", "site-3": "middle"}


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    home = tmp_path_factory.mktemp("combiners")
    policy = home / "policy.toml"
    policy.write_text(
        a_rule(id_="learn", tools='["half-way"]', keep_sandboxes="true")
        + a_rule(id_="sums", tools='["combine", "secure-sum"]', projects='["open"]', keep_sandboxes="true")
    )
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"  # a python3 that has numpy
    local = LocalFederation(home, (*NODES, AWAY), launcher_options={"path": path}, options={"policy": str(policy), "keep_sandboxes": True})
    local.prepare()
    try:
        for node in NODES:
            local.start(node)
        yield local
    finally:
        for node in NODES:
            local.stop(node)


@pytest.fixture(scope="module")
def centre(federation: LocalFederation) -> Iterator[Centre]:
    with federation.connected() as centre:
        yield centre


@pytest.fixture
def begin(centre: Centre, tmp_path: Path, unique: str) -> Callable[..., SessionRow]:
    fields = {"validate": False, "rounds": 1, "nodes": NODES, "project": "open"}
    return lambda **changes: opening.begin(centre, a_session(tmp_path, **{**fields, **changes}), unique)


def model(centre: Centre, session: SessionRow, number: int, folder: Path) -> float:
    row = next(row for row in centre.records.learning.models(session.id) if row.round == number)
    return value(ModelFile(Trail(centre).fetch(row, folder / f"{row.id}.safetensors")))


async def test_a_tree_of_three_levels_gives_the_flat_mean(centre: Centre, begin: Callable[..., SessionRow], tmp_path: Path) -> None:
    session = begin(combiners=TREE, assign="by_name", names=NAMES)
    await run(centre, session.id)
    assert model(centre, session, 1, tmp_path) == pytest.approx(step(0, [1, 2, 3]), abs=1e-9)
    updates = centre.records.learning.updates(session.id, 1)
    assert {row.client: (row.combiner, row.outcome, row.examples) for row in updates} == {
        client: (combiner, "COUNTED", float(client[-1])) for client, combiner in NAMES.items()
    }
    assert all(row.metrics["loss"] > 0 for row in updates), "what updates say of themselves is told by who folded them"


async def test_batches_and_a_bad_update_that_is_refused_at_the_node(
    centre: Centre, begin: Callable[..., SessionRow], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of two, so that the only combiner goes on from its own partial sum."""
    monkeypatch.setattr(combining, "BATCH", 2)
    session = begin(combiners=[{"name": "only", "at": "site-2"}], settings={"faults": {"site-1": {"1": "nan"}}})
    await run(centre, session.id)
    assert model(centre, session, 1, tmp_path) == pytest.approx(step(0, [2, 3]), abs=1e-9)
    refused, *counted = centre.records.learning.updates(session.id, 1)
    assert (refused.client, refused.outcome) == ("site-1", "REFUSED")
    assert refused.reason == "site-1: tensor 'w' holds NaN or infinity (a smaller learning rate, or other data)"
    assert {(row.client, row.combiner, row.outcome) for row in counted} == {(node, "only", "COUNTED") for node in ("site-2", "site-3")}


async def test_what_scaffold_remembers_of_clients_is_kept(centre: Centre, begin: Callable[..., SessionRow], tmp_path: Path) -> None:
    asked = {"name": "scaffold", "arguments": {"learning_rate": 0.5}}
    session = begin(rounds=2, aggregator=asked, combiners=[{"name": "only", "at": "site-2"}])
    await run(centre, session.id)
    assert model(centre, session, 2, tmp_path) == pytest.approx(scaffold(2, 0.5), abs=1e-9)


async def test_combiners_that_are_away_or_refused_give_their_clients_to_others(
    centre: Centre, begin: Callable[..., SessionRow], tmp_path: Path
) -> None:
    tree = [{"name": "away", "at": AWAY}, {"name": "roomy", "at": "site-1", "room": 2}]
    session = begin(combiners=tree)
    await run(centre, session.id)
    assert model(centre, session, 1, tmp_path) == pytest.approx(step(0, [1, 2, 3]), abs=1e-9)
    by = {row.client: row.combiner for row in centre.records.learning.updates(session.id, 1)}
    assert by == {"site-1": "", "site-2": "roomy", "site-3": ""}, "roomy has no room for both, so that the centre takes them"


async def test_a_policy_that_refuses_the_tool_leaves_it_to_the_centre(
    centre: Centre, begin: Callable[..., SessionRow], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    session = begin(project="closed", combiners=TREE)
    await run(centre, session.id)
    assert model(centre, session, 1, tmp_path) == pytest.approx(step(0, [1, 2, 3]), abs=1e-9)
    told = [record.getMessage() for record in caplog.records if getattr(record, "action", "") == "combiner-lost"]
    assert {text.partition(" is lost: ")[0] for text in told} >= {"round 1: combiner left", "round 1: combiner right"}
    assert all("REJECTED (policy-" in text for text in told), told


async def test_a_secure_sum_without_the_client_that_is_lost_in_the_middle(
    centre: Centre, begin: Callable[..., SessionRow], tmp_path: Path
) -> None:
    """Site-1 has sealed its shares, and has no number to send: the others take its masks off the sum."""
    session = begin(secure_sum={"threshold": 2, "metrics": ["loss"]}, settings={"faults": {"site-1": {"1": "nan"}}})
    await run(centre, session.id)
    assert model(centre, session, 1, tmp_path) == pytest.approx(step(0, [2, 3]), abs=1e-8)
    lost, *counted = centre.records.learning.updates(session.id, 1)
    assert (lost.client, lost.outcome) == ("site-1", "LOST")
    assert lost.reason == "it left the secure sum: FAILED (exit-code): the task ended with exit code 1"
    assert {(row.client, row.outcome, row.examples) for row in counted} == {(node, "COUNTED", None) for node in ("site-2", "site-3")}
    (row,) = (row for row in centre.records.learning.models(session.id) if row.round == 1)
    # (2 (2 - 1)^2 4 + 3 (3 - 1.5)^2 4) / 5: the mean, weighted by examples, of what the two have told.
    assert row.metrics["loss"] == pytest.approx((2 * 4 * 1.0 + 3 * 4 * 2.25) / 5)
    assert row.participants == 2
    masked = phase_execution("ada", session.id, 1, "masked")
    left = [
        info.key
        for execution in (masked, phase_execution("ada", session.id, 1, "train"))
        for info in centre.store.list(execution_prefix(execution))
    ]
    outputs = [key for key in left if "/outputs/" in key]
    assert [key.rpartition("/")[2] for key in outputs] == ["masked.bin"] * 2
    for key, client in zip(sorted(outputs), (2, 3), strict=True):
        sent = np.frombuffer(b"".join(centre.store.get(key)), "<u8")
        assert not set(sent) & set(to_fixed(np.array([client * client / 2]), 32, 3)), "nobody's own sum is to be seen"


async def test_a_secure_sum_below_its_threshold_fails_the_session(centre: Centre, begin: Callable[..., SessionRow]) -> None:
    session = begin(secure_sum={"threshold": 3}, settings={"faults": {"site-1": {"1": "fail"}}})
    async with Learner(centre, session) as learner:
        with pytest.raises(RoundFailed, match=r"2 of the 3 updates that are required: site-1: LOST \(FAILED \(exit-code"):
            await learner.train(1)


@pytest.mark.parametrize(
    ("fields", "number"),
    [
        ({"combiners": [{"name": "only", "at": "site-2"}]}, 2),  # orders that were sent: of training, then the combiner's
        ({"secure_sum": {"threshold": 2}}, 3),  # of training, keys, shares
    ],
)
def test_a_process_killed_while_the_nodes_fold(
    centre: Centre, federation: LocalFederation, begin: Callable[..., SessionRow], tmp_path: Path, fields: dict[str, Any], number: int
) -> None:
    """Whoever goes on finds the orders, and nothing is asked twice."""
    session = begin(**fields)
    words = [sys.executable, "-m", "tests.support.dying_learner", session.id, "after", "send", str(number)]
    died = subprocess.run(words, env=os.environ | federation.environment(), capture_output=True, text=True, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stderr
    asyncio.run(run(centre, session.id))
    assert model(centre, session, 1, tmp_path) == pytest.approx(step(0, [1, 2, 3]), abs=1e-8)
    made = [row for row in centre.records.executions() if row.key.startswith(f"{session.id}/")]
    assert len(made) == (2 if "combiners" in fields else 5)
    assert {run.attempt for row in made for run in centre.records.runs_of(row.id)} == {1}
