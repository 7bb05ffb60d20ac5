"""Model files: what is written is read, by this and by safetensors itself; and what is refused, with the words that name it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from federation.learning.models import BLOCK, DTYPES, ModelFile, ModelInfo, ModelRefused, ModelWriter, Tensor, check, save
from tests.unit import learning

ANY_ARRAY = st.sampled_from(sorted(DTYPES.values())).flatmap(
    lambda code: hnp.arrays(
        code,
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
        elements={"allow_nan": False, "allow_infinity": False} if code[1] == "f" else {"min_value": 0, "max_value": 100},
    )
)


@given(st.dictionaries(st.text(max_size=10).filter(lambda key: key != "__metadata__"), ANY_ARRAY, max_size=4))
def test_safetensors_reads_what_is_written(tmp_path_factory: pytest.TempPathFactory, arrays: dict[str, Any]) -> None:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    model = save(path, arrays, ModelInfo(examples=3))
    for found in (model.load(), safetensors.numpy.load_file(path)):
        assert found.keys() == arrays.keys()
        for key, array in arrays.items():
            assert found[key].dtype == array.dtype
            np.testing.assert_array_equal(found[key], array)


def test_what_safetensors_writes_is_read_whatever_its_order(tmp_path: Path) -> None:
    arrays = {"b": np.arange(3, dtype="i1"), "a": np.arange(6.0).reshape(2, 3), "c": np.array(2, "f4")}
    safetensors.numpy.save_file(
        arrays, tmp_path / "model", metadata={"format": "np", "examples": "12", "metrics": '{"loss": 0.5}', "parent": "m-1"}
    )
    model = ModelFile(tmp_path / "model")
    learning.close(model, arrays, 0)
    assert model.info == ModelInfo(examples=12, metrics={"loss": 0.5}, parent="m-1")


def test_metadata_there_and_back() -> None:
    info = ModelInfo(examples=2.5, steps=7, metrics={"loss": 0.125, "accuracy": 1.0}, parent="m-1")
    assert ModelInfo.read(info.metadata(), "x") == info
    assert ModelInfo.read({}, "x") == ModelInfo()


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({"examples": "many"}, "site-a: its metadata are not JSON"),
        ({"examples": "0"}, "site-a: metadata examples: Input should be greater than 0"),
        ({"examples": "1e300"}, "site-a: metadata examples: Input should be less than or equal to"),
        ({"steps": "0.5"}, "site-a: metadata steps"),
        ({"metrics": '{"loss": 1e200}'}, "site-a: metadata metrics.loss"),
        ({"metrics": '{"loss": NaN}'}, "site-a: metadata metrics.loss: Input should be a finite number"),
        ({"metrics": '{"loss": "low"}'}, "site-a: metadata metrics.loss"),
        ({"format_version": "2"}, "site-a: metadata format_version"),
    ],
)
def test_impossible_metadata_are_refused(metadata: dict[str, str], words: str) -> None:
    with pytest.raises(ModelRefused) as refused:
        ModelInfo.read(metadata, "site-a")
    assert words in str(refused.value)


def header(path: Path, text: dict[str, Any], data: bytes) -> Path:
    """A file with that header."""
    said = json.dumps(text).encode()
    path.write_bytes(struct.pack("<Q", len(said)) + said + data)
    return path


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pickle").write_bytes(b"\x80\x04K\x01." * 20)
    with pytest.raises(ModelRefused, match="site-a: not a whole safetensors file"):
        ModelFile(tmp_path / "pickle", name="site-a")
    with pytest.raises(ModelRefused, match="there is no file"):
        ModelFile(tmp_path / "nowhere")
    whole = save(tmp_path / "whole", {"w": np.zeros(8)}).path.read_bytes()
    (tmp_path / "cut").write_bytes(whole[:-1])
    with pytest.raises(ModelRefused, match="not a whole"):
        ModelFile(tmp_path / "cut")
    bf16 = header(tmp_path / "bf16", {"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"\0" * 4)
    with pytest.raises(ModelRefused, match=r"tensor 'w' is BF16 .save it as one of F64"):
        ModelFile(bf16)
    with pytest.raises(ModelRefused, match="tensor 'w' is complex128"):
        save(tmp_path / "complex", {"w": np.zeros(1, complex)})


def test_a_file_that_was_cut_after_it_was_opened_is_noticed(tmp_path: Path) -> None:
    model = save(tmp_path / "model", {"w": np.zeros(8)})
    model.path.write_bytes(model.path.read_bytes()[:-8])
    for read in (model.load, lambda: check(model, model)):
        with pytest.raises(ModelRefused, match="tensor 'w' ends early"):
            read()


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"scale": None}, "site-a: tensor 'scale' is missing"),
        ({"correction/scale": np.zeros(())}, "site-a: tensor 'correction/scale' is not in the global model"),
        ({"dense.weight": np.zeros((4, 3))}, r"site-a: tensor 'dense.weight' is F64\[4, 3\], and in the global model F64\[3, 4\]"),
        ({"dense.bias": np.zeros(4, "f4")}, r"site-a: tensor 'dense.bias' is F32\[4\], and in the global model F64\[4\]"),
        ({"dense.bias": np.array([0, np.nan, 0, 0])}, "site-a: tensor 'dense.bias' holds NaN or infinity"),
        ({"dense.bias": np.array([0, 0, 0, -np.inf])}, "site-a: tensor 'dense.bias' holds NaN or infinity"),
    ],
)
def test_updates_that_do_not_fit_are_refused_by_name(tmp_path: Path, changed: dict[str, Any], words: str) -> None:
    base, arrays = learning.base(tmp_path)
    made = {key: array for key, array in (arrays | changed).items() if array is not None}
    # By safetensors itself: what we write is always finite.
    safetensors.numpy.save_file(made, tmp_path / "update")
    with pytest.raises(ModelRefused, match=words):
        check(ModelFile(tmp_path / "update", name="site-a"), base)


def test_nan_in_a_later_block_is_found_too(tmp_path: Path) -> None:
    base = save(tmp_path / "base", {"w": np.zeros(2 * BLOCK + 5, "f4")})
    bad = np.zeros(2 * BLOCK + 5, "f4")
    bad[-1] = np.nan
    safetensors.numpy.save_file({"w": bad}, tmp_path / "update")
    with pytest.raises(ModelRefused, match="'w' holds NaN"):
        check(ModelFile(tmp_path / "update"), base)


def test_the_distance_is_over_all_tensors_but_integers(tmp_path: Path) -> None:
    base = save(tmp_path / "base", {"a": np.zeros((2, 2)), "b": np.zeros(1, "f4"), "count": np.zeros(1, "i8")})
    update = save(tmp_path / "update", {"a": np.full((2, 2), 2.0), "b": np.full(1, 3, "f4"), "count": np.full(1, 99)})
    assert check(update, base, distance=True) == pytest.approx(5.0)


def test_a_writer_leaves_a_whole_file_or_none(tmp_path: Path) -> None:
    tensors = {"w": Tensor(np.dtype("<f4"), (4,))}
    with (
        pytest.raises(ModelRefused, match="model: tensor 'w' is not finite in F32"),
        ModelWriter(tmp_path / "model", tensors, {}) as writer,
    ):
        writer.write("w", 0, np.array([0.0, 1e300]))
    with pytest.raises(ValueError, match="8 bytes were not written"), ModelWriter(tmp_path / "model", tensors, {}) as writer:
        writer.write("w", 2, np.array([1.0, 2.0]))
    assert list(tmp_path.iterdir()) == []


def test_integers_are_rounded(tmp_path: Path) -> None:
    with ModelWriter(tmp_path / "model", {"n": Tensor(np.dtype("<i8"), (3,))}, {}) as writer:
        writer.write("n", 0, np.array([1.6, -1.6, 2.4]))
    assert ModelFile(tmp_path / "model").load()["n"].tolist() == [2, -2, 2]
