"""The model trail: files and records in step, and nothing half-done; what a checkpoint policy lets go; two models compared."""

from __future__ import annotations

import hashlib
import io
import json
import tracemalloc
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some
from numpy.typing import NDArray

from fdn_worker.errors import SettingsError, StoreUnavailable
from fdn_worker.protocol import now
from federation.centre import Centre
from federation.learning.checkpoints import Checkpoints
from federation.learning.comparison import Difference, compare
from federation.learning.export import export, write_npz
from federation.learning.models import BLOCK, ModelFile, ModelRefused, save
from federation.learning.trail import ModelGone, Trail, model_id
from federation.request import BadRequest
from storage.keys import model_state_key, session_prefix
from storage.learning import ModelRow
from storage.records import RecordsRefused
from storage.retention import delete_objects, delete_records, old
from tests.unit.ended import ended
from tests.unit.learning import arrays, close
from tests.unit.trail import a_session, a_trail, kept


def objects(centre: Centre, session: str) -> list[str]:
    return [info.key for info in centre.store.list(session_prefix(session))]


# Keep and fetch


def test_a_model_is_stored_with_its_record(centre: Centre, tmp_path: Path) -> None:
    seed, first = a_trail(centre, tmp_path, 1)
    assert (first.id, first.parent, first.round, first.participants) == (model_id(first.session, 1), seed.id, 1, 2)
    assert (first.examples, first.metrics) == (30.0, {"loss": 0.5})
    stored = b"".join(centre.store.get(first.where_))
    assert (len(stored), hashlib.sha256(stored).hexdigest()) == (first.size, first.sha256)
    assert sorted(objects(centre, first.session)) == sorted([seed.where_, first.where_, model_state_key(first.session, first.id)])


def test_a_round_that_is_done_again_finds_its_model(centre: Centre, tmp_path: Path) -> None:
    seed = kept(centre, tmp_path, a_session(centre), 0)
    save(tmp_path / "other.safetensors", arrays(9))
    assert Trail(centre).keep(tmp_path / "other.safetensors", session=seed.session, round=0) == seed
    close(ModelFile(Trail(centre).fetch(seed, tmp_path / "back.safetensors")), arrays(0))


def test_nothing_is_stored_of_what_is_no_model(centre: Centre, tmp_path: Path) -> None:
    session, path = a_session(centre), tmp_path / "model.safetensors"
    path.write_bytes(b"no model")
    with pytest.raises(ModelRefused, match=r"model.safetensors: not a whole safetensors file"):
        Trail(centre).keep(path, session=session, round=0)
    assert objects(centre, session) == []


@pytest.mark.parametrize("wrong", ["session", "parent"])
def test_nothing_is_stored_of_a_model_without_session_or_parent(centre: Centre, tmp_path: Path, wrong: str) -> None:
    session, path, none = a_session(centre), tmp_path / "model.safetensors", str(uuid4())
    save(path, arrays(0))
    of = {"session": session, "parent": None} | {wrong: none}
    with pytest.raises(RecordsRefused, match=f"there is no {'session' if wrong == 'session' else 'model'} {none}"):
        Trail(centre).keep(path, session=str(of["session"]), round=0, parent=of["parent"])
    assert objects(centre, str(of["session"])) == []


