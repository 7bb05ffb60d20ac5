"""Keys of objects: spelt in one place, never climbing, and what every store takes."""

from __future__ import annotations

from uuid import UUID

import pytest

from fdn_worker.protocol.names import NameRefused
from storage import keys
from storage.objects.checks import LONGEST_KEY, LONGEST_KEY_PART, check_key

EXECUTION = UUID("6f1d1b9e-3f0a-5b52-9d1c-52c1f1f0a7d4")


def test_keys_stand_below_their_prefixes() -> None:
    attempt = f"executions/{EXECUTION}/mean/site-a/2/"
    assert keys.attempt_prefix(EXECUTION, "mean", "site-a", 2) == attempt
    assert keys.attempt_key(EXECUTION, "mean", "site-a", 2, "outputs/a b/ü.csv") == attempt + "outputs/a b/ü.csv"
    assert keys.input_key(EXECUTION, "mean", "sub/x.csv") == f"executions/{EXECUTION}/mean/inputs./sub/x.csv"
    assert attempt.startswith(keys.task_prefix(EXECUTION, "mean"))


def test_an_attempts_prefix_is_no_others() -> None:
    """With the closing slash attempt 1 does not cover attempt 10, nor site-a site-ab."""
    assert not keys.attempt_prefix(EXECUTION, "mean", "site-a", 10).startswith(keys.attempt_prefix(EXECUTION, "mean", "site-a", 1))
    assert not keys.attempt_prefix(EXECUTION, "mean", "site-ab", 1).startswith(keys.task_prefix(EXECUTION, "mean") + "site-a/")


def test_no_node_can_be_named_as_the_inputs() -> None:
    folder = keys.input_key(EXECUTION, "mean", "x").split("/")[3]
    with pytest.raises(NameRefused):
        keys.attempt_prefix(EXECUTION, "mean", folder, 1)


@pytest.mark.parametrize("path", ["../x", "a/../b", "/etc/passwd", "", "a//b", "./a", "a/", "a\nb", "a\x00b"])
def test_a_path_that_climbs_or_is_odd_is_refused(path: str) -> None:
    with pytest.raises(ValueError):
        keys.attempt_key(EXECUTION, "mean", "site-a", 1, path)
    with pytest.raises(ValueError):
        keys.input_key(EXECUTION, "mean", path)
    with pytest.raises(NameRefused, match="cannot be an object's key"):
        check_key(path)


@pytest.mark.parametrize(("task", "node"), [("Mean", "a"), ("mean", "A"), ("me.an", "a"), ("mean", "a/b"), ("", "a")])
def test_ids_that_are_not_ids_are_refused(task: str, node: str) -> None:
    with pytest.raises(NameRefused):
        keys.attempt_prefix(EXECUTION, task, node, 1)


def test_the_longest_key_is_counted_in_bytes() -> None:
    assert check_key("ü" * (LONGEST_KEY_PART // 2)) == "ü" * (LONGEST_KEY_PART // 2)
    assert check_key("ab/" * 341 + "c") == "ab/" * 341 + "c"
    for key in ("ü" * (LONGEST_KEY_PART // 2 + 1), "a" * (LONGEST_KEY_PART + 1), "ab/" * (LONGEST_KEY // 3) + "cd"):
        with pytest.raises(NameRefused, match="too long"):
            check_key(key)


def test_a_name_that_is_no_unicode_is_refused() -> None:
    """Such names come of files whose names are not UTF-8."""
    with pytest.raises(NameRefused):
        check_key("a\udcff")
