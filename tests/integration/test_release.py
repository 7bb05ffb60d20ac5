"""The airlock at a real worker: what an attempt left waits, over restarts, until a person, the time or a cancel ends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.errors import Fault
from fdn_worker.protocol import Manifest, State, now, unpack
from fdn_worker.release.desk import login
from federation.centre import Submission
from federation.local import LocalFederation
from federation.results import TaskResult
from storage.keys import attempt_key, attempt_prefix
from tests.support.rig import Rig, rig
from tests.support.waiting import SOON, eventually
from tests.unit.helpers import OPEN

NODE = "site"
RULES = [
    {"id": "never", "action": "deny", "files": ["raw/**"]},
    {"id": "small-texts", "action": "auto", "kinds": ["text"], "max_size": 20},
    {"id": "tables", "action": "check", "kinds": ["csv"], "checks": {"csv": {"min_count": 10, "count_columns": ["n"]}}},
]
#: A table with a small cell, and a note that no rule holds back.
TASK = 'echo x >> "$1"; echo spoken; echo group,n > table.csv; echo a,3 >> table.csv; echo a note > note.txt'


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    options = {"slots": 1, "logs": "after-release", "release": {"rules": RULES}}
    with rig(LocalFederation(tmp_path_factory.mktemp("release"), (NODE,), options=options)) as made:
        made.start(NODE)
        yield made


def send(house: Rig, count: Path, script: str = TASK, outputs: tuple[str, ...] = ("*.*",), **fields: Any) -> Submission:
    return house.send(NODE, "/bin/sh", "-c", script, "sh", str(count), outputs=outputs, **fields)


@pytest.fixture
def count(tmp_path: Path) -> Path:
    """Gets a line for each time that the task is executed."""
    return tmp_path / "count"


@pytest.fixture
def waiting(house: Rig, count: Path) -> Submission:
    submission = send(house, count)
    house.reach(submission, State.AWAITING_RELEASE)
    return submission


def say(house: Rig, submission: Submission, *words: str) -> str:
    done = house.command(NODE, "release", str(submission.run)[:13], *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def left_the_site(house: Rig, submission: Submission) -> list[str]:
    """What the store has of the attempt."""
    prefix = attempt_prefix(submission.execution, submission.task, submission.node, submission.attempt)
    return sorted(info.key.removeprefix(prefix) for info in house.centre.store.list(prefix))


def manifest(house: Rig, submission: Submission) -> Manifest:
    key = attempt_key(submission.execution, submission.task, submission.node, submission.attempt, "manifest.json")
    message, _ = unpack(b"".join(house.centre.store.get(key)), OPEN)
    assert isinstance(message, Manifest)
    return message


def end(house: Rig, submission: Submission, count: Path | None = None) -> TaskResult:
    result = house.result(submission)
    house.check_told_once(submission)
    assert [line for event in house.history(submission) for line in event.lines] == []
    if count is not None:
        assert count.read_text() == "x\n"
    house.check_clean(NODE)
    return result


def audited(house: Rig, submission: Submission) -> dict[str, Any]:
    """The decision, as the site's audit log has it."""
    command = [sys.executable, "-m", "fdn_worker", "audit", "show", "--settings", str(house.federation.settings_file(NODE)), "--json"]
    shown = subprocess.run(
        [*command, "--kind", "release", "--run", str(submission.run)], capture_output=True, text=True, timeout=SOON, check=True
    )
    entry = json.loads(shown.stdout)  # one line, and no more
    what: dict[str, Any] = entry["what"]
    return what


def reason(result: TaskResult) -> tuple[State, str, Fault, str]:
    assert result.reason is not None, result.state
    return result.state, result.reason.code, result.reason.fault, result.reason.message


def test_it_waits_with_no_slot_until_it_is_released(house: Rig, waiting: Submission, count: Path) -> None:
    assert left_the_site(house, waiting) == []
    assert not house.launcher(NODE).names(NODE)
    assert house.result(house.send(NODE, "/bin/true")).state is State.SUCCEEDED, "its slot is another's"
    assert house.centre.attempt(waiting.run, 1).state is State.AWAITING_RELEASE
    assert "2 of 2 files may leave" in say(house, waiting, "--yes", "--why", "fine")
    result = end(house, waiting, count)
    assert result.state is State.SUCCEEDED, result.explain()
    assert left_the_site(house, waiting) == ["logs/run.log", "manifest.json", "outputs/note.txt", "outputs/table.csv"]
    said = manifest(house, waiting).release
    assert said is not None
    assert said == result.report.release
    assert (said.verdict, said.rules, said.person, said.why, said.withheld) == ("released", ("small-texts",), login(), "fine", 0)
    assert (entry := audited(house, waiting))["person"] == login()
    assert entry["files"] == {file.path: file.sha256 for file in result.files}
    assert [stage.state for stage in result.stages][-2:] == [State.AWAITING_RELEASE, State.SUCCEEDED]


