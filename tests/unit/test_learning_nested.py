"""Any tree of combiners gives what one flat round gives; nobody is counted twice; a partial sum is also how a round is taken up again."""

from __future__ import annotations

import json
import tracemalloc
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from fdn_worker.errors import SettingsError
from federation.learning.aggregator import BUILT_IN, Linear, load
from federation.learning.models import BLOCK, ModelFile, ModelInfo, ModelRefused, save
from federation.learning.rounds import StreamingRound, begin
from tests.unit import learning

ARGUMENTS: dict[str, dict[str, Any]] = {
    "scaffold": {"clients": 30}, "feddyn": {"clients": 30}, "norm-clipping": {"clip": 2.0},
}  # fmt: skip
#: The noise of dp-fedavg differs each time.
NAMES = sorted(BUILT_IN.keys() - {"median", "trimmed-mean", "dp-fedavg"})
#: A leaf is a client: its examples and a scale of its update. A node is a combiner, with combiners or clients below it.
CLIENTS = st.tuples(st.integers(1, 10**6), st.floats(1e-3, 1e3))
TREES = st.recursive(CLIENTS, lambda below: st.lists(below, min_size=1, max_size=4), max_leaves=12).filter(
    lambda tree: isinstance(tree, list)
)


@settings(max_examples=30, deadline=None)
@given(tree=TREES, name=st.sampled_from(NAMES))
def test_any_tree_gives_what_a_flat_round_gives(tmp_path_factory: pytest.TempPathFactory, tree: list[Any], name: str) -> None:
    folder, numbers = tmp_path_factory.mktemp("tree"), count()
    aggregator = load(name, ARGUMENTS.get(name))
    assert isinstance(aggregator, Linear)
    base, _ = learning.base(folder)
    flat = StreamingRound(aggregator, base)

    def combined(tree: list[Any]) -> StreamingRound:
        round = StreamingRound(aggregator, base)
        for below in tree:
            number = next(numbers)
            if isinstance(below, list):
                combined(below).partial(folder / f"p{number}")
                round.add_partial(ModelFile(folder / f"p{number}"))
                continue
            examples, scale = below
            arrays = {key: scale * array for key, array in learning.arrays(number + 1).items()}
            update = save(folder / f"c{number}", arrays, ModelInfo(examples=examples, steps=1 + number, metrics={"loss": scale}))
            round.add(update)
            flat.add(update)
        return round

    nested = combined(tree)
    assert nested.members == flat.members
    told = nested.finish(folder / "nested", folder / "nested.state", "m-0")
    expected = flat.finish(folder / "flat", folder / "flat.state", "m-0")
    assert told.examples == pytest.approx(expected.examples, rel=1e-12)
    assert told.metrics == pytest.approx(expected.metrics, rel=1e-9)
    for kind in ("", ".state"):
        nested_arrays, arrays = ModelFile(folder / f"nested{kind}").load(), ModelFile(folder / f"flat{kind}").load()
        assert nested_arrays.keys() == arrays.keys()
        for key, array in arrays.items():
            # Sums round by the largest number in them.
            np.testing.assert_allclose(nested_arrays[key], array, rtol=1e-9, atol=1e-9 * max(1.0, float(np.abs(array).max())), err_msg=key)


def test_a_round_is_taken_up_from_its_own_partial_sum(tmp_path: Path) -> None:
    base, _ = learning.base(tmp_path)
    files = [file for file, _ in learning.updates(tmp_path, 4)]
    aggregator = load("fedadam")
    assert isinstance(aggregator, Linear)
    whole, before, after = (StreamingRound(aggregator, base) for _ in range(3))
    for file in files:
        whole.add(file)
    for file in files[:2]:
        before.add(file)
    before.partial(tmp_path / "kept")
    after.add_partial(ModelFile(tmp_path / "kept"))
    for file in files[2:]:
        after.add(file)
    whole.finish(tmp_path / "whole", tmp_path / "whole.state")
    after.finish(tmp_path / "after", tmp_path / "after.state")
    assert (tmp_path / "after").read_bytes() == (tmp_path / "whole").read_bytes()


