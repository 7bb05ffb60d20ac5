"""Beginning a session, and the small parts of its rounds: what is refused before anything is sent, and what is made of what comes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from federation.catalogue.node import NodeEntry
from federation.centre import Centre, NodeUnknown
from federation.learning import attendance, opening
from federation.learning.folding import rebased
from federation.learning.left import means, metrics
from federation.learning.models import ModelFile, ModelInfo, ModelRefused, save
from federation.learning.package import PackageRefused
from federation.learning.selection import Client
from federation.learning.session import SessionRefused
from federation.learning.trail import Trail
from federation.results import OutputFile
from storage.records import RecordsRefused
from tests.support.learning import a_session, value

NOWHERE = "5a1f4a55-0000-4000-8000-000000000000"


def test_a_session_is_begun_once(centre: Centre, tmp_path: Path) -> None:
    first = opening.begin(centre, a_session(tmp_path), "k")
    assert opening.begin(centre, a_session(tmp_path), "k") == first
    assert (first.state, first.user, first.round) == ("CREATED", "ada", 0)
    with pytest.raises(RecordsRefused, match=r"session .* \(key 'k' of user 'ada'\) was begun with another configuration"):
        opening.begin(centre, a_session(tmp_path, rounds=4), "k")
    asked = opening.stored(first)
    assert [file.name for file in asked.client.files] == ["package/client.py", "package/client.yaml"]
    assert all(centre.store.stat(file.where) for file in asked.client.files)
    (seed,) = centre.records.learning.models(first.id)
    assert value(ModelFile(Trail(centre).fetch(seed, tmp_path / "fetched.safetensors"))) == 0
    # A package with the same content is stored once, whoever uses it.
    second = opening.begin(centre, a_session(tmp_path, user="ben"), "k")
    assert second.id != first.id
    assert opening.stored(second).client.files == asked.client.files


def test_what_cannot_be_begun_is_named(centre: Centre, tmp_path: Path) -> None:
    with pytest.raises(NodeUnknown, match="node 'site-z' is not enrolled"):
        opening.begin(centre, a_session(tmp_path, nodes=("site-a", "site-z")), "k")
    with pytest.raises(SessionRefused, match=f"there is no model {NOWHERE}"):
        opening.begin(centre, a_session(tmp_path, model=NOWHERE), "k")
    with pytest.raises(SessionRefused, match=r"select\.function: nowhere:f: No module"):
        opening.begin(centre, a_session(tmp_path, select={"how": "function", "function": "nowhere:f"}), "k")
    (tmp_path / "seed.safetensors").write_bytes(b"no model")
    with pytest.raises(ModelRefused, match="not a whole safetensors file"):
        opening.begin(centre, a_session(tmp_path), "k")
    manifest = tmp_path / "package" / "client.yaml"
    client = yaml.safe_load(manifest.read_text())
    del client["entry_points"]["seed"]
    manifest.write_text(yaml.safe_dump(client))
    with pytest.raises(PackageRefused, match=r"client\.yaml has no entry point seed"):
        opening.begin(centre, a_session(tmp_path, model="package"), "k")
    assert centre.records.learning.sessions() == []


def test_clients_have_the_labels_of_the_catalogue(centre: Centre, tmp_path: Path) -> None:
    entry = NodeEntry(id="site-a", labels={"kind": "clinic"}, region="north")
    centre.records.catalogue.put_node("site-a", entry.model_dump_json())
    found = attendance.clients(centre, a_session(tmp_path))
    assert found == [Client("site-a", {"kind": "clinic", "region": "north"}), Client("site-b", {})]
    assert attendance.clients(centre, a_session(tmp_path, nodes=("site-b",))) == [Client("site-b", {})]


async def test_nodes_that_are_gone_are_waited_for_and_then_left_out(centre: Centre, tmp_path: Path) -> None:
    assert await attendance.present(centre, a_session(tmp_path, round_timeout=0.01), 1) == []


def test_what_an_update_has_changed_is_put_on_the_newer_model(tmp_path: Path) -> None:
    old, new, update = (
        save(tmp_path / f"{name}.safetensors", {"w": np.array(values, "f4"), "seen": np.array(seen)}, ModelInfo(examples=5))
        for name, values, seen in (("old", [1, 2], 10), ("new", [2, 2], 20), ("update", [1.5, 1], 12))
    )
    moved = rebased(update, old, new, tmp_path / "moved.safetensors")
    assert moved.load()["w"].tolist() == [2.5, 1]
    assert moved.load()["seen"].tolist() == 12, "a count is not learned"
    assert (moved.info.examples, moved.name) == (5, "update.safetensors")


def test_means_weigh_by_examples_over_those_that_tell() -> None:
    told = {
        "a": {"loss": 1.0, "examples": 30.0},
        "b": {"loss": 2.0, "accuracy": 0.5, "examples": 10.0},
        "c": {"loss": 4.0, "examples": 0.0},
    }
    assert means(told) == {"accuracy": 0.5, "loss": 1.25}
    assert means({"a": {"loss": 1.0}, "b": {"loss": 2.0}}) == {"loss": 1.5}
    assert means({}) == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"loss": NaN}', "loss: 'nan' is no finite number"),
        ('{"loss": "low"}', "loss: 'low' is no finite number"),
        ('{"loss": true}', "loss: 'True' is no finite number"),
        ("[1]", "it holds no JSON object"),
        ("{", "Expecting property name"),
    ],
)
def test_metrics_that_are_none(centre: Centre, text: str, said: str) -> None:
    centre.store.put("a-file", io.BytesIO(text.encode()), len(text))
    with pytest.raises(ValueError, match=said):
        metrics(centre, OutputFile(path="outputs/metrics.json", key="a-file", size=len(text), sha256=""))
    good = json.dumps({"loss": 1, "examples": 3})
    centre.store.put("a-file", io.BytesIO(good.encode()), len(good))
    assert metrics(centre, OutputFile(path="outputs/metrics.json", key="a-file", size=len(good), sha256="")) == {
        "loss": 1.0,
        "examples": 3.0,
    }
