"""A session in the hands of one process: rounds of training and validation, to its end. It knows no Prefect.

    async with Learner(centre, session) as learner:
        await learner.seed()
        while (number := await learner.next()) is not None:
            await learner.train(number)
            await learner.validate(number)
            await learner.conclude(number)

Every step may be taken again, by this process or by another one after a SIGKILL: executions have derived ids, so what was ordered is listened to
again, and updates that lie in the store are folded again. The record of its model is the mark that a round was trained. A round that is taken up
has its whole `round_timeout` again.

Stragglers are ended at their nodes; with `next-round` they go on, and are not asked anything else meanwhile. What they have changed of the older
model is then added to the newer one (`folding.rebased`), so that clipping, steps and corrections mean what they always do, and counts in that round
as any other update. Whoever is late in that one, too, is ended.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from fdn_worker.errors import Fault, FdnError, SystemFault
from fdn_worker.protocol import InputFile, State, TaskEvent, now
from federation.centre import Centre
from federation.learning import attendance, selection, stopping
from federation.learning.aggregator import Aggregator, Corrected, Linear
from federation.learning.assignment import assign
from federation.learning.checkpoints import Checkpoints
from federation.learning.combining import NodeFolding, Round
from federation.learning.folding import Arrived, CentreFolding, Folding
from federation.learning.inputs import Inputs
from federation.learning.left import left, means, metrics
from federation.learning.listening import Listening
from federation.learning.masking import SecureFolding
from federation.learning.metrics import Measuring
from federation.learning.models import ModelFile, ModelRefused
from federation.learning.opening import stored
from federation.learning.package import SETTINGS_INPUT, Entry
from federation.learning.phases import Ended, Phase, open_phase, phase_execution
from federation.learning.session import CENTRE
from federation.learning.trail import Trail, model_id
from federation.results import download
from storage.learning import ENDED, ModelRow, RoundRow, SessionRow, SessionState

log = logging.getLogger(__name__)

#: Seconds that a session's end waits for the nodes' word that they have ended what they had.
CONFIRM_SECONDS = 15.0


class RoundFailed(FdnError):
    """Too few updates came, or none from which a model can be made; says what became of each client's."""

    code = "round-failed"
    fault = Fault.USER


class Stopped(FdnError):
    """Somebody has stopped the session while it waited."""

    code = "session-stopped"
    fault = Fault.USER


class TakenUp(FdnError):
    """Another process has the session in hand by now, and what runs at the nodes is that one's."""

    code = "session-taken-up"
    fault = Fault.USER


