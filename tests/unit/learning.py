"""Models for the tests of learning: small, of several dtypes and shapes, drawn from a seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from federation.learning.models import ModelFile, ModelInfo, save

Arrays = dict[str, NDArray[Any]]


def arrays(seed: int, *, dtype: str = "f8") -> Arrays:
    """A matrix, a vector and a scalar."""
    rng = np.random.default_rng(seed)
    return {
        "dense.weight": rng.normal(size=(3, 4)).astype(dtype),
        "dense.bias": rng.normal(size=4).astype(dtype),
        "scale": np.array(rng.normal(), dtype),
    }


def updates(folder: Path, count: int, *, dtype: str = "f8", seed: int = 1) -> list[tuple[ModelFile, Arrays]]:
    """Of clients `c0`, `c1`, ... with different examples and steps: each as a file, and in memory."""
    made = []
    for number in range(count):
        made_of = arrays(seed * 1000 + number, dtype=dtype)
        info = ModelInfo(
            examples=10.0 + 7 * number, steps=1.0 + number % 3, metrics={"loss": 0.5 * number, **({"accuracy": 0.25} if number % 2 else {})}
        )
        save(folder / f"c{number}.safetensors", made_of, info)
        made.append((ModelFile(folder / f"c{number}.safetensors", name=f"c{number}"), made_of))
    return made


def base(folder: Path, *, dtype: str = "f8") -> tuple[ModelFile, Arrays]:
    """The global model."""
    made_of = arrays(0, dtype=dtype)
    return save(folder / "base.safetensors", made_of), made_of


def close(model: ModelFile, expected: Arrays, tolerance: float = 1e-12) -> None:
    """Every tensor is as expected, to `tolerance`, relative and absolute."""
    found = model.load()
    assert found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=tolerance, atol=tolerance, err_msg=key)
