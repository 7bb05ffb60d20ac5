"""What a worker keeps at its site, and what it looks at before a task starts: sandboxes, shelves, checks, site variables."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.errors import Fault
from fdn_worker.protocol import Mount, Move, State
from federation.centre import Submission
from federation.local import LocalFederation
from tests.support.rig import Rig, rig
from tests.support.waiting import eventually

COUNT = "echo x >> runs; cat runs > out"
WAIT = 'echo x >> runs; echo begun; until [ -e "$1" ]; do sleep 0.02; done'


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keeps")


@pytest.fixture(scope="module")
def house(home: Path) -> Iterator[Rig]:
    (home / "data/cohort/2024").mkdir(parents=True)
    (home / "data/cohort/2024/a.csv").touch()
    (home / "shelf").mkdir()
    options = {
        "keep_sandboxes": True, "keep_days": 1, "shelves": {"models": str(home / "shelf")}, "variables": {"LEVEL": "3"}, "grace": 0.5,
    }  # fmt: skip
    with rig(LocalFederation(home, ("site",), {"site": {"cohort": home / "data/cohort"}}, options=options)) as made:
        made.start("site")
        yield made


def shell(house: Rig, script: str, *words: str, **fields: Any) -> Submission:
    return house.send("site", "/bin/sh", "-c", script, "sh", *words, **fields)


def reason_of(house: Rig, submission: Submission, state: State) -> tuple[str, Fault, str]:
    result = house.result(submission)
    assert result.state is state
    assert result.reason is not None
    house.check_told_once(submission)
    house.check_clean("site")
    return result.reason.code, result.reason.fault, result.reason.message


def test_a_kept_sandbox_is_found_again_by_its_user_alone(house: Rig) -> None:
    for user, expected in (("ada", b"x\n"), ("ada", b"x\nx\n"), ("bob", b"x\n"), ("ada", b"x\nx\nx\n")):
        result = house.result(shell(house, COUNT, sandbox="cache", user=user, outputs=("out",)))
        assert result.state is State.SUCCEEDED, result.explain()
        assert house.output(result, "outputs/out") == expected
    house.check_clean("site")


def test_one_attempt_at_a_time_has_it(house: Rig, tmp_path: Path) -> None:
    first = shell(house, WAIT, str(tmp_path / "go"), sandbox="busy", user="ada")
    house.line(first, "begun")
    second = shell(house, COUNT, sandbox="busy", user="ada")
    result = house.result(second)
    assert result.reason is not None
    assert (result.state, result.reason.code, result.reason.fault) == (State.FAILED, "sandbox-busy", Fault.INFRASTRUCTURE)
    assert house.result(shell(house, COUNT, sandbox="busy", user="bob")).state is State.SUCCEEDED
    # A restart changes nothing of it.
    house.kill("site")
    house.start("site")
    assert house.result(shell(house, COUNT, sandbox="busy", user="ada")).state is State.FAILED
    (tmp_path / "go").touch()
    assert house.result(first).state is State.SUCCEEDED
    third = house.result(shell(house, COUNT, sandbox="busy", user="ada", outputs=("out",)))
    assert house.output(third, "outputs/out") == b"x\nx\n"
    house.check_clean("site")


def test_an_unused_one_goes_with_the_sweep(house: Rig, home: Path) -> None:
    assert house.result(shell(house, COUNT, sandbox="old", user="ada")).state is State.SUCCEEDED
    assert house.result(shell(house, COUNT, sandbox="young", user="ada")).state is State.SUCCEEDED
    kept = {folder.name: folder for folder in (home / "sites/site/kept").glob("*/*")}
    long_ago = time.time() - 2 * 86400
    os.utime(kept["old"], (long_ago, long_ago))
    # What the task writes does not make it younger, nor older.
    os.utime(kept["young"] / "sandbox", (long_ago, long_ago))
    house.stop("site")
    house.start("site")
    # The sweep runs beside; an attempt of the swept one begins anew either way.
    eventually("the old one is swept", lambda: not kept["old"].exists())
    assert kept["young"].exists()


def test_moves_are_whole_and_stay_at_the_site(house: Rig, home: Path) -> None:
    script = "mkdir -p model/deep && echo w > model/deep/weights && echo c > model/config && echo r > result"
    fields: dict[str, Any] = {"moves": (Move(source="model", shelf="models", to="study/one"),), "outputs": ("result",)}
    result = house.result(shell(house, script, **fields))
    assert result.state is State.SUCCEEDED, result.explain()
    assert [file.path for file in result.outputs] == ["outputs/result"]
    there = home / "shelf/study/one"
    assert {path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()} == {"deep/weights", "config"}
    assert (there / "deep/weights").read_text() == "w\n"
    again = shell(house, "mkdir model && echo other > model/config", **fields | {"outputs": ()})
    assert reason_of(house, again, State.FAILED)[:2] == ("move-exists", Fault.USER)
    assert (there / "config").read_text() == "c\n"
    # Half of a copy stands nowhere.
    link = shell(
        house, "mkdir model && echo c > model/a && ln -s /etc/passwd model/b", moves=(Move(source="model", shelf="models", to="two"),)
    )
    assert reason_of(house, link, State.FAILED)[:2] == ("move-refused", Fault.USER)
    out = shell(house, "ln -s /etc model", moves=(Move(source="model", shelf="models", to="three"),))
    assert reason_of(house, out, State.FAILED)[:2] == ("move-refused", Fault.USER)
    failed = shell(house, "mkdir model; exit 3", moves=(Move(source="model", shelf="models", to="four"),))
    assert reason_of(house, failed, State.FAILED)[0] == "exit-code"
    assert sorted(path.name for path in (home / "shelf").iterdir()) == ["study"]


def test_an_unknown_shelf(house: Rig) -> None:
    submission = shell(house, "true", moves=(Move(source="", shelf="books", to="x"),))
    assert reason_of(house, submission, State.REJECTED) == (
        "shelf-unknown", Fault.POLICY, "node site has no shelf 'books' (it offers models)"
    )  # fmt: skip


def test_checks_of_the_data(house: Rig) -> None:
    good = shell(house, "true", datasets=("cohort",), checks=("cohort/2024", "cohort/**/*.csv", "cohort/2024/a.csv"))
    assert house.result(good).state is State.SUCCEEDED
    bad = shell(house, "true", datasets=("cohort",), checks=("cohort/2024/*.csv", "cohort/2023/*.csv", "other/x"))
    code, fault, message = reason_of(house, bad, State.REJECTED)
    assert (code, fault) == ("check-failed", Fault.POLICY)
    assert "matches 'cohort/2023/*.csv', 'other/x'" in message


def test_a_process_mounts_nothing(house: Rig) -> None:
    submission = shell(house, "true", datasets=("cohort",), mounts=(Mount(kind="dataset", source="cohort", target="/app/in"),))
    code, _, message = reason_of(house, submission, State.REJECTED)
    assert code == "mounts-refused"
    assert "use the launcher docker, or $DATA_PATH/NAME" in message


def test_site_variables(house: Rig) -> None:
    script = 'printf "%s %s %s" "$1" "$LEVEL" "$MINE" > out'
    result = house.result(shell(house, script, "l$LEVEL", environment={"MINE": "${LEVEL}!", "LEVEL": "forged"}, outputs=("out",)))
    assert house.output(result, "outputs/out") == b"l3 3 3!"
