"""A file's type by its content, and how it is shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fdn_worker.release.desk import preview, safe
from fdn_worker.release.kinds import BEGINNING, kind_of

HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
SAFETENSORS = len(HEADER).to_bytes(8, "little") + HEADER + b"\0\0\0\0"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"a,b\n1,2\n", "csv"),
        (b"a;b;c\r\n1;2;3", "csv"),
        (b'\xef\xbb\xbfa\tb\n"x\ty"\t2\n', "csv"),
        (b"a,b\n1,2,3\n", "text"),
        (b"only one column\nof words\n", "text"),
        (b'{"a": [1, 2]}', "json"),
        (b"[" + b"1," * BEGINNING, "json"),
        (b'{"a": [1, 2', "text"),
        (b"[" * 100_000, "text"),
        (b"a,b\n" + b"1,2\n" * BEGINNING, "csv"),
        ("ä".encode() * BEGINNING, "text"),
        (b"x" + "ä".encode() * BEGINNING, "text"),
        (b"\x89PNG\r\n\x1a\n....", "png"),
        (b"\xff\xd8\xff\xe0", "jpeg"),
        (b"%PDF-1.7", "pdf"),
        (b"PK\x03\x04", "zip"),
        (b"\x1f\x8b\x08", "gzip"),
        (b"PAR1", "parquet"),
        (b"\x89HDF\r\n\x1a\n", "hdf5"),
        (b"\x93NUMPY\x01", "numpy"),
        (SAFETENSORS, "safetensors"),
        (SAFETENSORS[:12], "safetensors"),
        (SAFETENSORS[:8] + b"{" * len(HEADER), "binary"),
        (b"12345678{", "text"),
        (b"a,b\n\x001,2\n", "binary"),
        (b"\xffa,b\n", "binary"),
    ],
)  # fmt: skip
def test_kind(tmp_path: Path, content: bytes, kind: str) -> None:
    # Its name says something else.
    (tmp_path / "out.exe").write_bytes(content)
    assert kind_of(tmp_path / "out.exe") == kind


def test_a_file_is_shown_without_harm(tmp_path: Path) -> None:
    file = tmp_path / "out"
    file.write_text("a\tb\u202ec\n" + "x" * 200 + "\n" * 9)
    assert preview(file)[:2] == ["a\\tb\\u202ec", "x" * 120 + " ..."]
    assert preview(file)[-1] == "..."
    file.write_bytes(b"\x1b[2J\x1b]0;title\x07")
    assert preview(file) == ["1b 5b 32 4a 1b 5d 30 3b 74 69 74 6c 65 07"]
    file.write_bytes(bytes(range(256)))
    assert preview(file)[0].endswith(" 1f ...")
    file.unlink()
    assert preview(file) == ["(cannot be read: No such file or directory)"]
    assert safe("out\n\x1b[31m\u2066é\ud800") == "out\\n\\x1b[31m\\u2066é\\ud800"
