"""A part in chunks: taken apart, put together, and every way in which it can come wrong."""

from __future__ import annotations

import hashlib
import io
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdn_worker.errors import MessageError
from fdn_worker.protocol import Chunk
from fdn_worker.protocol.chunk import CHUNK, Assembly, frame, stretches, unframe
from tests.unit.helpers import an_id


def a_part(data: bytes, **changes: object) -> Chunk:
    fields = {"request": an_id(1), "node": "site-a", "run": an_id(2), "attempt": 1, "path": "outputs/a"}
    described = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "offset": 0}
    return Chunk(**fields | described | changes)  # type: ignore[arg-type]


def chunks(data: bytes) -> list[tuple[Chunk, memoryview]]:
    part = a_part(data)
    return [
        (part.model_copy(update={"offset": offset}), memoryview(data)[offset : offset + length]) for offset, length in stretches(len(data))
    ]


@given(st.binary(min_size=1), st.binary())
def test_a_frame_is_read_as_it_was_made(envelope: bytes, data: bytes) -> None:
    assert unframe(frame(envelope, data)) == (envelope, data)


@pytest.mark.parametrize("body", [b"", b"\0\0", b"\0\0\0\0data", b"\0\0\0\x09short", b"\xff\xff\xff\xff{}"])
def test_what_is_no_frame(body: bytes) -> None:
    with pytest.raises(MessageError, match="not a chunk"):
        unframe(body)


@pytest.mark.parametrize(
    ("size", "lengths"), [(0, [0]), (1, [1]), (CHUNK, [CHUNK]), (CHUNK + 1, [CHUNK, 1]), (3 * CHUNK, [CHUNK, CHUNK, CHUNK])]
)
def test_stretches(size: int, lengths: list[int]) -> None:
    assert list(stretches(size)) == [(number * CHUNK, length) for number, length in enumerate(lengths)]


@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * CHUNK + 7])
def test_a_part_in_any_order_and_twice(size: int) -> None:
    data = random.Random(size).randbytes(size)
    some = chunks(data)
    assembly = Assembly(some[0][0], io.BytesIO())
    for chunk, piece in reversed(some[1:]):
        assert not assembly.add(chunk, piece)
        assert not assembly.add(chunk, piece)
    assert assembly.add(*some[0])
    assert assembly.right()
    assert assembly.file.read() == data


def test_a_part_that_is_damaged() -> None:
    data = bytes(CHUNK + 5)
    (first, piece), second = chunks(data)
    assembly = Assembly(first, io.BytesIO())
    assert not assembly.add(*second)
    assert assembly.add(first, memoryview(b"\1" + bytes(piece)[1:]))
    assert not assembly.right()


@pytest.mark.parametrize(("offset", "length"), [(0, CHUNK - 1), (0, CHUNK + 1), (7, CHUNK), (CHUNK, CHUNK), (2 * CHUNK, 5), (2 * CHUNK, 0)])
def test_a_chunk_that_is_no_share_of_its_part(offset: int, length: int) -> None:
    part = a_part(bytes(CHUNK + 5))
    with pytest.raises(MessageError, match="is not its share of a part of 262149"):
        Assembly(part, io.BytesIO()).add(part.model_copy(update={"offset": offset}), memoryview(bytes(length)))


def test_chunks_of_one_part_differ_in_their_offset_alone() -> None:
    part = a_part(b"abc")
    assert part.same_part(part.model_copy(update={"offset": CHUNK}))
    assert not part.same_part(part.model_copy(update={"number": 2}))


def test_no_part_is_bigger_than_the_store_takes() -> None:
    with pytest.raises(ValueError, match="size"):
        a_part(b"", size=5 * 1024**3 + 1)
