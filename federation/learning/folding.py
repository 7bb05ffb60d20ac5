"""Where the updates of a round are added up: the seam between a session's loop and the arithmetic of `rounds`.

The loop knows nothing of sums. For each round it asks for one Folding, and tells it of each update that has come, once, in any order:

    info = await folding.take(arrived)      # ModelRefused: the round goes on without that client
    await folding.settle()                  # all has come
    info = await folding.finish(model, state, parent)

`arrived.file` says where the update lies in the centre's store; it is fetched by whoever folds it. So a Folding whose combiners are tasks at nodes
(combining.py) hands them that key, size and SHA-256 as an input, and fetches partial sums alone; it answers `take` with None, and says in `told`
and `refused` what became of those updates, once it is settled. `members` is read after `finish`. What is remembered of clients between rounds
(SCAFFOLD, FedDyn) is made at the centre; `client_states` says where it lies, to be kept once the round's model is.

CentreFolding fetches an update, checks it against its manifest, adds it and drops it: one accumulator a combiner, and one update on disk at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from federation.centre import Centre
from federation.learning.aggregator import Aggregator, Corrected, Linear
from federation.learning.client_state import remember
from federation.learning.models import ModelFile, ModelInfo, ModelWriter, check
from federation.learning.rounds import Round, StreamingRound, begin
from federation.learning.session import CombinerEntry
from federation.results import OutputFile, download

#: Name of the one that adds up what all combiners have; no combiner is called so, since ids are not empty.
REDUCER = ""


@dataclass(frozen=True)
class Arrived:
    """An update that lies in the store, as its manifest lists it. `base` is the model that its client began with."""

    client: str
    #: None where it is to stay at its node.
    file: OutputFile | None
    base: ModelFile


class Folding(Protocol):
    """One round's."""

    @property
    def members(self) -> frozenset[str]:
        """Clients whose updates are counted."""

    @property
    def refused(self) -> Mapping[str, str]:
        """Client -> why its update could not be counted, of those that `take` did not tell of."""

    @property
    def lost(self) -> Mapping[str, str]:
        """Client -> why its update was lost after it was taken."""

    @property
    def told(self) -> Mapping[str, ModelInfo]:
        """Client -> what its update says of itself, of those that are counted and `take` did not tell of."""

    @property
    def client_states(self) -> Mapping[str, Path]:
        """Client -> what is remembered of it from now on, as a file."""

    def combiner(self, client: str) -> str:
        """Who folds that client's update; REDUCER where no combiner does."""

    async def take(self, arrived: Arrived) -> ModelInfo | None:
        """Count an update; what it says of itself, as far as it is known. Raises ModelRefused, and is as before."""

    async def settle(self) -> None:
        """Nothing more comes: whatever was taken is added up, wherever that is done."""

    async def finish(self, model: Path, state: Path, parent: str) -> ModelInfo:
        """Write the next global model and what the server remembers, as `Round.finish` does."""


class CentreFolding:
    """All sums in this process; a tree of combiners is folded as a tree."""

    def __init__(
        self, centre: Centre, aggregator: Aggregator, base: ModelFile, state: ModelFile | None, folder: Path,
        *, own: Callable[[str], ModelFile | None] = lambda _: None, combiners: Mapping[str, CombinerEntry] | None = None,
        assigned: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        """`own`: what is remembered of a client; `assigned`: client -> combiner, the reducer for those that are left out."""
        self._centre, self._aggregator, self._base, self._state, self._folder = centre, aggregator, base, state, folder
        self._own, self._tree, self._assigned = own, dict(combiners or {}), dict(assigned or {})
        self._rounds: dict[str, Round] = {
            name: begin(aggregator, base, state, nested=bool(self._tree)) for name in (REDUCER, *self._tree)
        }  # fmt: skip
        self._kept: dict[str, Path] = {}
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def members(self) -> frozenset[str]:
        return frozenset().union(*(one.members for one in self._rounds.values()))

    @property
    def refused(self) -> Mapping[str, str]:
        return {}

    @property
    def lost(self) -> Mapping[str, str]:
        return {}

    @property
    def told(self) -> Mapping[str, ModelInfo]:
        return {}

    @property
    def client_states(self) -> Mapping[str, Path]:
        return self._kept

    def combiner(self, client: str) -> str:
        return self._assigned.get(client, REDUCER)

    async def take(self, arrived: Arrived) -> ModelInfo | None:
        return await asyncio.to_thread(self._take, arrived)

    async def settle(self) -> None:
        pass

    async def finish(self, model: Path, state: Path, parent: str) -> ModelInfo:
        return await asyncio.to_thread(self._finish, model, state, parent)

    def _take(self, arrived: Arrived) -> ModelInfo:
        update = self._fetched(arrived)
        try:
            self._rounds[self.combiner(arrived.client)].add(update)
            self._remember(update)
        except BaseException:
            update.path.unlink()
            raise
        if isinstance(self._aggregator, Linear):
            # A robust one compares them all at the end.
            update.path.unlink()
        return update.info

    def _fetched(self, arrived: Arrived) -> ModelFile:
        """The update as a file, of this round's base."""
        assert arrived.file is not None
        path = download(self._centre, arrived.file, self._folder / arrived.client)
        try:
            update = ModelFile(path, name=arrived.client)
            if arrived.base is self._base:
                return update
            check(update, arrived.base)
            moved = rebased(update, arrived.base, self._base, path.with_name("rebased.safetensors"))
        except BaseException:
            path.unlink()
            raise
        path.unlink()
        return moved

    def _remember(self, update: ModelFile) -> None:
        """What is remembered of its client from now on."""
        if isinstance(self._aggregator, Corrected):
            kept = self._folder / f"{update.name}.state.safetensors"
            remember(self._aggregator, self._base, self._state, self._own(update.name), update, kept)
            self._kept[update.name] = kept

    def _finish(self, model: Path, state: Path, parent: str) -> ModelInfo:
        # Those with nothing below them first: each hands its sums to the one above.
        for name in sorted(self._tree, key=self._depth, reverse=True):
            below, above = self._rounds[name], self._rounds[self._tree[name].above or REDUCER]
            if below.members and isinstance(below, StreamingRound) and isinstance(above, StreamingRound):
                partial = self._folder / f"{name}.partial.safetensors"
                below.partial(partial)
                above.add_partial(ModelFile(partial, name=name))
                partial.unlink()
        return self._rounds[REDUCER].finish(model, state, parent)

    def _depth(self, name: str) -> int:
        above = self._tree[name].above
        return 0 if above is None else 1 + self._depth(above)


def rebased(update: ModelFile, old: ModelFile, new: ModelFile, out: Path) -> ModelFile:
    """What an update has changed of the `old` model, on the `new` one: new + (update - old). Integers, which are not learned, stay as they are."""
    with ModelWriter(out, update.tensors, update.metadata) as writer:
        for key, tensor in update.tensors.items():
            for part in tensor.blocks():
                block = update.wide(key, part)
                writer.write(key, part.start, new.wide(key, part) + (block - old.wide(key, part)) if tensor.floating else block)
    return ModelFile(out, name=update.name)
