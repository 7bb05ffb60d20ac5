"""Sessions of federated learning over real workers: three nodes, the embedded broker, the process launcher; without Prefect."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from fdn_worker.protocol import State
from fdn_worker.protocol.names import run_id
from federation.centre import Centre
from federation.learning import opening, running
from federation.learning.models import ModelFile
from federation.learning.phases import phase_execution
from federation.learning.running import Learner, RoundFailed, Stopped, TakenUp
from federation.learning.selection import TooFewClients
from federation.learning.trail import Trail
from federation.local import LocalFederation
from flows import connection
from flows.federated_learning import stop_session
from storage.database import RecordsUnavailable
from storage.learning import SessionRow
from tests.support.dying_learner import run
from tests.support.learning import a_session, step, value

NODES = ("site-1", "site-2", "site-3")


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFederation]:
    with LocalFederation(tmp_path_factory.mktemp("learning"), NODES) as local:
        yield local


@pytest.fixture(scope="module")
def centre(federation: LocalFederation) -> Iterator[Centre]:
    with federation.connected() as centre:
        yield centre


@pytest.fixture
def begin(centre: Centre, tmp_path: Path, unique: str) -> Callable[..., SessionRow]:
    return lambda **changes: opening.begin(centre, a_session(tmp_path, **changes), unique)


def rows(centre: Centre, session: SessionRow, number: int) -> dict[str, tuple[str | None, str]]:
    """Client -> what became of its update, and why."""
    return {row.client: (row.outcome, row.reason) for row in centre.records.learning.updates(session.id, number)}


def outcomes(centre: Centre, session: SessionRow, number: int) -> dict[str, str | None]:
    return {client: outcome for client, (outcome, _) in rows(centre, session, number).items()}


def training_at(centre: Centre, session: SessionRow, number: int, node: str) -> str | None:
    """The state of a node's training, once it was ordered."""
    row = centre.records.run(str(run_id(phase_execution("ada", session.id, number, "train"), "train", node)))
    return row.state if row else None


def model(centre: Centre, session: SessionRow, number: int, folder: Path) -> float:
    row = next(row for row in centre.records.learning.models(session.id) if row.round == number)
    return value(ModelFile(Trail(centre).fetch(row, folder / f"{row.id}.safetensors")))


