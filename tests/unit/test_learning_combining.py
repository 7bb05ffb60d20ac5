"""Whatever combiners at nodes are lost, and when: each update is counted once, and the sums are those of a flat round."""

from __future__ import annotations

import asyncio
import hashlib
import random
import tempfile
from collections.abc import AsyncGenerator, Callable, Collection, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdn_worker.protocol import InputFile
from federation.learning import at_node, combining
from federation.learning.aggregator import load
from federation.learning.assignment import Combiner
from federation.learning.combining import NodeFolding, Round
from federation.learning.folding import Arrived
from federation.learning.models import ModelFile
from federation.learning.rounds import StreamingRound
from federation.learning.selection import Client
from federation.learning.session import CombinerEntry
from federation.results import OutputFile
from storage.objects import open_store
from tests.unit import learning


class Nodes:
    """Runs a combiner's task at once, in this process; when its end is heard, and whether it ended well, is drawn."""

    def __init__(self, folder: Path, chance: random.Random, names: list[str]) -> None:
        self.store = open_store(f"file://{folder}/store")
        self.handed: list[list[str]] = []
        self.at: dict[Any, str] = {}
        self.folder, self._chance, self._names, self._files = folder, chance, names, dict[Any, dict[str, OutputFile]]()

    def order(
        self,
        _c: Any,
        _a: Any,
        _t: Any,
        _n: int,
        _s: str,
        key: str,
        nodes: list[str],
        inputs: Callable[[str], Mapping[str, InputFile]],
        **_: Any,
    ) -> Any:
        there, sandbox = (Path(tempfile.mkdtemp(dir=self.folder)) for _ in range(2))
        for name, file in inputs(nodes[0]).items():
            assert name == file.name
            (there / name).parent.mkdir(exist_ok=True)
            (there / name).write_bytes(b"".join(self.store.get(file.where)))
        at_node.fold(there, sandbox)
        phase = object()
        self.at[phase] = nodes[0]
        self.handed.append(sorted(path.name for path in there.glob("*/*")))
        self._files[phase] = {
            path.name: self.put(f"results/{hashlib.sha256(key.encode()).hexdigest()}/{path.name}", path) for path in sandbox.iterdir()
        }
        return phase

    def put(self, key: str, path: Path) -> OutputFile:
        content = path.read_bytes()
        with path.open("rb") as source:
            self.store.put(key, source, len(content))
        return OutputFile(path=f"outputs/{path.name}", key=key, size=len(content), sha256=hashlib.sha256(content).hexdigest())

    def begin(self, phase: Any) -> None:
        assert phase in self._files

    async def ends(self, phases: Collection[Any], _seconds: float) -> AsyncGenerator[Any]:
        if self._chance.random() < 0.5:
            yield SimpleNamespace(phase=self._chance.choice(list(phases)))

    def left(self, _centre: Any, ended: Any, name: str = at_node.PARTIAL) -> tuple[OutputFile | None, str]:
        if name == at_node.PARTIAL and self._chance.random() < 0.25:
            return None, "it failed"
        return self._files[ended.phase][name], ""

    def connected(self, _centre: Any) -> set[str]:
        if len(self._names) > 1 and self._chance.random() < 0.1:
            self._names.remove(self._chance.choice(self._names))
        return set(self._names)

    def anyone(self, _client: Client, combiners: Sequence[Combiner], _load: Mapping[str, int]) -> Combiner | None:
        """A preference that leads to more trees than one with reasons."""
        return self._chance.choice(combiners) if combiners else None

    async def drop(self, phase: Any, _why: str) -> None:
        del self._files[phase]


async def _alive() -> None:
    pass


