"""The Markdown artifact of a federated task."""

from __future__ import annotations

from typing import Any

import pytest

from fdn_worker.errors import Fault
from fdn_worker.protocol import Reason, Release, Report, State, Usage
from federation.results import OutputFile, Stage, TaskResult
from flows.report import human, markdown
from tests.unit.helpers import EXECUTION, MOMENT, SHA, an_id


def result(**changes: Any) -> TaskResult:
    fields: dict[str, Any] = {
        "execution": EXECUTION, "run": an_id(1), "task": "main", "node": "site-a", "attempt": 2, "state": State.SUCCEEDED,
        "report": Report(launcher="docker", image_digest="sha256:1", exit_code=0, bytes_in=2048, bytes_out=3,
                         usage=Usage(cpu_seconds=1.234, peak_memory=5 * 1024**2)),
        "files": (OutputFile(path="outputs/a.csv", key="k/outputs/a.csv", size=3, sha256=SHA),),
        "stages": (Stage(state=State.RUNNING, since=MOMENT, seconds=1.5), Stage(state=State.SUCCEEDED, since=MOMENT, seconds=0.0)),
        "tail": ("one", "two"),
    }  # fmt: skip
    return TaskResult(**fields | changes)


LINKS = {"outputs/a.csv": "file:///store/a.csv"}


def test_all_of_it_is_told() -> None:
    text = markdown(result(), LINKS)
    for words in (
        "# SUCCEEDED at site-a", f"Execution `{EXECUTION}`, run `{an_id(1)}`, attempt 2.", "| RUNNING | 2030-01-02 03:04:05 | 1.50 |",
        "| 0 | 1.23 | 5.0 MiB | 2.0 KiB | 3 B | docker | `sha256:1` |", "(file:///store/a.csv) | 3 B | `aaaaaaaaaaaaaaaa…` |",
        f"`fem download {EXECUTION}`", "```\none\ntwo\n```",
    ):  # fmt: skip
        assert words in text
    assert "estimated" not in text


def test_a_failure_is_told_with_its_reason() -> None:
    reason = Reason(code="exit-code", fault=Fault.USER, message="the task ended with exit code 3")
    text = markdown(result(state=State.FAILED, reason=reason, files=(), tail=(), report=Report(usage=Usage(estimated=True))), {})
    assert "**exit-code** (user): the task ended with exit code 3" in text
    assert "(estimated)" in text
    assert "```" not in text
    assert "SHA-256" not in text


def test_who_let_it_go_is_told() -> None:
    release = Release(verdict="partly", rules=("tables",), person="<eve>", at=MOMENT, withheld=2)
    done = result(report=Report(release=release))
    assert "Release: partly by tables&#44; &#60;eve&#62;; files that stay at the site: 2." in markdown(done, LINKS)
    assert done.explain() == "site-a: SUCCEEDED, 1 output, 2 files withheld by the site"
    assert "Release" not in markdown(result(report=Report(release=Release(verdict="released", rules=("default",), at=MOMENT))), LINKS)


def test_nothing_that_a_site_says_breaks_the_page() -> None:
    """Neither a fence in the log nor a name with the table's own characters."""
    odd = "outputs/a|b](x)<script>.csv"
    files = (OutputFile(path=odd, key="k", size=1, sha256=SHA),)
    text = markdown(result(files=files, tail=("```", "# heading ```")), {odd: "file:///x"})
    assert text.count("```") == 2
    row = next(line for line in text.splitlines() if "file:///x" in line)
    assert row.replace("\\|", "").count("|") == 4
    assert "<script>" not in text


@pytest.mark.parametrize(
    ("size", "said"),
    [(0, "0 B"), (1023, "1,023 B"), (1024, "1.0 KiB"), (5 * 1024**2, "5.0 MiB"), (1024**3, "1.0 GiB"), (2500 * 1024**4, "2,500.0 TiB")],
)
def test_bytes_for_people(size: int, said: str) -> None:
    assert human(size) == said