def test_what_the_rules_let_go_does_not_wait(house: Rig, count: Path) -> None:
    script = 'echo x >> "$1"; echo group,n > table.csv; echo a,30 >> table.csv; echo a note > note.txt'
    submission = send(house, count, script)
    result = end(house, submission, count)
    assert result.state is State.SUCCEEDED, result.explain()
    assert left_the_site(house, submission) == ["manifest.json", "outputs/note.txt", "outputs/table.csv"]
    said = manifest(house, submission).release
    assert said is not None
    assert (said.verdict, said.rules, said.person, said.withheld) == ("released", ("small-texts", "tables"), "", 0)


def test_it_waits_over_restarts_and_a_word_is_taken_without_a_worker(house: Rig, waiting: Submission, count: Path) -> None:
    house.kill(NODE)
    house.start(NODE)
    house.kill(NODE)
    assert "once the worker is started" in say(house, waiting, "--yes")
    assert left_the_site(house, waiting) == []
    house.start(NODE)
    assert end(house, waiting, count).state is State.SUCCEEDED


def test_denial(house: Rig, waiting: Submission, count: Path) -> None:
    say(house, waiting, "--deny", "--why", "cells below 10")
    result = end(house, waiting, count)
    assert reason(result) == (State.FAILED, "release-denied", Fault.POLICY, "the site does not let the outputs leave: cells below 10")
    assert left_the_site(house, waiting) == []
    assert result.report.release is not None
    assert (result.report.release.verdict, result.report.release.withheld, result.report.bytes_out) == ("denied", 3, 0)
    entry = audited(house, waiting)
    assert (entry["verdict"], entry["why"], "files" in entry) == ("denied", "cells below 10", False)


def test_some_of_it(house: Rig, waiting: Submission, count: Path) -> None:
    say(house, waiting, "--file", "outputs/*.csv")
    result = end(house, waiting, count)
    assert left_the_site(house, waiting) == ["manifest.json", "outputs/note.txt", "outputs/table.csv"]
    said = manifest(house, waiting)
    assert said.release is not None
    assert ([file.path for file in said.files], said.release.verdict, said.release.withheld) == (
        ["outputs/note.txt", "outputs/table.csv"], "partly", 1,
    )  # fmt: skip
    assert result.explain() == f"{NODE}: SUCCEEDED, 2 outputs, 1 file withheld by the site"


def test_what_a_rule_keeps_is_not_a_persons_to_give(house: Rig, count: Path) -> None:
    submission = send(
        house, count, 'echo x >> "$1"; mkdir raw; echo secret > raw/a; echo b > b.bin; printf "\\1" >> b.bin', ("raw/**", "*.bin")
    )
    house.reach(submission, State.AWAITING_RELEASE)
    done = house.command(NODE, "release", str(submission.run), "--file", "outputs/raw/a")
    assert (done.returncode, "no file that waits matches" in done.stderr) == (2, True)
    say(house, submission, "--yes")
    result = end(house, submission, count)
    assert left_the_site(house, submission) == ["manifest.json", "outputs/b.bin"]
    assert "raw" not in manifest(house, submission).model_dump_json()
    assert result.report.release is not None
    assert result.report.release.withheld == 1