def test_a_store_that_fails_between_the_two_files_keeps_neither(centre: Centre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session, put = a_session(centre), centre.store.put
    seed = kept(centre, tmp_path, session, 0)

    def failing(key: str, source: io.BufferedReader, size: int) -> None:
        if key.endswith(".state.safetensors"):
            raise StoreUnavailable("full")
        put(key, source, size)

    with monkeypatch.context() as broken:
        broken.setattr(centre.store, "put", failing)
        with pytest.raises(StoreUnavailable, match="full"):
            kept(centre, tmp_path, session, 1, seed)
    assert objects(centre, session) == [seed.where_]
    assert centre.records.learning.models(session) == [seed]
    assert kept(centre, tmp_path, session, 1, seed).round == 1


def test_what_was_damaged_in_the_store_is_told(centre: Centre, tmp_path: Path) -> None:
    seed = kept(centre, tmp_path, a_session(centre), 0)
    centre.store.put(seed.where_, io.BytesIO(bytes(seed.size)), seed.size)
    with pytest.raises(StoreUnavailable, match=f"model {seed.id}: what came is not what was stored"):
        Trail(centre).fetch(seed, tmp_path / "to/back.safetensors")
    assert list((tmp_path / "to").iterdir()) == []


def test_the_aggregators_state_comes_back(centre: Centre, tmp_path: Path) -> None:
    seed, first = a_trail(centre, tmp_path, 1)
    trail = Trail(centre)
    assert trail.fetch_state(seed, tmp_path / "none") is None
    assert not (tmp_path / "none").exists()
    state = trail.fetch_state(first, tmp_path / "back")
    assert state is not None
    assert list(ModelFile(state).tensors) == ["velocity/scale"]


# Checkpoints


def rows(*losses: float | None, released: int | None = None) -> list[ModelRow]:
    """A seed, and a model a round with that loss."""
    row = ModelRow("0", "s", 0, None, now(), "", 8, "")
    made = [row] + [
        replace(row, id=str(number), round=number, metrics={} if loss is None else {"loss": loss, "accuracy": -loss})
        for number, loss in enumerate(losses, 1)
    ]
    return [replace(one, released=now()) if one.round == released else one for one in made]


@pytest.mark.parametrize(
    ("policy", "gone"),
    [
        ("all", []), ("last", ["1", "2", "3", "5"]), ("every:2", ["1", "3", "5"]), ("every:1", []), ("best:loss", ["1", "3", "5"]),
        ("best:-loss", ["1", "3", "5"]), ("best:accuracy", ["1", "3", "5"]), ("best:-accuracy", ["2", "3", "5"]), ("best:other", ["1", "2", "3", "5"]),
    ],
)  # fmt: skip
def test_which_models_go(policy: str, gone: list[str]) -> None:
    models = rows(3.0, 1.0, None, 2.0, 1.0, 2.0, released=4)
    assert sorted(Checkpoints.parse(policy).gone(models)) == gone


def test_models_that_stragglers_began_with_stay() -> None:
    models = rows(3.0, 2.0, 1.0)
    assert Checkpoints.parse("last").gone(models, newest=2) == ["1"]
    assert Checkpoints.parse("last").gone(models, newest=9) == []


@given(
    some.lists(some.none() | some.floats(-1, 1), max_size=8),
    some.sampled_from(["all", "last", "every:3", "best:loss", "best:accuracy"]),
    some.integers(0, 8),
)
def test_seed_newest_released_and_best_never_go_and_pruning_again_takes_no_more(
    losses: list[float | None], policy: str, released: int
) -> None:
    models = rows(*losses, released=released)
    gone = Checkpoints.parse(policy).gone(models)
    assert not {"0", str(len(losses)), str(released)} & set(gone)
    left = [replace(model, deleted=now()) if model.id in gone else model for model in models]
    assert Checkpoints.parse(policy).gone(left) == []
    told = [loss for loss in losses if loss is not None]
    if policy == "best:loss" and told:
        assert str(losses.index(min(told)) + 1) not in gone


@pytest.mark.parametrize("policy", ["", "some", "every", "every:0", "every:-1", "every:x", "best", "best:", "best:-", "all:1"])
def test_a_policy_that_is_none_is_named(policy: str) -> None:
    with pytest.raises(SettingsError, match=f"checkpoints '{policy}'.*write all, last, best:METRIC"):
        Checkpoints.parse(policy)


def test_files_go_and_the_trail_stays(centre: Centre, tmp_path: Path) -> None:
    seed, first, second, third = a_trail(centre, tmp_path, 3)
    centre.records.learning.release(second.id, "eve")
    trail, last = Trail(centre), Checkpoints.parse("last")
    assert [row.id for row in trail.prune(seed.session, last)] == [first.id]
    left = [key for row in (second, third) for key in (row.where_, model_state_key(row.session, row.id))]
    assert sorted(objects(centre, seed.session)) == sorted([seed.where_, *left])
    assert trail.prune(seed.session, last) == []
    assert [row.id for row in centre.records.learning.ancestors(third.id)] == [second.id, first.id, seed.id]
    gone = centre.records.learning.find_model(first.id)
    with pytest.raises(ModelGone, match=f"the file of model {first.id} was deleted on"):
        trail.fetch(gone, tmp_path / "back")


def test_pruning_that_was_interrupted_is_done_by_the_next(centre: Centre, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seed, first, second = a_trail(centre, tmp_path, 2)
    trail = Trail(centre)

    def failing(keys: list[str]) -> None:
        raise StoreUnavailable("gone")

    with monkeypatch.context() as broken:
        broken.setattr(centre.store, "delete", failing)
        with pytest.raises(StoreUnavailable):
            trail.prune(seed.session, Checkpoints.parse("last"))
    assert first.where_ in objects(centre, seed.session)
    assert trail.prune(seed.session, Checkpoints.parse("last")) == []
    assert first.where_ not in objects(centre, seed.session)
    assert second.where_ in objects(centre, seed.session)


def test_retention_leaves_models_alone(centre: Centre, tmp_path: Path) -> None:
    _, first = a_trail(centre, tmp_path, 1)
    run = ended(centre, "1")
    centre.records.learning.put_update(first.session, 1, "site-a", run=str(run.run))
    before, there = now() + timedelta(days=1), objects(centre, first.session)
    for one in list(old(centre.records, centre.store, before, whole=True)):
        assert delete_objects(centre.records, centre.store, one.id, before)
        assert delete_records(centre.records, one.id, before)
    assert centre.records.executions() == []
    assert objects(centre, first.session) == there
    assert centre.records.learning.find_model(first.id) == first
    assert next(row.run for row in centre.records.learning.updates(first.session)) == str(run.run)
    Trail(centre).fetch(first, tmp_path / "back")


# Export


def test_an_export_has_a_card(centre: Centre, tmp_path: Path) -> None:
    seed, first, second = a_trail(centre, tmp_path, 2)
    learning, to = centre.records.learning, tmp_path / "out" / "model.safetensors"
    learning.release(second.id, "eve", "good")
    beside = export(Trail(centre), learning, learning.find_model(second.id), to)
    assert hashlib.sha256(to.read_bytes()).hexdigest() == second.sha256
    card = json.loads(beside.read_text())
    assert (card["model"], card["round"], card["parent"]) == (second.id, 2, first.id)
    assert [one["model"] for one in card["ancestors"]] == [first.id, seed.id]
    assert {name: one["examples"] for name, one in card["participants"].items()} == {"site-a": 10.0, "site-b": 20.0}
    assert (card["package_sha256"], card["aggregator"]["name"], card["metrics"]) == ("f" * 64, "fedavg", second.metrics)
    assert (card["parameters"], card["tensors"]["dense.weight"]) == (17, {"dtype": "float64", "shape": [3, 4]})
    assert (card["released"]["by"], card["released"]["note"]) == ("eve", "good")
    assert sorted(path.name for path in to.parent.iterdir()) == ["model.safetensors", "model.safetensors.json"]


def test_numpy_reads_an_npz(centre: Centre, tmp_path: Path) -> None:
    seed = kept(centre, tmp_path, a_session(centre), 0)
    export(Trail(centre), centre.records.learning, seed, tmp_path / "model.npz")
    with np.load(tmp_path / "model.npz", allow_pickle=False) as found:
        assert set(found) == set(arrays(0))
        for key, array in arrays(0).items():
            np.testing.assert_array_equal(found[key], array)
            assert found[key].dtype == array.dtype


@pytest.mark.parametrize("dtype", ["f2", "i8", "u1"])
def test_an_npz_of_several_blocks(tmp_path: Path, dtype: str) -> None:
    array = (np.arange(2 * BLOCK + 7) % 100).astype(dtype)
    write_npz(save(tmp_path / "m.safetensors", {"a/b": array, "none": np.zeros((0, 3), dtype)}), tmp_path / "m.npz")
    with np.load(tmp_path / "m.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["a/b"], array)
        assert found["none"].shape == (0, 3)


def test_an_export_that_fails_leaves_nothing(centre: Centre, tmp_path: Path) -> None:
    seed = kept(centre, tmp_path, a_session(centre), 0)
    to, learning = tmp_path / "out" / "model.npz", centre.records.learning
    centre.store.put(seed.where_, io.BytesIO(bytes(seed.size)), seed.size)
    with pytest.raises(StoreUnavailable):
        export(Trail(centre), learning, seed, to)
    assert list(to.parent.iterdir()) == []
    with pytest.raises(BadRequest, match=r"model.pickle: neither .safetensors nor .npz"):
        export(Trail(centre), learning, seed, tmp_path / "model.pickle")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(BadRequest, match="is a folder"):
        export(Trail(centre), learning, seed, tmp_path / "folder.npz")


# Compare


def test_differences_are_those_of_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    first = {"a": rng.normal(size=(3, BLOCK)), "b": rng.normal(size=4).astype("f4")}
    second = {key: array + rng.normal(size=array.shape).astype(array.dtype) for key, array in first.items()}
    *tensors, total = compare(save(tmp_path / "1", first), save(tmp_path / "2", second))

    def expected(a: NDArray[Any], b: NDArray[Any]) -> Any:
        a, b = a.astype("f8").ravel(), b.astype("f8").ravel()
        apart = a - b
        return pytest.approx((np.abs(apart).max(), np.linalg.norm(apart), a @ b / np.linalg.norm(a) / np.linalg.norm(b)), rel=1e-12)

    for one in tensors:
        assert (one.largest, one.distance, one.cosine) == expected(first[one.name], second[one.name])
    whole = [np.concatenate([array.astype("f8").ravel() for array in model.values()]) for model in (first, second)]
    assert (total.largest, total.distance, total.cosine) == expected(*whole)


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    """Of 64 MiB each; a block of both in float64 is 1 MiB."""
    models = [save(tmp_path / str(number), {"w": np.full(2**24, number, "f4")}) for number in (1, 2)]
    tracemalloc.start()
    try:
        *_, total = compare(*models)
        write_npz(models[0], tmp_path / "m.npz")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (total.largest, total.distance, total.cosine) == pytest.approx((1.0, 2.0**12, 1.0))
    assert peak < 8 * 2**20


def test_models_that_do_not_fit_are_compared_where_they_do(tmp_path: Path) -> None:
    first = save(tmp_path / "1", {"same": np.zeros(2), "shape": np.ones(2), "here": np.ones(1)})
    second = save(tmp_path / "2", {"same": np.zeros(2, "f4"), "shape": np.ones(3), "there": np.ones(1)})
    same, *others, total = sorted(compare(first, second)[:-1], key=lambda one: one.largest is None) + compare(first, second)[-1:]
    assert (same.largest, same.distance, same.cosine) == (0.0, 0.0, None), "of zeros there is no angle"
    assert {one.name: (one.first is not None, one.second is not None, one.largest) for one in others} == {
        "shape": (True, True, None), "here": (True, False, None), "there": (False, True, None),
    }  # fmt: skip
    assert (total.name, total.distance) == ("", 0.0)
    nothing = compare(save(tmp_path / "3", {"x": np.ones(1)}), save(tmp_path / "4", {"y": np.ones(1)}))
    assert nothing[-1] == Difference("")


def test_ids_follow_from_session_and_round() -> None:
    session = str(uuid4())
    assert model_id(session, 1) == model_id(session, 1) != model_id(session, 2)
    assert UUID(model_id(session, 1)).version == 5
