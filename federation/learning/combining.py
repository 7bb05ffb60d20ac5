"""Combiners as tasks at nodes: each folds the updates of its clients, where they lie in the store, and leaves one partial sum there for the one above.

They are ordered once all updates have come, those with nothing below them first. A task is handed at most BATCH updates, and before them what the
combiner has summed so far: so a node's disk does not grow with its clients. Sums are additive, which is what losing a combiner rests on: what it has
left counts and goes to the one above; updates that it has not folded are assigned to other combiners, and are folded at the centre where none has
room. Lost is who failed, is not connected, or has not ended within `round_timeout`.

Executions are named by what they fold: a session that was killed finds those that it has ordered, and one of other updates is another one.
SCAFFOLD and FedDyn remember something of each client, which the centre makes of the update; the sums are the combiners' all the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ByteSize, ValidationError

from fdn_worker.protocol import InputFile
from fdn_worker.protocol.names import execution_id
from federation.catalogue.tool import Needs, TaskTemplate, Tool
from federation.centre import Centre, described
from federation.learning.aggregator import Aggregator, Corrected, Linear
from federation.learning.assignment import NoCombiner, reassign
from federation.learning.at_node import AGGREGATOR, ENDING, MODEL, PARTIAL, PARTIALS, REPORT, UPDATES, Report
from federation.learning.folding import REDUCER, Arrived, CentreFolding
from federation.learning.left import left
from federation.learning.listening import Listening
from federation.learning.models import ModelFile, ModelInfo, ModelRefused, check
from federation.learning.phases import Ended, Phase, StoredSession, open_step
from federation.learning.program import PROGRAM, stored_program
from federation.learning.rounds import StreamingRound
from federation.learning.selection import Client
from federation.learning.session import CENTRE, CombinerEntry
from federation.presence import presence
from federation.request import build
from federation.results import OutputFile, download

log = logging.getLogger(__name__)

#: The tool that a site's policy is asked about, and its task.
TOOL = "combine"
#: Updates that one task is handed.
BATCH = 32
#: Seconds between two looks at whether the nodes are there.
LOOK = 1.0
#: Bytes of memory and of disk that a task may use beside its sums.
BESIDE = 512 * 1024**2


@dataclass(frozen=True)
class Piece:
    """A file in the store that is yet to be folded: a client's update, or the partial sum of combiner `name`."""

    name: str
    file: OutputFile
    update: bool

    def input(self) -> InputFile:
        """As a task is handed it. A combiner that was given more clients later has more than one sum."""
        name = f"{UPDATES}/{self.name}{ENDING}" if self.update else f"{PARTIALS}/{self.name}.{self.file.sha256[:16]}{ENDING}"
        return InputFile(name=name, size=self.file.size, sha256=self.file.sha256, where=self.file.key)


@dataclass
class Waiting:
    """What a combiner has to fold; `sum` is what it has made of earlier batches."""

    pieces: list[Piece] = field(default_factory=list)
    sum: Piece | None = None


@dataclass(frozen=True)
class Task:
    """A combiner's task that is under way."""

    combiner: str
    batch: Sequence[Piece]
    #: By the loop's clock.
    until: float


@dataclass(frozen=True)
class Round:
    """For whom, and with what, the nodes fold. `model` is the base as it lies in the store; `alive` raises once the session is to stop."""

    session: str
    asked: StoredSession
    number: int
    model: InputFile
    clients: Sequence[Client]
    listening: Listening
    alive: Callable[[], Awaitable[None]]
    flow_run: str


