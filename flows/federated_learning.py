"""A session of federated learning as a Prefect flow: two tasks a round, train and validate, however many clients there are.

What a session is and how far it has come stands in the records. So the flow may die at any moment, and be run again with the session's id: it goes on
at the round where it was. Cancelling the flow run stops the session, and ends at the nodes what it has there.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.objects import State as PrefectState
from prefect.runtime import flow_run as current
from prefect.states import Cancelled, Completed, Failed
from pydantic import BaseModel, ConfigDict

from fdn_worker.errors import FdnError
from fdn_worker.protocol import TaskEvent
from federation.centre import Centre
from federation.learning import opening, running
from federation.learning.running import Learner, Stopped
from federation.learning.session import SessionRefused, load_session
from flows import connection, suspending
from flows.learning_artifacts import LearningArtifacts
from flows.steps import STEP, give_name
from storage.learning import SessionRow


class SessionResult(BaseModel):
    """How far a session has come. `model` is its latest one, and `metrics` are that one's."""

    model_config = ConfigDict(frozen=True, protected_namespaces=())

    session: str
    name: str
    #: FINISHED, PAUSED, STOPPED or FAILED.
    state: str
    reason: str
    rounds: int
    model: str | None = None
    metrics: dict[str, float] = {}

    def explain(self) -> str:
        """One line for people."""
        told = "".join(f", {name} {value:.4g}" for name, value in sorted(self.metrics.items()))
        rounds = f"{self.rounds} round{'' if self.rounds == 1 else 's'}"
        return f"{self.name}: {self.state} after {rounds} ({self.reason}){told}"


@task(name="seed", **STEP)
async def seed(learner: Learner) -> None:
    """The model that the session begins with."""
    get_run_logger().info(await learner.seed())


@task(name="train", task_run_name="train, round {number}", **STEP)
async def train(learner: Learner, number: int) -> None:
    """The clients train, and their updates become the round's model."""
    get_run_logger().info("round %d: %s", number, await learner.train(number))


@task(name="validate", task_run_name="validate, round {number}", **STEP)
async def validate(learner: Learner, number: int) -> None:
    """The clients validate the round's model."""
    get_run_logger().info("round %d: %s", number, await learner.validate(number))


def stop_session(flow: Any, flow_run: FlowRun, state: PrefectState[Any]) -> None:  # noqa: ARG001 (Prefect names them)
    """The hook: whatever process of Prefect's notices a cancelled run, the session is stopped, and the nodes are told."""
    centre = connection.centre()
    for row in centre.records.learning.sessions(state="RUNNING"):
        if row.flow_run == str(flow_run.id):
            running.stop(centre, row.id, "its flow run was cancelled")


@flow(name="federated-learning", on_cancellation=[stop_session], persist_result=False, validate_parameters=True)
async def federated_learning(
    session: str = "", file: str = "", user: str = "", idempotency_key: str = ""
) -> SessionResult | PrefectState[Any]:
    """Run a session of federated learning to its end, or until it is to pause.

    Returns the SessionResult of one that is FINISHED or PAUSED, and raises what went wrong otherwise; with `return_state=True` a
    state of Prefect's named Finished, Paused, Cancelled or Failed.

    Args:
        session: Id of a session that was begun: it goes on where it was.
        file: Instead: the file of a session to begin; a relative one is looked for where the flow runs.
        user: For whom, if the file does not say it.
        idempotency_key: A second session with it is the first one; empty takes this flow run's id.
    """
    centre = connection.centre()
    row = await asyncio.to_thread(_session, centre, session, file, user, idempotency_key or current.id)
    naming = asyncio.create_task(give_name(f"{row.name} {row.id[:8]}"))
    try:
        return await _run(centre, row)
    finally:
        await naming


def _session(centre: Centre, session: str, file: str, user: str, key: str) -> SessionRow:
    if bool(session) == bool(file):
        raise SessionRefused("a session's id or its file, one of the two", remedy="name it")
    if session:
        return centre.records.learning.find_session(session)
    asked = load_session(Path(file))
    return opening.begin(centre, asked.model_copy(update={"user": asked.user or user}), key)


async def _run(centre: Centre, row: SessionRow) -> PrefectState[Any]:
    shown = LearningArtifacts(centre.records.learning, row.id)
    async with Learner(centre, row, flow_run=suspending.flow_run_on_record(), heard=_heard) as learner:
        get_run_logger().info("session %s: %s", row.id, row.name)
        try:
            await _rounds(learner, shown)
        except Stopped:
            await learner.stop((await learner.row()).reason or "it was asked to stop")
        except FdnError as error:
            await learner.fail(error)
            await shown.tell()
            return Failed(name="Failed", message=str(error), data=error)
        except asyncio.CancelledError:
            await asyncio.shield(learner.stop("its flow run was cancelled"))
            raise
    await shown.tell()
    result = await asyncio.to_thread(_result, centre, row.id)
    if result.state == "STOPPED":
        return Cancelled(message=result.explain())
    if result.state == "FAILED":
        return Failed(name="Failed", message=result.explain(), data=SessionRefused(result.explain()))
    return Completed(name=result.state.title(), message=result.explain(), data=result)


async def _rounds(learner: Learner, shown: LearningArtifacts) -> None:
    await seed(learner)
    while (number := await learner.next()) is not None:
        await train(learner, number)
        if learner.asked.validate_:
            await validate(learner, number)
        await learner.conclude(number)
        await shown.tell()


def _heard(event: TaskEvent) -> None:
    if connection.watcher is not None:
        connection.watcher(event)


def _result(centre: Centre, session: str) -> SessionResult:
    learning = centre.records.learning
    row = learning.find_session(session)
    latest = max(learning.models(session), key=lambda model: model.round, default=None)
    return SessionResult(
        session=row.id, name=row.name, state=row.state, reason=row.reason, rounds=latest.round if latest else 0,
        model=latest.id if latest else None, metrics=latest.metrics if latest else {},
    )  # fmt: skip