def until(condition: Callable[[], Any], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


async def test_a_session_to_its_end(centre: Centre, begin: Callable[..., SessionRow], tmp_path: Path) -> None:
    session = begin(model="package", checkpoints="last", settings={"faults": {"site-2": {"2": "metrics"}}})
    await run(centre, session.id)
    learning = centre.records.learning
    ended = learning.find_session(session.id)
    assert (ended.state, ended.reason, ended.round) == ("FINISHED", "3 rounds were run", 3)
    w = 0.0
    for number in (1, 2, 3):
        w = step(w, [1, 2, 3])
        assert outcomes(centre, session, number) == dict.fromkeys(NODES, "COUNTED")
    assert model(centre, session, 3, tmp_path) == pytest.approx(w, abs=1e-12)
    trail = {row.round: row for row in learning.models(session.id)}
    assert [(row.parent, row.deleted is not None, row.participants) for row in (trail[0], trail[1], trail[3])] == [
        (None, False, 0), (trail[0].id, True, 3), (trail[2].id, False, 3)
    ]  # fmt: skip
    mean = sum(own * abs(own - w) for own in (1, 2, 3)) / 6
    assert trail[3].metrics["distance"] == pytest.approx(mean)
    assert trail[3].metrics["loss"] > 0, "what training told stands beside it"
    unvalidated = {row.client for row in learning.updates(session.id, 2) if row.validated is None}
    assert unvalidated == {"site-2"}
    assert {(row.client, row.phase, row.name) for row in learning.measures(session.id, round=1)} == {
        (node, "train", "loss") for node in NODES
    }


async def test_bad_updates_are_refused_by_name_and_the_round_goes_on(
    centre: Centre, begin: Callable[..., SessionRow], tmp_path: Path
) -> None:
    faults = {"site-1": {"1": "nan", "2": "shape"}, "site-3": {"2": "fail"}}
    session = begin(rounds=2, validate=False, settings={"faults": faults})
    await run(centre, session.id)
    first, second = rows(centre, session, 1), rows(centre, session, 2)
    assert first["site-1"] == ("REFUSED", "site-1: tensor 'w' holds NaN or infinity (a smaller learning rate, or other data)")
    assert second["site-1"] == ("REFUSED", "site-1: tensor 'w' is F64[3], and in the global model F64[4]")
    assert second["site-3"] == ("LOST", "FAILED (exit-code): the task ended with exit code 1")
    assert second["site-2"] == ("COUNTED", "")
    assert model(centre, session, 2, tmp_path) == pytest.approx(step(step(0, [2, 3]), [2]), abs=1e-12)


async def test_too_few_updates_fail_the_session_and_say_what_of_each(centre: Centre, begin: Callable[..., SessionRow]) -> None:
    session = begin(clients_required=3, settings={"faults": {"site-2": {"1": "fail"}, "site-3": {"1": "hang"}}})
    async with Learner(centre, session) as learner:
        with pytest.raises(
            RoundFailed, match=r"round 1: \d of the 3 updates that are required: .*site-2: LOST \(FAILED \(exit-code\)"
        ) as failed:
            await learner.train(1)
        await learner.fail(failed.value)
        assert await learner.next() is None
    ended = centre.records.learning.find_session(session.id)
    assert (ended.state, "site-3: LATE" in ended.reason) == ("FAILED", True)
    (only,) = centre.records.learning.rounds(session.id)
    assert (only.state, only.reason, only.model) == ("FAILED", ended.reason, None)


async def test_a_straggler_is_dropped_and_ended_at_its_node(centre: Centre, begin: Callable[..., SessionRow], tmp_path: Path) -> None:
    session = begin(rounds=1, buffer=2, validate=False, settings={"faults": {"site-3": {"1": "hang"}}})
    await run(centre, session.id)
    assert rows(centre, session, 1)["site-3"] == ("LATE", "its round was over, and it was ended")
    assert model(centre, session, 1, tmp_path) == pytest.approx(step(0, [1, 2]), abs=1e-12)
    assert training_at(centre, session, 1, "site-3") == "CANCELLED"


@pytest.mark.parametrize("taken_up", [False, True])
async def test_a_straggler_counts_in_the_next_round(
    centre: Centre, begin: Callable[..., SessionRow], tmp_path: Path, *, taken_up: bool
) -> None:
    """Also where another process goes on with the session in between."""
    go = tmp_path / "go"
    faults = {"site-3": {"1": "wait"}, "site-2": {"2": "hang"}}
    session = begin(buffer=2, stragglers="next-round", checkpoints="last", validate=False, settings={"faults": faults, "until": str(go)})
    async with Learner(centre, session) as learner:
        await learner.train(1)
        await learner.conclude(1)
        assert outcomes(centre, session, 1) == {"site-1": "COUNTED", "site-2": "COUNTED", "site-3": "LATE"}
        go.touch()
        if not taken_up:
            await learner.train(2)
    async with Learner(centre, session) as learner:
        await learner.train(2)
        await learner.conclude(2)
    running.stop(centre, session.id, "the test is over")
    kept = {row.round for row in centre.records.learning.models(session.id) if row.deleted is None}
    assert kept == {0, 1, 2}, "who is late in round 2 began with the model of round 1"
    found = centre.records.learning.round(session.id, 2)
    assert found is not None
    assert found.requested == ["site-1", "site-2"], "who is busy is not asked"
    assert outcomes(centre, session, 2) == {"site-1": "COUNTED", "site-2": "LATE", "site-3": "CARRIED"}
    assert rows(centre, session, 1)["site-3"] == ("LATE", "counted in round 2")
    before = step(0, [1, 2])
    moved = before + 1.5  # by what it has changed of the model that it began with
    expected = (1 * (before + (1 - before) / 2) + 3 * moved) / 4
    assert model(centre, session, 2, tmp_path) == pytest.approx(expected, abs=1e-12)


async def test_a_session_to_which_no_node_comes_fails(centre: Centre, begin: Callable[..., SessionRow]) -> None:
    session = begin(select={"how": "attributes", "attributes": {"region": "north"}})
    async with Learner(centre, session) as learner:
        with pytest.raises(TooFewClients, match="round 1 needs 1 clients; of 3 there, 0 were chosen") as failed:
            await learner.train(1)
        await learner.fail(failed.value)
    assert centre.records.learning.find_session(session.id).state == "FAILED"


async def test_pause_continue_and_stop(centre: Centre, begin: Callable[..., SessionRow], tmp_path: Path) -> None:
    learning = centre.records.learning
    session = begin(settings={"faults": {"site-3": {"2": "hang"}}}, validate=False)
    async with Learner(centre, session) as learner:
        await learner.train(1)
        learning.want(session.id, "pause", by="ada")
        await learner.conclude(1)
        assert await learner.next() is None
    assert learning.find_session(session.id).state == "PAUSED"
    learning.want(session.id, "run", by="ada")

    def stop_it() -> None:
        until(lambda: training_at(centre, session, 2, "site-3") == "RUNNING")
        learning.want(session.id, "stop", by="ada")
        running.stop(centre, session.id, "stopped by ada")

    async with Learner(centre, session) as learner:
        assert await learner.next() == 2
        stopper = threading.Thread(target=stop_it)
        stopper.start()
        with pytest.raises(Stopped):
            await learner.train(2)
        stopper.join()
        await learner.stop("stopped by ada")
    stopped = learning.find_session(session.id)
    assert (stopped.state, stopped.reason) == ("STOPPED", "stopped by ada")
    assert [(row.number, row.state) for row in learning.rounds(session.id)] == [(1, "DONE"), (2, "FAILED")]
    execution = str(phase_execution("ada", session.id, 2, "train"))
    until(lambda: all(State(row.state).terminal for _, row in centre.records.current_attempts(execution)))

    again = opening.begin_again(centre, session, f"{session.key}-again", opening.latest_model(learning, session).id, rounds=1)
    await run(centre, again.id)
    (seed, made) = sorted(learning.models(again.id), key=lambda row: row.round)
    assert [row.id for row in learning.ancestors(made.id)][:2] == [seed.id, opening.latest_model(learning, session).id]
    assert model(centre, again, 1, tmp_path) == pytest.approx(step(step(0, [1, 2, 3]), [1, 2, 3]), abs=1e-12)


async def test_what_was_cancelled_while_nobody_had_the_session_is_done_anew(
    centre: Centre, begin: Callable[..., SessionRow], tmp_path: Path
) -> None:
    """As the reconciler does once a killed process has been away for long."""
    go = tmp_path / "go"
    session = begin(rounds=1, settings={"faults": {"site-3": {"1": "wait"}}, "until": str(go)})
    execution = phase_execution("ada", session.id, 1, "train")

    async with Learner(centre, session) as learner:
        training = asyncio.create_task(learner.train(1))
        await asyncio.to_thread(until, lambda: training_at(centre, session, 1, "site-3") == "RUNNING")
        training.cancel()
        await asyncio.wait([training])
    centre.cancel(execution, "its flow run is Crashed")
    until(lambda: all(State(row.state).terminal for _, row in centre.records.current_attempts(str(execution))))
    assert training_at(centre, session, 1, "site-3") == "CANCELLED"
    go.touch()
    await run(centre, session.id)
    assert outcomes(centre, session, 1) == dict.fromkeys(NODES, "COUNTED")
    attempts = {found.node: row.attempt for found, row in centre.records.current_attempts(str(execution))}
    assert attempts["site-3"] == 2


async def test_records_that_are_away_leave_the_session_to_be_taken_up(
    centre: Centre, begin: Callable[..., SessionRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    session = begin()
    away = RecordsUnavailable("the records cannot be reached")

    def session_of(_: str) -> SessionRow:
        raise away

    async with Learner(centre, session) as learner:
        with monkeypatch.context() as gone:
            gone.setattr(learner._records, "session", session_of)
            await learner.fail(away)
    assert centre.records.learning.find_session(session.id).state == "RUNNING"


async def test_a_process_whose_session_was_taken_up_lets_it_go(centre: Centre, begin: Callable[..., SessionRow], tmp_path: Path) -> None:
    go = tmp_path / "go"
    session = begin(rounds=1, settings={"faults": {"site-3": {"1": "wait"}}, "until": str(go)}, validate=False)
    async with Learner(centre, session, flow_run="first") as first:
        training = asyncio.create_task(first.train(1))
        await asyncio.to_thread(until, lambda: training_at(centre, session, 1, "site-3") == "RUNNING")
        async with Learner(centre, session, flow_run="second") as second:
            await first.stop("its flow run was cancelled")
            await first.fail(RoundFailed("round 1: too late"))
            assert (await second.row()).state == training_at(centre, session, 1, "site-3") == "RUNNING"
            going_on = asyncio.create_task(second.train(1))
            go.touch()
            with pytest.raises(TakenUp, match="flow run second"):
                await training
            await going_on
            await second.conclude(1)
            with pytest.raises(TakenUp):
                await first.next()
            assert await second.next() is None
    assert outcomes(centre, session, 1) == dict.fromkeys(NODES, "COUNTED")
    assert centre.records.learning.find_session(session.id).state == "FINISHED"


async def test_the_hook_of_a_cancelled_flow_run_stops_its_session(
    centre: Centre, federation: LocalFederation, begin: Callable[..., SessionRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another process than the flow's, here one that has opened a centre of its own."""
    session, flow_run = begin(settings={"faults": {"site-3": {"1": "hang"}}}), uuid4()
    execution = phase_execution("ada", session.id, 1, "train")
    for name, text in federation.environment().items():
        monkeypatch.setenv(name, text)
    async with Learner(centre, session, flow_run=str(flow_run)) as learner:
        training = asyncio.create_task(learner.train(1))
        await asyncio.to_thread(until, lambda: centre.records.runs_of(str(execution)))
        try:
            await asyncio.to_thread(stop_session, None, FlowRun(id=flow_run, flow_id=uuid4()), None)  # type: ignore[arg-type]
        finally:
            connection.close()
        with pytest.raises(Stopped):
            await training
    stopped = centre.records.learning.find_session(session.id)
    assert (stopped.state, stopped.reason) == ("STOPPED", "its flow run was cancelled")
    runs = federation.home / "sites/site-3/runs"
    await asyncio.to_thread(until, lambda: not list(runs.glob(f"*{run_id(execution, 'train', 'site-3')}*")))


async def test_a_tree_of_combiners_at_the_centre_gives_the_flat_mean(
    centre: Centre, begin: Callable[..., SessionRow], tmp_path: Path
) -> None:
    tree = [{"name": "top"}, {"name": "left", "above": "top", "room": 1}, {"name": "right", "above": "top", "room": 1}]
    names = {"site-1": "left", "site-2": "right", "site-3": "top"}
    session = begin(rounds=2, validate=False, combiners=tree, assign="by_name", names=names)
    await run(centre, session.id)
    assert model(centre, session, 2, tmp_path) == pytest.approx(step(step(0, [1, 2, 3]), [1, 2, 3]), abs=1e-12)
    assert {row.client: row.combiner for row in centre.records.learning.updates(session.id, 1)} == names


def scaffold(rounds: int, rate: float) -> float:
    """SCAFFOLD by its formulas, with the three nodes."""
    x, c, own = 0.0, 0.0, dict.fromkeys((1.0, 2.0, 3.0), 0.0)
    for _ in range(rounds):
        y = {node: x + (node - x) / 2 - rate * (c - own[node]) for node in own}
        change = {node: (x - y[node]) / rate - c for node in own}
        own = {node: own[node] + change[node] for node in own}
        c += sum(change.values()) / 3
        x = sum(y.values()) / 3
    return x


async def test_feddyn_keeps_what_it_remembers_of_clients(centre: Centre, begin: Callable[..., SessionRow], tmp_path: Path) -> None:
    alpha = 2.0
    session = begin(aggregator={"name": "feddyn", "arguments": {"alpha": alpha}}, validate=False)
    await run(centre, session.id)
    x, h, own = 0.0, 0.0, dict.fromkeys((1.0, 2.0, 3.0), 0.0)
    for _ in range(3):
        y = {node: x + (node - x) / 2 + own[node] for node in own}
        own = {node: own[node] - alpha * (y[node] - x) for node in own}
        h -= alpha * sum(y[node] - x for node in own) / 3
        x = sum(y.values()) / 3 - h / alpha
    assert model(centre, session, 3, tmp_path) == pytest.approx(x, abs=1e-9)


@pytest.mark.parametrize(
    ("when", "call", "number"),
    [
        ("after", "send", 3),  # of round 2: trained, validated, trained
        ("after", "fold", 5),
        ("after", "remember", 2),
        ("after", "keep", 2),
    ],
)
def test_a_session_whose_process_was_killed_goes_on_where_it_was(
    centre: Centre, federation: LocalFederation, begin: Callable[..., SessionRow], tmp_path: Path, when: str, call: str, number: int
) -> None:
    """With SCAFFOLD, to which an update that counts twice, or is remembered twice, makes a difference."""
    session = begin(aggregator={"name": "scaffold", "arguments": {"learning_rate": 0.5}})
    words = [sys.executable, "-m", "tests.support.dying_learner", session.id, when, call, str(number)]
    environment = os.environ | federation.environment() | {"TMPDIR": str(tmp_path)}  # who is killed leaves its files
    died = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert died.returncode == -signal.SIGKILL, died.stderr
    rounds = {row.number: row.state for row in centre.records.learning.rounds(session.id)}
    assert rounds == {1: "DONE", 2: "OPEN"}
    asyncio.run(run(centre, session.id))
    assert centre.records.learning.find_session(session.id).state == "FINISHED"
    assert math.isclose(model(centre, session, 3, tmp_path), scaffold(3, 0.5), abs_tol=1e-12)
    for round_ in (1, 2, 3):
        pairs = centre.records.current_attempts(str(phase_execution("ada", session.id, round_, "train")))
        assert [(run.node, row.attempt, row.state) for run, row in pairs] == [(node, 1, "SUCCEEDED") for node in NODES], "nothing ran twice"