class Learner:
    """Use as an asynchronous context. `heard` is called with each event of the nodes; `flow_run` is the one that wants the executions.

    Who enters has the session, and a flow run that had it before lets it go: from then on its steps raise TakenUp, and end nothing at the nodes.
    """

    def __init__(
        self, centre: Centre, session: SessionRow, *, flow_run: str = "", heard: Callable[[TaskEvent], None] = lambda _: None
    ) -> None:
        self.id, self.asked = session.id, stored(session)
        self._centre, self._flow_run, self._heard = centre, flow_run, heard
        self._records, self._trail, self._measuring = centre.records.learning, Trail(centre), Measuring(session.id)
        self._listening = Listening(centre, self._hear)
        self._models: dict[str, ModelFile] = {}

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="fem-session-"))
        self._inputs = Inputs(self._centre, self.id, self.asked, self._folder)
        if (await self.row()).state not in ENDED:
            await self._stands("RUNNING")
            await attendance.wake(self._centre, self.asked)
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._listening.leave()
        await asyncio.to_thread(shutil.rmtree, self._folder)

    async def row(self) -> SessionRow:
        """The session as the records have it."""
        found = await asyncio.to_thread(self._records.session, self.id)
        assert found is not None
        return found

    # Steps

    async def seed(self) -> str:
        """Have the seed model made by the package at one of the nodes, unless there is one; one line for people."""
        if await asyncio.to_thread(self._records.model, model_id(self.id, 0)) is not None:
            return "the seed model is there"
        there = await attendance.present(self._centre, self.asked, 1)
        if not there:
            raise RoundFailed("the seed model was not made: no node is connected", code="no-seed")
        phase = await self._open(0, "seed", [there[0].name], lambda _: {})
        async with aclosing(self._ends({phase})) as ends:
            async for ended in ends:
                file, why = await asyncio.to_thread(left, self._centre, ended)
                if file is None:
                    raise RoundFailed(
                        f"the seed model was not made: {ended.client}: {why}",
                        code="no-seed",
                        remedy=f"see `fem logs {phase.job.execution}`",
                    )
                path = await asyncio.to_thread(download, self._centre, file, self._folder / "seed")
                await asyncio.to_thread(self._trail.keep, path, session=self.id, round=0)
                return f"the seed model was made at {ended.client}"
        raise RoundFailed(f"the seed model was not made: no word of {there[0].name} in {self.asked.round_timeout:g} s", code="no-seed")

    async def next(self) -> int | None:
        """The number of the round that is due; None when the session is over, or is to pause. Its state says which."""
        row = await self._ours()
        if row.state in ENDED:
            return None
        if row.wanted == "stop":
            await self.stop("it was asked to stop")
            return None
        if row.wanted == "pause":
            await self._stands("PAUSED", "it was asked to pause")
            return None
        done = [one for one in await asyncio.to_thread(self._records.rounds, self.id) if one.state == "DONE"]
        models = {one.id: one for one in await asyncio.to_thread(self._records.models, self.id)}
        history = [models[one.model].metrics for one in done if one.model]
        if (why := stopping.first(self.asked.rules(), history)) is not None:
            await self._listening.settle("the session is over", CONFIRM_SECONDS)
            await self._stands("FINISHED", why)
            return None
        return len(done) + 1

    async def train(self, number: int) -> str:
        """Have the round's clients train, and make its model of their updates; one line for people. Raises RoundFailed."""
        if await asyncio.to_thread(self._records.model, model_id(self.id, number)) is not None:
            return "trained before"
        try:
            parent, base = await self._model_row(number - 1), await self._model(number - 1)
            aggregator = self.asked.make_aggregator(len(await asyncio.to_thread(attendance.clients, self._centre, self.asked)) or 1)
            state = await asyncio.to_thread(self._trail.fetch_state, parent, self._folder / f"{number - 1}.state.safetensors")
            server = ModelFile(state) if state else None
            carried = await self._carried(number)
            row = await self._opened(number, carried.open if carried else set())
            folding = await self._folding(number, aggregator, base, server, {*row.requested, *(carried.open if carried else ())})
            phases = {carried} if carried else set()
            if row.requested:
                phases.add(await self._open(number, "train", row.requested, self._models_for(number, aggregator, parent, base, server)))
            counted = await self._collect(number, phases, folding)
            await self._enough(number, counted)
            await self._enough(number, counted - await self._settled(number, folding))
            await self._keep(number, parent, folding)
        except BaseException:
            # Taken again it listens from the beginning, since what was folded is lost with this call.
            await self._listening.leave()
            raise
        return f"{len(folding.members)} updates counted, {len(phases) and sum(len(phase.open) for phase in phases)} late"

    async def validate(self, number: int) -> str:
        """Have the round's model validated where updates came from; one line for people."""
        updates = await asyncio.to_thread(self._records.updates, self.id, number)
        clients = [one.client for one in updates if one.outcome in ("COUNTED", "CARRIED", "REFUSED")]
        if not self.asked.validate_ or not clients:
            return "nothing to validate"
        row = await self._model_row(number)
        phase = await self._open(number, "validate", clients, lambda _: self._inputs.model(row))
        told: dict[str, dict[str, float]] = {}
        async with aclosing(self._ends({phase})) as ends:
            async for ended in ends:
                if (found := await self._validated(ended)) is not None:
                    told[ended.client] = found
                await self._note(number, ended.client, validated=found, validation_ended=now())
        await self._ours()
        await self._listening.cut(phase, "the time for the validation is over")
        mean = means(told)
        await asyncio.to_thread(self._records.tell_metrics, row.id, mean)
        return ", ".join(f"{name} {value:.4g}" for name, value in mean.items()) or "no client told a metric"

    async def conclude(self, number: int) -> ModelRow:
        """The round is over: its record is closed, and models that are not to be kept go."""
        row = await self._model_row(number)
        await asyncio.to_thread(self._records.close_round, self.id, number, "DONE", row.id)
        # Stragglers began with the model before this one.
        newest = 2 if self.asked.stragglers == "next-round" else 1
        await asyncio.to_thread(self._trail.prune, self.id, Checkpoints.parse(self.asked.checkpoints), newest)
        for old in self._models.keys() - {row.id, row.parent}:
            self._models.pop(old).path.unlink()
        return row

    async def stop(self, why: str) -> None:
        """End the session, and what it has at the nodes; unless another flow run has taken it up."""
        if not self._has(await self.row()):
            return
        await asyncio.to_thread(stop, self._centre, self.id, why)
        await self._listening.settle(why, CONFIRM_SECONDS)

    async def fail(self, error: FdnError) -> None:
        """The session ends by this error, unless it is one that may pass, and it may be taken up again; or it was."""
        if isinstance(error, SystemFault) and error.retryable:
            return
        row = await self.row()
        if not self._has(row):
            return
        if row.round and (found := await asyncio.to_thread(self._records.round, self.id, row.round)) and found.state == "OPEN":
            await asyncio.to_thread(self._records.close_round, self.id, row.round, "FAILED", None, error.message)
        await self._listening.settle(error.message, CONFIRM_SECONDS)
        await self._stands("FAILED", error.message)

    # A round

    async def _opened(self, number: int, busy: set[str]) -> RoundRow:
        """The round as it was opened before, or opens now, with the clients that are chosen for it."""
        standing = await asyncio.to_thread(self._records.round, self.id, number)
        if standing is not None and standing.state == "OPEN":
            return standing
        # Those that are busy with the round before are to count in this one.
        required = max(0 if busy else 1, self.asked.clients_required - len(busy))
        there = await attendance.present(self._centre, self.asked, required + len(busy))
        free = [client for client in there if client.name not in busy]
        chosen = selection.select(self.asked.select.selection(), free, number, required=required, requested=self.asked.clients_requested)
        return await asyncio.to_thread(self._records.open_round, self.id, number, [client.name for client in chosen])

    async def _carried(self, number: int) -> Phase | None:
        """The training of the round before, whose stragglers count in this one."""
        before = await asyncio.to_thread(self._records.round, self.id, number - 1)
        if self.asked.stragglers == "drop" or before is None or not before.requested:
            return None
        late = {one.client for one in await asyncio.to_thread(self._records.updates, self.id, number - 1) if one.outcome == "LATE"}
        if not late:
            return None
        phase = await self._open(number - 1, "train", before.requested, lambda _: {}, anew=False)
        phase.open &= late
        return phase

    async def _folding(
        self, number: int, aggregator: Aggregator, base: ModelFile, state: ModelFile | None, clients: set[str]
    ) -> Folding:  # fmt: skip
        """Who adds up this round's updates."""
        folder, combiners = self._folder / f"updates-{number}", {one.name: one for one in self.asked.combiners}

        def own(client: str) -> ModelFile | None:
            return self._inputs.remembered(client, number)

        if not combiners and self.asked.secure_sum is None:
            return CentreFolding(self._centre, aggregator, base, state, folder, own=own)
        there = [client for client in await asyncio.to_thread(attendance.clients, self._centre, self.asked) if client.name in clients]
        assigned = assign(there, [one.combiner for one in combiners.values()], self.asked.preference()) if combiners else {}
        if combiners and all(one.at == CENTRE for one in combiners.values()):
            return CentreFolding(self._centre, aggregator, base, state, folder, own=own, combiners=combiners, assigned=assigned)
        (model,) = self._inputs.model(await self._model_row(number - 1)).values()
        round = Round(self.id, self.asked, number, model, there, self._listening, self._alive, self._flow_run)
        if self.asked.secure_sum is not None:
            assert isinstance(aggregator, Linear)
            return SecureFolding(self._centre, aggregator, base, state, folder, round)
        return NodeFolding(self._centre, aggregator, base, state, folder, round, own=own, combiners=combiners, assigned=assigned)

    async def _settled(self, number: int, folding: Folding) -> set[str]:
        """Have combiners at nodes do their work, and write down what they tell; the clients whose updates are in no sum."""
        await folding.settle()
        for client, info in folding.told.items():
            told = {"combiner": folding.combiner(client), "examples": info.examples, "metrics": dict(info.metrics)}
            await self._note(number, client, **told)
        for client, why in folding.refused.items():
            log.warning("round %d: update refused: %s", number, why, extra={"action": "update-refused"})
            await self._note(number, client, outcome="REFUSED", reason=why)
        for client, why in folding.lost.items():
            await self._note(number, client, outcome="LOST", reason=why)
        return {*folding.refused, *folding.lost}

    async def _collect(self, number: int, phases: set[Phase], folding: Folding) -> set[str]:
        """Fold what comes, until enough has, nothing more can come, or the time is over; whose updates count."""
        wanted = math.inf if self.asked.buffer == -1 else self.asked.buffer
        counted: set[str] = set()
        async with aclosing(self._ends(phases)) as ends:
            async for ended in ends:
                if await self._take(number, ended, folding):
                    counted.add(ended.client)
                still = sum(len(phase.open) for phase in phases)
                if len(counted) >= wanted or len(counted) + still < self.asked.clients_required:
                    break
        await self._ours()
        for phase in phases:
            goes_on = self.asked.stragglers == "next-round" and phase.number == number
            for client in sorted(phase.open):
                reason = "counts in the next round if it comes" if goes_on else "its round was over, and it was ended"
                await self._note(phase.number, client, outcome="LATE", reason=reason)
            if not goes_on:
                await self._listening.cut(phase, "its round is over")
        return counted

    async def _take(self, number: int, ended: Ended, folding: Folding) -> bool:
        """Fold an update that has come, and write down what became of it; whether it counts."""
        client, of = ended.client, ended.phase.number
        file, why = await asyncio.to_thread(left, self._centre, ended)
        if why:
            await self._note(of, client, outcome="LOST", reason=why, ended=now())
            return False
        try:
            info = await folding.take(Arrived(client, file, await self._model(of - 1)))
        except ModelRefused as error:
            log.warning("round %d: update refused: %s", number, error, extra={"action": "update-refused"})
            await self._note(of, client, outcome="REFUSED", reason=str(error), ended=now())
            return False
        told: dict[str, Any] = {"combiner": folding.combiner(client), "run": str(ended.submission.run)}
        if info is not None:
            told |= {"examples": info.examples, "metrics": dict(info.metrics)}
        if of != number:
            await self._note(of, client, reason=f"counted in round {number}", ended=now())
        outcome = "COUNTED" if of == number else "CARRIED"
        await self._note(number, client, outcome=outcome, reason="", ended=now(), **told)
        return True

    async def _enough(self, number: int, counted: set[str]) -> None:
        """Raise RoundFailed where too few updates came."""
        required = max(self.asked.clients_required, self.asked.secure_sum.threshold if self.asked.secure_sum else 0)
        if len(counted) >= required:
            return
        updates = await asyncio.to_thread(self._records.updates, self.id, number)
        became = "; ".join(f"{one.client}: {one.outcome}" + f" ({one.reason})" * bool(one.reason) for one in updates)
        raise RoundFailed(
            f"round {number}: {len(counted)} of the {required} updates that are required: {became or 'nothing came'}",
            remedy=f"see the clients' logs: `fem logs {phase_execution(self.asked.user, self.id, number, 'train')}`",
        )

    async def _keep(self, number: int, parent: ModelRow, folding: Folding) -> None:
        """The round's model, and before it what is remembered; the record of the model last."""
        path, state = self._folder / f"{number}.safetensors", self._folder / f"{number}.state.safetensors"
        await folding.finish(path, state, parent.id)
        await asyncio.to_thread(self._inputs.remember, number, folding.client_states)
        row = await asyncio.to_thread(
            self._trail.keep, path, session=self.id, round=number, parent=parent.id, participants=len(folding.members),
            state=state if state.exists() else None,
        )  # fmt: skip
        await asyncio.to_thread(self._inputs.forget, number, folding.client_states)
        await asyncio.to_thread(shutil.rmtree, self._folder / f"updates-{number}")
        self._models[row.id] = ModelFile(path)

    async def _validated(self, ended: Ended) -> dict[str, float] | None:
        file, why = await asyncio.to_thread(left, self._centre, ended)
        if file is not None:
            try:
                return await asyncio.to_thread(metrics, self._centre, file)
            except ValueError as error:
                why = f"its metrics.json: {error}"
        log.warning("round %d: not validated by %s: %s", ended.phase.number, ended.client, why, extra={"action": "validation-lost"})
        return None

    # Phases and models

    async def _open(
        self, number: int, entry: Entry, nodes: Sequence[str], inputs: Callable[[str], Mapping[str, InputFile]], *, anew: bool = True
    ) -> Phase:
        """Have a command ordered, or find that it was; it is listened to from now on. `anew`: see `open_phase`."""
        if (standing := self._listening.find(number, entry)) is not None:
            return standing
        aggregator = self.asked.make_aggregator(1)
        settings = functools.cache(lambda: {SETTINGS_INPUT: self._inputs.settings(aggregator, number, entry)})
        phase = await asyncio.to_thread(
            open_phase, self._centre, self.id, self.asked, number, entry, nodes, lambda node: {**settings(), **inputs(node)},
            required=self.asked.clients_required, flow_run=self._flow_run, anew=anew,
        )  # fmt: skip
        self._listening.begin(phase)
        return phase

    async def _ends(self, phases: set[Phase]) -> AsyncGenerator[Ended]:
        """As Listening gives them. Raises Stopped where somebody has stopped the session, whose runs end as CANCELLED by that; or TakenUp."""
        await self._alive()
        async with aclosing(self._listening.ends(phases, self.asked.round_timeout)) as ends:
            async for ended in ends:
                if ended.state is State.CANCELLED:
                    await self._alive()
                yield ended

    async def _alive(self) -> None:
        """Raises Stopped once somebody has stopped the session, and TakenUp."""
        if (await self._ours()).wanted == "stop":
            raise Stopped("the session was stopped")

    async def _ours(self) -> SessionRow:
        """The session as the records have it. Raises TakenUp."""
        row = await self.row()
        if not self._has(row):
            raise TakenUp(
                f"session {self.id} was taken up by flow run {row.flow_run}, and goes on there",
                remedy="watch it there, or with `fem sessions show`; whoever continues it again has it",
            )
        return row

    def _has(self, row: SessionRow) -> bool:
        return not self._flow_run or row.flow_run == self._flow_run

    def _models_for(
        self, number: int, aggregator: Aggregator, row: ModelRow, base: ModelFile, state: ModelFile | None
    ) -> Callable[[str], Mapping[str, InputFile]]:
        """Client -> the model that it is sent."""
        if isinstance(aggregator, Corrected):
            return lambda client: self._inputs.corrected(aggregator, number, base, state, client)
        return lambda _: self._inputs.model(row)

    async def _model_row(self, number: int) -> ModelRow:
        found = await asyncio.to_thread(self._records.model, model_id(self.id, number))
        if found is None:
            raise RoundFailed(
                f"the model of round {number} is missing", code="model-missing", remedy="begin the session again, with its own key"
            )
        return found

    async def _model(self, number: int) -> ModelFile:
        """The model of a round, as a file that is here."""
        row = await self._model_row(number)
        if row.id not in self._models:
            path = await asyncio.to_thread(self._trail.fetch, row, self._folder / f"{number}.safetensors")
            self._models[row.id] = ModelFile(path)
        return self._models[row.id]

    # Records

    async def _hear(self, phase: Phase, event: TaskEvent) -> None:
        self._heard(event)
        if phase.entry not in ("train", "validate"):
            return
        if event.lines:
            measures = self._measuring.measures_of(phase.number, event.node, phase.entry, event)
            await asyncio.to_thread(self._records.add_measures, measures)
        if event.state is State.RUNNING:
            began = {"began": event.at, "run": str(event.run)} if phase.entry == "train" else {"validation_began": event.at}
            await self._note(phase.number, event.node, **began)

    async def _note(self, number: int, client: str, **fields: Any) -> None:
        await asyncio.to_thread(functools.partial(self._records.put_update, self.id, number, client, **fields))

    async def _stands(self, state: SessionState, reason: str = "") -> None:
        await asyncio.to_thread(self._records.set_state, self.id, state, reason, None, self._flow_run or None)


def stop(centre: Centre, session: str, why: str) -> None:
    """End a session and what it has at the nodes, whether or not a process has it in hand; one that has it sees that it is not wanted any more."""
    records = centre.records.learning
    row = records.find_session(session)
    if row.state in ENDED:
        return
    records.want(row.id, "stop", by=why)
    for number in range(max(0, row.round - 1), row.round + 1):
        for entry in ("train", "validate") if number else ("seed",):
            centre.cancel(phase_execution(row.user, row.id, number, entry), why)
    if row.round and (found := records.round(row.id, row.round)) is not None and found.state == "OPEN":
        records.close_round(row.id, row.round, "FAILED", None, f"the session was stopped: {why}")
    records.set_state(row.id, "STOPPED", why)