class NodeFolding(CentreFolding):
    """Combiners that stand at the centre fold in this process as ever."""

    def __init__(
        self, centre: Centre, aggregator: Aggregator, base: ModelFile, state: ModelFile | None, folder: Path, round: Round,
        *, own: Callable[[str], ModelFile | None] = lambda _: None, combiners: Mapping[str, CombinerEntry], assigned: Mapping[str, str],
    ) -> None:  # fmt: skip
        super().__init__(centre, aggregator, base, state, folder, own=own, combiners=combiners, assigned=assigned)
        self._round = round
        self._waiting: dict[str, Waiting] = {name: Waiting() for name in (REDUCER, *combiners)}
        self._gone: set[str] = set()
        self._told: dict[str, ModelInfo] = {}
        self._refused: dict[str, str] = {}

    @property
    def refused(self) -> Mapping[str, str]:
        return self._refused

    @property
    def told(self) -> Mapping[str, ModelInfo]:
        return self._told

    async def take(self, arrived: Arrived) -> ModelInfo | None:
        if not self._at_node(self.combiner(arrived.client)) or arrived.base is not self._base:
            if arrived.base is not self._base:
                self._assigned.pop(arrived.client, None)
            return await super().take(arrived)
        if isinstance(self._aggregator, Corrected):
            await asyncio.to_thread(self._only_remember, arrived, self._aggregator)
        assert arrived.file is not None
        self._waiting[self.combiner(arrived.client)].pieces.append(Piece(arrived.client, arrived.file, update=True))
        return None

    def _only_remember(self, arrived: Arrived, aggregator: Corrected) -> None:
        update = self._fetched(arrived)
        try:
            check(update, self._base)
            aggregator.weights(update.info, update.name)
            self._remember(update)
        finally:
            update.path.unlink()

    async def settle(self) -> None:
        tasks: dict[Phase, Task] = {}
        loop = asyncio.get_running_loop()
        while True:
            await self._round.alive()
            await asyncio.to_thread(self._fold_here)
            here = await asyncio.to_thread(connected, self._centre)
            for phase, task in list(tasks.items()):
                away = self._tree[task.combiner].at not in here
                if away or loop.time() > task.until:
                    why = "its node is not connected" if away else f"it has not ended within {self._round.asked.round_timeout:g} s"
                    del tasks[phase]
                    await self._round.listening.drop(phase, f"its clients go to others: {why}")
                    self._lose(task.combiner, why)
            for name in self._ready({task.combiner for task in tasks.values()}):
                if self._tree[name].at not in here:
                    self._lose(name, "its node is not connected")
                    continue
                batch = self._waiting[name].pieces[:BATCH]
                phase = await asyncio.to_thread(self._order, name, batch)
                self._round.listening.begin(phase)
                tasks[phase] = Task(name, batch, loop.time() + self._round.asked.round_timeout)
            if tasks:
                async with aclosing(self._round.listening.ends(tasks, LOOK)) as ends:
                    async for ended in ends:
                        await asyncio.to_thread(self._ended, tasks.pop(ended.phase), ended)
                        break
            elif not any(waiting.pieces for waiting in self._waiting.values()):
                return

    # The tree

    def _at_node(self, name: str) -> bool:
        return name != REDUCER and self._tree[name].at != CENTRE

    def _above(self, name: str) -> Iterator[str]:
        """Those above it that are not lost, the nearest first; the reducer last."""
        while (above := self._tree[name].above) is not None:
            if above not in self._gone:
                yield above
            name = above
        yield REDUCER

    def _ready(self, busy: set[str]) -> list[str]:
        """Combiners at nodes that have something to fold, and nobody below them who has."""
        due = {name for name, waiting in self._waiting.items() if self._at_node(name) and waiting.pieces}
        blocked = {above for name in due | busy for above in self._above(name)}
        return sorted(due - busy - blocked)

    # Tasks

    def _order(self, name: str, batch: Sequence[Piece]) -> Phase:
        """A combiner's task over these pieces and what it has summed before."""
        of, entry, before = self._round, self._tree[name], self._waiting[name].sum
        files = {file.name: file for file in (piece.input() for piece in (*([before] if before else ()), *batch))}
        digest = hashlib.sha256("".join(f"{file.sha256} {place}\n" for place, file in sorted(files.items())).encode()).hexdigest()
        key = f"{of.session}/{of.number}/{TOOL}/{name}/{digest}"
        path = self._folder / AGGREGATOR
        path.write_text(json.dumps(asked_for(self._aggregator)))
        aggregator = described(TOOL, execution_id(of.asked.user, key), AGGREGATOR, path)
        with path.open("rb") as source:
            self._centre.store.put(aggregator.where, source, aggregator.size)
        files |= {MODEL: of.model, AGGREGATOR: aggregator, PROGRAM: stored_program(self._centre.store)}
        return open_step(
            self._centre,
            of.asked,
            self._tool(entry),
            of.number,
            "combine",
            key,
            [entry.at],
            lambda _: files,
            flow_run=of.flow_run,
            anew=True,
        )

    def _tool(self, entry: CombinerEntry) -> Tool:
        assert isinstance(self._aggregator, Linear)
        size = len(self._aggregator.sums) * 8 * sum(tensor.count for tensor in self._base.tensors.values())
        command = ["python3", f"$INPUT_PATH/{PROGRAM}", "fold", "$INPUT_PATH", "$SANDBOX_PATH"]
        template = build(
            TaskTemplate, id=TOOL, image=entry.image or self._round.asked.reference, command={"base": command}, timeout=self._round.asked.timeout,
            resources=Needs(memory=ByteSize(size + BESIDE), disk=ByteSize(2 * size + BESIDE)), outputs=(PARTIAL, REPORT),
        )  # fmt: skip
        return Tool(name=TOOL, title=f"combiner {entry.name}", tasks=(template,))

    def _ended(self, task: Task, ended: Ended) -> None:
        """Take what a task has left; or give up its combiner."""
        name, waiting = task.combiner, self._waiting[task.combiner]
        partial, why = left(self._centre, ended)
        report, why = left(self._centre, ended, REPORT) if partial else (None, why)
        if partial is None or report is None:
            self._lose(name, why)
            return
        try:
            said = Report.model_validate_json(b"".join(self._centre.store.get(report.key)))
        except ValidationError as error:
            self._lose(name, f"its {REPORT}: {error.errors()[0]['msg']}")
            return
        self._told.update(said.told)
        self._refused.update(said.refused)
        del waiting.pieces[: len(task.batch)]
        waiting.sum = Piece(name, partial, update=False)
        if not waiting.pieces:
            self._hand_up(name)

    def _hand_up(self, name: str) -> None:
        """What it has summed goes to the next one above."""
        waiting = self._waiting[name]
        if waiting.sum is not None:
            self._waiting[next(self._above(name))].pieces.append(waiting.sum)
            waiting.sum = None

    def _lose(self, name: str, why: str) -> None:
        """Give up a combiner: what it has summed, and the sums that it was to add up, go to the one above; updates to others."""
        log.warning("round %d: combiner %s is lost: %s", self._round.number, name, why, extra={"action": "combiner-lost"})
        self._gone.add(name)
        self._hand_up(name)
        pieces, self._waiting[name].pieces = self._waiting[name].pieces, []
        left_ = [one.combiner for one in self._tree.values() if one.name not in self._gone]
        try:
            after = reassign(self._assigned, name, self._round.clients, left_, self._round.asked.preference())
        except NoCombiner:
            after = {}
        for piece in pieces:
            if piece.update:
                self._assigned[piece.name] = after.get(piece.name, REDUCER)
            self._waiting[self.combiner(piece.name) if piece.update else next(self._above(name))].pieces.append(piece)

    # At the centre

    def _fold_here(self) -> None:
        """Fold what waits at the centre."""
        for name, waiting in self._waiting.items():
            if not self._at_node(name):
                for piece in waiting.pieces:
                    self._fold_piece(name, piece)
                waiting.pieces.clear()

    def _fold_piece(self, name: str, piece: Piece) -> None:
        if piece.update:
            try:
                self._told[piece.name] = self._take(Arrived(piece.name, piece.file, self._base))
            except ModelRefused as error:
                self._refused[piece.name] = str(error)
            return
        round = self._rounds[name]
        assert isinstance(round, StreamingRound)
        path = download(self._centre, piece.file, self._folder / f"{piece.name}.combined")
        round.add_partial(ModelFile(path, name=f"combiner {piece.name}"))
        path.unlink()


def connected(centre: Centre) -> set[str]:
    """The nodes that are heard."""
    return {node.name for node in presence(centre.records) if node.presence == "connected"}


def asked_for(aggregator: Aggregator) -> dict[str, object]:
    """An aggregator, as at_node.py is told it."""
    return {"name": aggregator.name, "arguments": aggregator.model_dump(mode="json", exclude_none=True)}