def test_nobody_speaks_in_time(house: Rig, count: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(house.centre, "settings", house.centre.settings.model_copy(update={"release": 0.5}))
    submission = send(house, count, deadline=now() + timedelta(seconds=8))
    house.reach(submission, State.AWAITING_RELEASE)
    result = end(house, submission, count)
    assert reason(result)[:3] == (State.FAILED, "unreleased", Fault.POLICY)
    assert left_the_site(house, submission) == []
    done = house.command(NODE, "release", str(submission.run), "--yes")
    assert (done.returncode, "waits for its release" in done.stderr) == (2, True)


@pytest.mark.parametrize("alive", [True, False])
def test_a_cancel_while_it_waits(house: Rig, waiting: Submission, count: Path, alive: bool) -> None:
    if not alive:
        house.kill(NODE)
    house.centre.cancel(waiting.execution, "a test")
    if not alive:
        house.start(NODE)
    result = end(house, waiting, count)
    assert (result.state, left_the_site(house, waiting)) == (State.CANCELLED, [])


@pytest.mark.parametrize("word", ["--yes", "--deny"])
def test_a_failure_waits_for_its_log_and_stays_a_failure(house: Rig, count: Path, word: str) -> None:
    submission = send(house, count, 'echo x >> "$1"; printf "what was said, at some length"; echo half > table.csv; exit 3')
    house.reach(submission, State.AWAITING_RELEASE)
    say(house, submission, word)
    result = end(house, submission, count)
    assert reason(result)[:3] == (State.FAILED, "exit-code", Fault.USER)
    assert left_the_site(house, submission) == (["logs/run.log", "manifest.json"] if word == "--yes" else [])


def test_the_name_of_what_is_refused_is_told_nobody(house: Rig, count: Path) -> None:
    submission = send(house, count, 'echo x >> "$1"; ln -s /etc/hostname marker-4711', ("*",))
    state, code, _, message = reason(end(house, submission, count))
    assert (state, code) == (State.FAILED, "output-refused")
    assert "4711" not in message
    assert "marker-4711" in house.log(NODE)


def test_a_file_that_changes_while_it_waits_stays(house: Rig, waiting: Submission, count: Path) -> None:
    with (house.folder(waiting) / "sandbox/table.csv").open("a") as table:
        table.write("b,1\n")
    say(house, waiting, "--yes")
    assert reason(end(house, waiting, count))[:3] == (State.FAILED, "output-changed", Fault.INFRASTRUCTURE)
    assert left_the_site(house, waiting) == []


def test_a_worker_that_is_drained_does_not_wait_for_a_person(house: Rig, waiting: Submission, count: Path) -> None:
    process = house.federation.workers[NODE]
    assert house.command(NODE, "drain", "--exit").returncode == 0
    eventually("the worker has ended", lambda: process.poll() == 0)
    house.federation.workers.pop(NODE)
    house.start(NODE)
    say(house, waiting, "--yes")
    assert end(house, waiting, count).state is State.SUCCEEDED


def test_at_a_terminal_it_asks_for_each_file(house: Rig, waiting: Submission, count: Path) -> None:
    here, there = os.openpty()
    command = [sys.executable, "-m", "fdn_worker", "release", str(waiting.run), "--settings", str(house.federation.settings_file(NODE))]
    os.write(here, b"n\ny\n")
    done = subprocess.run(command, stdin=there, capture_output=True, text=True, timeout=SOON, check=True)
    os.close(here)
    os.close(there)
    assert "let logs/run.log leave? [y/N]: let outputs/table.csv leave? [y/N]: 1 of 2 files may leave" in done.stdout
    assert end(house, waiting, count).state is State.SUCCEEDED
    assert left_the_site(house, waiting) == ["manifest.json", "outputs/note.txt", "outputs/table.csv"]


def test_what_is_shown(house: Rig, count: Path) -> None:
    submission = send(
        house, count, 'echo x >> "$1"; { echo group,n; printf "=cmd,3\\n"; } > table.csv; printf "\\1\\2" > c.bin', user="ada", tool="mean"
    )
    house.reach(submission, State.AWAITING_RELEASE)
    listed = house.command(NODE, "release").stdout
    assert [word for word in (str(submission.run)[:8], "mean", "ada", "2 of 2") if word not in listed] == []
    (row,) = json.loads(house.command(NODE, "release", "--json").stdout)
    assert (row["run"], row["tool"], row["user"], row["attempt"]) == (str(submission.run), "mean", "ada", 1)
    assert row["since"] < row["until"]
    assert {file["path"]: (file["size"], file["kind"], file["action"], file["rule"]) for file in row["files"]} == {
        "outputs/table.csv": (15, "csv", "hold", "tables"), "outputs/c.bin": (2, "binary", "hold", "default"),
    }  # fmt: skip
    shown = say(house, submission)
    assert "outputs/table.csv: 15 bytes, csv; waits by rule tables" in shown
    assert "  ! csv: column 'n' has counts below 10: row 1\n" in shown
    assert "  ! csv: column 'group' has a cell that a spreadsheet takes for a formula: row 1\n" in shown
    assert "  | group,n\n  | =cmd,3\n" in shown
    assert "  | 01 02\n" in shown
    assert "nothing was decided" in shown
    status = json.loads(house.command(NODE, "status", "--json").stdout)
    assert (status["awaiting_release"], status["unfinished"]) == (1, 1)
    assert house.command(NODE, "release", "ffffffff-").returncode == 2
    assert house.command(NODE, "release", str(submission.run), "--yes", "--deny").returncode == 2
    assert left_the_site(house, submission) == []
    assert json.loads(house.command(NODE, "release", str(submission.run), "--json", "--deny", "--by", "eve").stdout)["user"] == "ada"
    result = end(house, submission, count)
    assert result.report.release is not None
    assert result.report.release.person == "eve"
    assert house.command(NODE, "release").stdout == "nothing waits\n"