def test_who_comes_through_two_combiners_is_counted_once(tmp_path: Path) -> None:
    """A combiner was thought lost, its clients sent their updates to another one, and then its partial sum came after all."""
    base, _ = learning.base(tmp_path)
    files = [file for file, _ in learning.updates(tmp_path, 3)]
    aggregator = load("fedavg")
    assert isinstance(aggregator, Linear)
    late, other, reducer = (StreamingRound(aggregator, base) for _ in range(3))
    for round, members in ((late, files[:2]), (other, files)):
        for file in members:
            round.add(file)
    late.partial(tmp_path / "late")
    other.partial(tmp_path / "other")
    reducer.add_partial(ModelFile(tmp_path / "other"))
    with pytest.raises(ModelRefused, match="combiner-1: the update of c0 is counted already"):
        reducer.add_partial(ModelFile(tmp_path / "late", name="combiner-1"))
    reducer.finish(tmp_path / "model", tmp_path / "state")
    other.finish(tmp_path / "expected", tmp_path / "state")
    learning.close(ModelFile(tmp_path / "model"), ModelFile(tmp_path / "expected").load(), 0)


def test_what_is_no_partial_sum_of_this_round_is_refused(tmp_path: Path) -> None:
    base, arrays = learning.base(tmp_path)
    files = [file for file, _ in learning.updates(tmp_path, 1)]
    aggregator, other = load("fedavg"), load("scaffold", {"clients": 3})
    assert isinstance(aggregator, Linear)
    assert isinstance(other, Linear)
    round, further = StreamingRound(aggregator, base), StreamingRound(other, base)
    with pytest.raises(ModelRefused, match="c0: not a partial sum: kind: Field required"):
        round.add_partial(files[0])
    further.add(files[0])
    further.partial(tmp_path / "scaffold")
    with pytest.raises(ModelRefused, match=r'a partial sum for scaffold {"clients":3,.*, and this is for fedavg {}'):
        round.add_partial(ModelFile(tmp_path / "scaffold"))
    small = StreamingRound(aggregator, save(tmp_path / "small", {"scale": arrays["scale"]}))
    small.partial(tmp_path / "small.partial")
    with pytest.raises(ModelRefused, match="a partial sum of another model"):
        round.add_partial(ModelFile(tmp_path / "small.partial"))
    said = {"kind": "partial-sum", "made_for": "fedavg {}", "totals": json.dumps({"clients": float("nan")}), "members": "[]"}
    sums = {f"model/{key}": array for key, array in arrays.items()}
    safetensors.numpy.save_file(sums, tmp_path / "bad", metadata=said)
    with pytest.raises(ModelRefused, match="finite number"):
        round.add_partial(ModelFile(tmp_path / "bad"))
    sums["model/dense.bias"] = np.full(4, np.nan)
    safetensors.numpy.save_file(sums, tmp_path / "worse", metadata=said | {"totals": "{}"})
    with pytest.raises(ModelRefused, match=r"'model/dense\.bias' holds NaN"):
        round.add_partial(ModelFile(tmp_path / "worse"))
    assert round.members == frozenset()


def test_memory_is_that_of_the_sums_whatever_the_number_of_clients(tmp_path: Path) -> None:
    base = save(tmp_path / "base", {"w": np.zeros((64, BLOCK // 16)), "v": np.zeros(BLOCK)})
    sums = 5 * BLOCK * 8
    aggregator = load("fedavgm")
    assert isinstance(aggregator, Linear)
    save(tmp_path / "update", {"w": np.ones((64, BLOCK // 16)), "v": np.ones(BLOCK)}, ModelInfo(examples=1))
    tracemalloc.start()
    try:
        round = StreamingRound(aggregator, base)
        for number in range(30):
            round.add(ModelFile(tmp_path / "update", name=f"c{number}"))
        round.finish(tmp_path / "model", tmp_path / "state")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < sums + 12 * BLOCK * 8


@pytest.mark.parametrize("name", ["median", "trimmed-mean"])
@pytest.mark.parametrize("how", ["nested", "masked"])
def test_robust_aggregators_are_refused_where_sums_alone_are_seen(name: str, how: str, tmp_path: Path) -> None:
    base, _ = learning.base(tmp_path)
    with pytest.raises(SettingsError, match=f"aggregator {name} compares the updates of all clients, and here they are {how}"):
        begin(load(name), base, nested=how == "nested", masked=how == "masked")
    begin(load("fedavg"), base, nested=True, masked=True)
