"""Patterns of outputs, against what they are said to mean."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fdn_worker.globs import Glob

CASES = {
    "out.csv": (["out.csv"], ["out.csvx", "xout.csv", "outxcsv", "a/out.csv"]),
    "*": (["a", ".a", "a\nb", "a*"], ["a/b"]),
    "*.csv": ([".csv", "a.csv", "a.b.csv"], ["a/b.csv", "a.csv.gz"]),
    "?": (["a", "é", "\n"], ["", "ab", "/"]),
    "a?c": (["abc", "a?c"], ["ac", "a/c", "abbc"]),
    "a/*": (["a/b", "a/"], ["a", "a/b/c", "b/a"]),
    "**": (["a", "a/b", "a/b/c", "a\nb/c"], []),
    "a/**": (["a/b", "a/b/c"], ["a", "ab", "b/a/c"]),
    "**/x": (["x", "a/x", "a/b/x"], ["ax", "a/bx", "x/a", "a/x/b"]),
    "a/**/x": (["a/x", "a/b/x", "a/b/c/x"], ["ax", "a/bx", "x"]),
    "**/*.csv": (["a.csv", "b/a.csv", "c/b/.csv"], ["a.csv/b"]),
    "**/a/**/b*": (["a/b", "x/a/y/z/bc"], ["a", "ab", "a/c"]),
    "[a-c].x": (["[a-c].x"], ["a.x"]),
    "a.{b,c}\\+$^": (["a.{b,c}\\+$^"], ["a.b"]),
    "": ([""], ["a"]),
}


@pytest.mark.parametrize("pattern", CASES)
def test_what_a_pattern_matches(pattern: str) -> None:
    matched, missed = CASES[pattern]
    glob = Glob(pattern)
    assert [path for path in matched + missed if glob.matches(path)] == matched


def brute(pattern: str, path: str) -> bool:
    """The same by trying everything."""
    if not pattern:
        return not path
    if pattern.startswith("**/") and any(
        brute(pattern[3:], path[cut:]) for cut in [0, *(at + 1 for at, character in enumerate(path) if character == "/")]
    ):
        return True
    if pattern.startswith("**"):
        return not pattern.startswith("**/") and any(brute(pattern[2:], path[cut:]) for cut in range(len(path) + 1))
    if pattern[0] == "*":
        longest = len(path.partition("/")[0])
        return any(brute(pattern[1:], path[cut:]) for cut in range(longest + 1))
    if not path:
        return False
    return (path[0] == pattern[0] or (pattern[0] == "?" and path[0] != "/")) and brute(pattern[1:], path[1:])


@settings(max_examples=250)
@given(st.lists(st.sampled_from(["a", "b", "ab", "/", "*", "?", "**", "**/"]), max_size=7).map("".join), st.text("ab/", max_size=8))
def test_against_brute_force(pattern: str, path: str) -> None:
    assert Glob(pattern).matches(path) is brute(pattern, path)


@given(st.text(st.characters(exclude_characters="*?"), max_size=20), st.text(max_size=20))
def test_a_pattern_without_wildcards_is_itself(pattern: str, path: str) -> None:
    assert Glob(pattern).matches(pattern)
    assert Glob(pattern).matches(path) is (pattern == path)


@given(st.text("ab/.", max_size=12))
def test_one_star_is_what_a_regular_expression_says(path: str) -> None:
    assert Glob("a*/b").matches(path) is bool(re.fullmatch(r"a[^/]*/b", path))


@pytest.mark.parametrize("pattern", ["*a" * 40 + "b", "**/" * 60 + "b", "**a" * 60 + "b", "*" * 200 + "b"])
def test_no_pattern_keeps_the_worker_busy(pattern: str) -> None:
    """A regular expression would need longer than the universe stands."""
    began = time.process_time()
    assert not Glob(pattern).matches("a/" * 1000 + "a" * 200)
    assert time.process_time() - began < 1.0
