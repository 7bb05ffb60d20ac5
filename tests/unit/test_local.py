"""A federation on this machine: its settings files are what the worker reads."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fdn_worker.settings import load
from federation.local import LocalFederation, toml

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
values = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False) | text
tables = st.recursive(
    st.dictionaries(text, values | st.lists(values, max_size=3), max_size=3), lambda inner: st.dictionaries(text, values | inner, max_size=3), max_leaves=5
)  # fmt: skip


@given(tables)
def test_toml_is_read_as_it_was_written(settings: dict[str, Any]) -> None:
    assert tomllib.loads(toml(settings)) == settings


def test_paths_of_any_script() -> None:
    assert tomllib.loads(toml({"a": {"b.c": "/home/é/\U0001f600 \x7f\\\"'\n"}})) == {"a": {"b.c": "/home/é/\U0001f600 \x7f\\\"'\n"}}


def test_the_workers_read_what_is_prepared(tmp_path: Path) -> None:
    (tmp_path / "data/é").mkdir(parents=True)
    federation = LocalFederation(
        tmp_path / "fem", ("site-a", "site-b"), datasets={"site-a": {"census": tmp_path / "data/é"}}, options={"slots": 5, "limits": {"log_lines": 7}}
    )  # fmt: skip
    for _ in range(2):
        federation.prepare()
    found = load(federation.settings_file("site-a"))
    assert (found.node, found.slots, found.limits.log_lines, found.limits.disk_reserve) == ("site-a", 5, 7, 0)
    assert found.datasets == {"census": tmp_path / "data/é"}
    assert found.data_roots == (tmp_path / "data",)
    assert (found.embedded, found.transfer.allow_file, found.allowed_launchers) == (True, True, ("process",))
    assert load(federation.settings_file("site-b")).datasets == {}
    assert federation.settings_file("site-a").stat().st_mode & 0o077 == 0
    assert federation.environment() == {"FEM_HOME": str(tmp_path / "fem")}
    assert federation.settings().embedded