@settings(max_examples=25, deadline=None)
@given(
    data=st.data(), clients=st.integers(1, 7), combiners=st.integers(1, 6), room=st.none() | st.integers(3, 5), seed=st.integers(0, 2**32)
)
def test_each_update_is_counted_once(
    data: st.DataObject, clients: int, combiners: int, room: int | None, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("tree")
    base, _ = learning.base(folder)
    updates = [update for update, _ in learning.updates(folder, clients)]
    tree: dict[str, CombinerEntry] = {}
    for number in range(combiners):
        above = data.draw(st.none() | st.integers(0, number - 1), "above") if number else None
        centre = data.draw(st.booleans(), "at the centre") and (above is None or tree[f"k{above}"].at == "centre")
        tree[f"k{number}"] = CombinerEntry(
            name=f"k{number}", at="centre" if centre else f"n{number}", above=None if above is None else f"k{above}", room=room
        )
    assigned = {update.name: data.draw(st.sampled_from(sorted(tree)), "assigned") for update in updates}
    check(folder, tree, assigned, Nodes(folder, random.Random(seed), [one.at for one in tree.values()]), base, updates)


class OneAfterTheOther(Nodes):
    """Tasks end in the order of their nodes; that of n3 fails, and its clients go to k2."""

    async def ends(self, phases: Collection[Any], _seconds: float) -> AsyncGenerator[Any]:
        yield SimpleNamespace(phase=min(phases, key=self.at.__getitem__))

    def left(self, _centre: Any, ended: Any, name: str = at_node.PARTIAL) -> tuple[OutputFile | None, str]:
        return (None, "it failed") if self.at[ended.phase] == "n3" else (self._files[ended.phase][name], "")

    def connected(self, _centre: Any) -> set[str]:
        return set(self._names)

    def anyone(self, _client: Client, combiners: Sequence[Combiner], _load: Mapping[str, int]) -> Combiner | None:
        return next(combiner for combiner in combiners if combiner.name == "k2")


def test_a_combiner_sends_on_a_second_sum(tmp_path: Path) -> None:
    """Of a client that it was given when it had sent on the first; the one above adds up both at once."""
    base, _ = learning.base(tmp_path)
    updates = [update for update, _ in learning.updates(tmp_path, 2)]
    above = {"k1": None, "k2": "k1", "k3": "k1"}
    tree = {name: CombinerEntry(name=name, at=f"n{name[1]}", above=upper) for name, upper in above.items()}
    nodes = OneAfterTheOther(tmp_path, random.Random(1), ["n1", "n2", "n3"])
    check(tmp_path, tree, {"c0": "k2", "c1": "k3"}, nodes, base, updates)
    assert [len(handed) for handed in nodes.handed] == [1, 1, 1, 2]


def check(
    folder: Path, tree: Mapping[str, CombinerEntry], assigned: Mapping[str, str], nodes: Nodes, base: ModelFile, updates: Sequence[ModelFile]
) -> None:  # fmt: skip
    """What the tree makes of the updates is what a flat round does."""
    aggregator = load("norm-clipping", {"clip": 1.0})
    asked = SimpleNamespace(user="ada", round_timeout=1e9, timeout=60.0, reference=None, preference=lambda: nodes.anyone)
    sent = nodes.put("base", base.path)
    model = InputFile(name=at_node.MODEL, size=sent.size, sha256=sent.sha256, where=sent.key)
    fakes: Any = SimpleNamespace(store=nodes.store)
    people = [Client(update.name) for update in updates]
    round = Round("session", asked, 1, model, people, nodes, _alive, "")  # type: ignore[arg-type]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(combining, "BATCH", 2)
        for name, fake in (("open_step", nodes.order), ("left", nodes.left), ("connected", nodes.connected)):
            patch.setattr(combining, name, fake)
        folding = NodeFolding(fakes, aggregator, base, None, folder / "work", round, combiners=tree, assigned=assigned)
        infos = {}

        async def all_of_it() -> None:
            for update in updates:
                infos[update.name] = await folding.take(Arrived(update.name, nodes.put(f"updates/{update.name}", update.path), base))
            await folding.settle()
            await folding.finish(folder / "found.safetensors", folder / "found.state", "")

        asyncio.run(all_of_it())
    flat = StreamingRound(aggregator, base)  # type: ignore[arg-type]
    for update in updates:
        flat.add(update)
    expected = flat.finish(folder / "flat.safetensors", folder / "flat.state")
    learning.close(ModelFile(folder / "found.safetensors"), ModelFile(folder / "flat.safetensors").load(), 1e-9)
    assert folding.members == flat.members
    assert ModelFile(folder / "found.safetensors").info.examples == expected.examples
    assert {**{name: info for name, info in infos.items() if info}, **folding.told} == {update.name: update.info for update in updates}
