"""Docker's log stream, taken apart."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fdn_worker.errors import LauncherUnavailable
from fdn_worker.launchers.docker_logs import lines, since

PART = b"x" * 16384


def frame(kind: int, second: int, text: bytes) -> bytes:
    payload = f"2026-01-01T00:00:{second:02}.000000001Z ".encode() + text
    return bytes((kind, 0, 0, 0)) + len(payload).to_bytes(4, "big") + payload


def cut(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 7, 8, 100, 10**6])
def test_however_the_chunks_are_cut(size: int) -> None:
    data = frame(1, 1, b"one\n") + frame(2, 2, b"\n") + frame(1, 3, b"three")
    found = list(lines(cut(data, size), ""))
    assert [line.text for line in found] == ["one", "", "three"]
    assert [line.cursor[17:19] for line in found] == ["01", "02", "03"]


@pytest.mark.parametrize("end", [b"y\n", b"y", b"", b"\n"])
def test_parts_are_joined_though_another_stream_comes_between(end: bytes) -> None:
    data = frame(1, 1, PART) + frame(2, 2, b"error\n") + frame(1, 1, PART) + frame(1, 1, end) + frame(1, 3, b"next\n")
    found = list(lines([data], ""))
    assert [line.text for line in found] == ["error", "x" * 32768 + end.decode().strip(), "next"]
    assert [line.cursor for line in found] == sorted(line.cursor for line in found)


def test_resumed_after_a_cursor() -> None:
    data = frame(1, 1, b"one\n") + frame(1, 2, PART) + frame(1, 2, b"y\n") + frame(1, 3, b"three\n")
    found = list(lines([data], ""))
    assert list(lines([data], found[0].cursor)) == found[1:]
    assert list(lines([data], found[1].cursor)) == found[2:]
    assert list(lines([data], found[2].cursor)) == []


def test_the_daemons_own_error_is_not_the_tasks_output() -> None:
    with pytest.raises(LauncherUnavailable, match="log file is corrupt"):
        list(lines([frame(3, 1, b"log file is corrupt\n")], ""))


def test_since_keeps_nanoseconds() -> None:
    assert since("1970-01-02T00:00:00.000000001Z") == "86400.000000001"
    assert since("") == "0"
