"""Model files: safetensors, read and written a block of coordinates at a time, so that memory does not grow with the model. No pickle.

What an update stands for travels in the file's own metadata (see `ModelInfo`), as strings, so that any language's safetensors can write it.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Annotated, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from fdn_worker.errors import Fault, FdnError

Array = NDArray[np.float64]
#: Coordinates read at once: in float64 (512 KiB) they stay in the processor's cache from the check to the sum.
BLOCK = 1 << 16
#: What can be averaged; a float16 or integer model keeps its dtype, the sums are in float64.
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}
NAMES = {np.dtype(code): name for name, code in DTYPES.items()}

#: A metric's largest value: thousands of them can be added up, each times its examples.
MOST = 1e100


class ModelRefused(FdnError):
    """A model file cannot be taken; says which, which tensor of it, and why."""

    code = "model-refused"
    fault = Fault.USER


class ModelInfo(BaseModel):
    """What a model file says of itself."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    format_version: Literal[1] = 1
    #: Examples that a client trained on.
    examples: float | None = Field(None, gt=0, le=1e15)
    #: Local steps that it took: batches, over all epochs.
    steps: float | None = Field(None, ge=1, le=1e15)
    metrics: dict[str, Annotated[float, Field(ge=-MOST, le=MOST)]] = {}
    #: Id of the model that training began with.
    parent: str = ""

    @classmethod
    def read(cls, metadata: Mapping[str, str], name: str) -> Self:
        """From a file's metadata; other keys (safetensors' own `format`, say) are nobody's business."""
        known = {key: value for key, value in metadata.items() if key in cls.model_fields}
        try:
            return cls.model_validate({key: value if key == "parent" else json.loads(value) for key, value in known.items()})
        except json.JSONDecodeError as error:
            raise ModelRefused(
                f"{name}: its metadata are not JSON: {error.msg} in {error.doc!r}", remedy="see reference/learning.md"
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ModelRefused(f"{name}: metadata {where}: {first['msg']} (it says {first['input']!r})") from error

    def metadata(self) -> dict[str, str]:
        """The inverse of `read`."""
        said = self.model_dump(exclude_defaults=True) | {"format_version": self.format_version}
        return {key: value if key == "parent" else json.dumps(value) for key, value in said.items()}


@dataclass(frozen=True)
class Tensor:
    """Dtype and shape of one tensor."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Its coordinates."""
        return prod(self.shape)

    @property
    def floating(self) -> bool:
        """Whether it is learned; integers (a count of batches, say) are only averaged."""
        return self.dtype.kind == "f"

    def blocks(self, size: int = BLOCK) -> Iterator[slice]:
        """Its coordinates, a slice of at most `size` at a time."""
        for start in range(0, self.count, size):
            yield slice(start, min(start + size, self.count))

    def __str__(self) -> str:
        return f"{NAMES[self.dtype]}{list(self.shape)}"


class ModelFile:
    """A safetensors file. `name` is what errors call it, a client's name say; `tensors` stand in the order of the file.

    Raises ModelRefused when it is no such file, or holds a dtype that cannot be averaged.
    """

    def __init__(self, path: Path, name: str | None = None) -> None:
        self.path = path
        self.name = name or path.name
        self.tensors: dict[str, Tensor] = {}
        try:
            with safe_open(path, framework="numpy") as file:
                self.metadata: dict[str, str] = file.metadata() or {}
                for key in file.offset_keys():
                    self.tensors[key] = self._tensor(key, file.get_slice(key))
        except FileNotFoundError as error:
            raise ModelRefused(f"{self.name}: there is no file {path}") from error
        except (SafetensorError, OSError) as error:
            raise ModelRefused(f"{self.name}: not a whole safetensors file: {error}") from error
        self.info = ModelInfo.read(self.metadata, self.name)
        # safe_open has seen to it that tensors follow each other without gaps up to the file's end.
        place = path.stat().st_size - sum(tensor.count * tensor.dtype.itemsize for tensor in self.tensors.values())
        self._places: dict[str, int] = {}
        for key, tensor in self.tensors.items():
            self._places[key] = place
            place += tensor.count * tensor.dtype.itemsize

    def _tensor(self, key: str, found: Any) -> Tensor:
        if found.get_dtype() not in DTYPES:
            raise ModelRefused(f"{self.name}: tensor {key!r} is {found.get_dtype()}", remedy=f"save it as one of {', '.join(DTYPES)}")
        return Tensor(np.dtype(DTYPES[found.get_dtype()]), tuple(found.get_shape()))

    def read(self, key: str, part: slice) -> NDArray[Any]:
        """Those coordinates of a tensor, flat, in its own dtype."""
        tensor = self.tensors[key]
        count = part.stop - part.start
        found = np.fromfile(self.path, tensor.dtype, count, offset=self._places[key] + part.start * tensor.dtype.itemsize)
        if len(found) != count:
            raise self._cut(key)
        return found

    def _cut(self, key: str) -> ModelRefused:
        return ModelRefused(f"{self.name}: tensor {key!r} ends early: the file has been cut since it was opened")

    def blocks(self, key: str) -> Iterator[tuple[slice, NDArray[Any]]]:
        """All coordinates of a tensor, block by block, each in the same array: what is to outlast the next one has to be copied."""
        tensor = self.tensors[key]
        buffer = np.empty(min(BLOCK, tensor.count), tensor.dtype)
        with self.path.open("rb", buffering=0) as file:
            file.seek(self._places[key])
            for part in tensor.blocks():
                block = buffer[: part.stop - part.start]
                if file.readinto(block.data.cast("B")) != block.nbytes:
                    raise self._cut(key)
                yield part, block

    def wide(self, key: str, part: slice) -> Array:
        """The same in float64."""
        return self.read(key, part).astype(np.float64)

    def load(self) -> dict[str, NDArray[Any]]:
        """All tensors, in memory."""
        return {key: self.read(key, slice(0, tensor.count)).reshape(tensor.shape) for key, tensor in self.tensors.items()}


def check(update: ModelFile, base: ModelFile, *, distance: bool = False) -> float:
    """Refuse an update that does not fit the global model, or holds NaN or infinity. With `distance`: its Euclidean distance from it."""
    if missing := sorted(base.tensors.keys() - update.tensors.keys()):
        raise ModelRefused(f"{update.name}: tensor {missing[0]!r} is missing")
    if further := sorted(update.tensors.keys() - base.tensors.keys()):
        raise ModelRefused(f"{update.name}: tensor {further[0]!r} is not in the global model")
    for key, tensor in update.tensors.items():
        if tensor != base.tensors[key]:
            raise ModelRefused(f"{update.name}: tensor {key!r} is {tensor}, and in the global model {base.tensors[key]}")
    square = 0.0
    for key, tensor in update.tensors.items():
        if not tensor.floating:
            continue
        for part, block in update.blocks(key):
            # Both propagate NaN, and neither makes an array.
            if not (np.isfinite(block.min()) and np.isfinite(block.max())):
                raise ModelRefused(f"{update.name}: tensor {key!r} holds NaN or infinity", remedy="a smaller learning rate, or other data")
            if distance:
                apart = block.astype(np.float64) - base.read(key, part)
                square += float(apart @ apart)
    return float(np.sqrt(square))


class ModelWriter:
    """Writes a model file block by block, in any order. The file is there when the `with` ends well, whole, or not at all."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        end = 0
        self._tensors, self._starts = dict(tensors), {}
        for key, tensor in tensors.items():
            self._starts[key], end = end, end + tensor.count * tensor.dtype.itemsize
            header[key] = {"dtype": NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": (self._starts[key], end)}
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._head = struct.pack("<Q", len(text)) + text
        self._left = end
        self._path, self._part = path, path.with_name(f"{path.name}.part")

    def __enter__(self) -> Self:
        self._file = self._part.open("wb")
        self._file.write(self._head)
        return self

    def write(self, key: str, start: int, block: Array) -> None:
        """Coordinates of a tensor from `start` on, rounded to its dtype. Raises ModelRefused where that is no finite number."""
        tensor = self._tensors[key]
        if tensor.floating:
            with np.errstate(over="ignore"):
                cast = block.astype(tensor.dtype)
            if not np.isfinite(cast).all():
                raise ModelRefused(
                    f"{self._path.name}: tensor {key!r} is not finite in {NAMES[tensor.dtype]}",
                    remedy="the training diverges: a smaller learning rate",
                )
        else:
            cast = np.rint(block).astype(tensor.dtype)
        self._file.seek(len(self._head) + self._starts[key] + start * tensor.dtype.itemsize)
        self._file.write(cast.data)
        self._left -= cast.nbytes

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        with self._file:
            if kind is None and not self._left:
                self._file.flush()
                os.fsync(self._file.fileno())
        if kind is None and not self._left:
            self._part.replace(self._path)
            return
        self._part.unlink()
        if kind is None:
            raise ValueError(f"{self._path}: {self._left} bytes were not written")


def save(path: Path, arrays: Mapping[str, NDArray[Any]], info: ModelInfo | None = None) -> ModelFile:
    """A model that is in memory, as a file."""
    for key, array in arrays.items():
        if array.dtype not in NAMES:
            raise ModelRefused(f"{path.name}: tensor {key!r} is {array.dtype}", remedy=f"make it one of {', '.join(DTYPES)}")
    tensors = {key: Tensor(array.dtype, array.shape) for key, array in arrays.items()}
    with ModelWriter(path, tensors, (info or ModelInfo()).metadata()) as writer:
        for key, array in arrays.items():
            writer.write(key, 0, array.reshape(-1))
    return ModelFile(path)
