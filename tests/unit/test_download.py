"""An execution's files as one download: all nodes', resumed, checked; what is wrong with one holds up no other."""

from __future__ import annotations

import io
import json
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner, Result

from fdn_worker.errors import Fault, FdnError, StoreUnavailable, SystemFault
from fdn_worker.protocol import Reason, State
from federation import download as module
from federation.centre import Centre, Submission
from federation.download import Wanted, archive, fetch, look
from federation.request import BadRequest, TaskRequest
from federation.results import OutputFile
from flows import cli, cli_records, connection, exit_codes
from storage.keys import attempt_key
from tests.unit.ended import DATA, leave
from tests.unit.helpers import SHA, an_event

NODES = ("site-a", "site-b")


@pytest.fixture
def runs(centre: Centre) -> list[Submission]:
    """One at each node, ended well."""
    made = [centre.stage_in(TaskRequest(node=node, argv=("true",)), node) for node in NODES]
    for one in made:
        leave(centre, one)
    return made


@pytest.fixture
def to(tmp_path: Path) -> Path:
    (tmp_path / "to").mkdir()
    return tmp_path / "to"


def damage(centre: Centre, one: Submission, data: bytes | None) -> None:
    """Have other bytes stand in the store than the manifest lists, or none."""
    key = attempt_key(one.execution, one.task, one.node, one.attempt, "outputs/a.csv")
    if data is None:
        centre.store.delete([key])
    else:
        centre.store.put(key, io.BytesIO(data), len(data))


def there(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_all_nodes_files(centre: Centre, runs: list[Submission], to: Path) -> None:
    found = look(centre, runs)
    assert (found.size, found.partial, found.troubles) == (2 * len(DATA), "", [])
    heard: list[int] = []
    done, troubles = fetch(centre, found.files, to, heard.append)
    assert ([str(path.relative_to(to)) for path in done], troubles) == ([f"{node}/outputs/a.csv" for node in NODES], [])
    assert there(to) == {f"{node}/outputs/a.csv": DATA for node in NODES}
    assert sum(heard) == 2 * len(DATA)
    heard.clear()
    assert fetch(centre, found.files, to, heard.append) == (done, [])
    assert sum(heard) == 2 * len(DATA)


def test_several_tasks_of_a_node_have_a_folder_each(centre: Centre, to: Path) -> None:
    made = [centre.stage_in(TaskRequest(node="site-a", argv=("true",), task=task), task) for task in ("server", "client")]
    for one in made:
        leave(centre, one)
    fetch(centre, look(centre, made).files, to)
    assert set(there(to)) == {"site-a/server/outputs/a.csv", "site-a/client/outputs/a.csv"}


def test_what_is_cut_goes_on_and_what_a_crash_cut_begins_again(centre: Centre, runs: list[Submission], to: Path) -> None:
    files = look(centre, runs).files
    for node, left in zip(NODES, (DATA[:2], b"xx"), strict=True):
        (to / node / "outputs").mkdir(parents=True)
        (to / node / "outputs/a.csv.partial").write_bytes(left)
    offsets: list[int] = []
    get = centre.store.get
    centre.store.get = lambda key, *, offset=0, **more: offsets.append(offset) or get(key, offset=offset, **more)  # type: ignore[method-assign, func-returns-value]
    assert fetch(centre, files, to)[1] == []
    assert there(to) == {f"{node}/outputs/a.csv": DATA for node in NODES}
    assert sorted(offsets) == [0, 2, 2]


def test_a_damaged_file_holds_up_no_other(centre: Centre, runs: list[Submission], to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = look(centre, runs).files
    damage(centre, runs[0], b"a;b\n")
    done, troubles = fetch(centre, files, to)
    assert (there(to), len(done)) == ({"site-b/outputs/a.csv": DATA}, 1)
    assert troubles == ["site-a: outputs/a.csv: what came is not what the manifest lists (try again)"]
    damage(centre, runs[0], None)
    (trouble,) = fetch(centre, files, to)[1]
    assert trouble.startswith("site-a/outputs/a.csv: object store folder")


@pytest.mark.parametrize("data", [None, b"longer than it was"])
def test_a_node_that_left_other_than_it_said_is_told(centre: Centre, runs: list[Submission], data: bytes | None) -> None:
    damage(centre, runs[0], data)
    found = look(centre, runs)
    assert [wanted.folder for wanted in found.files] == [Path("site-b")]
    assert len(found.troubles) == 1
    assert "outputs/a.csv of site-a is missing in the store, or has another size" in found.troubles[0]
    assert found.partial == "1 of 2 nodes: partial"


def test_what_failed_is_told_and_gives_what_it_left(centre: Centre, runs: list[Submission]) -> None:
    failed, without = (centre.stage_in(TaskRequest(node=node, argv=("false",)), f"{node} again") for node in NODES)
    leave(centre, failed, State.FAILED)
    reason = Reason(code="exit-code", fault=Fault.USER, message="it ended with 3")
    centre.records.record_events([an_event(centre.order(without.run, 1), 1, state=State.FAILED, reason=reason)])
    found = look(centre, [runs[0], without])
    assert found.partial == "1 of 2 nodes: partial\n  site-b: FAILED (exit-code): it ended with 3"
    assert len(look(centre, [failed]).files) == 1


def test_a_store_that_is_away_ends_all_at_once(centre: Centre, runs: list[Submission], to: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [Wanted(Path(str(number)), look(centre, runs).files[0].file) for number in range(50)]
    asked: list[str] = []

    def away(key: str, **_: Any) -> Any:
        asked.append(key)
        raise StoreUnavailable("the store is away")

    monkeypatch.setattr(centre.store, "get", away)
    with pytest.raises(StoreUnavailable, match="the store is away"):
        fetch(centre, files, to)
    assert len(asked) <= module.WIDTH


def test_a_disk_that_is_full_ends_all_at_once(centre: Centre, runs: list[Submission], to: Path) -> None:
    files = look(centre, runs).files
    (to / "site-a").write_text("no folder")
    with pytest.raises(SystemFault, match="mend that, and call again") as caught:
        fetch(centre, files, to)
    assert caught.value.code == "download-disk"


def test_a_name_that_climbs_goes_nowhere(centre: Centre, to: Path) -> None:
    file = OutputFile(path="../../x", key="k", size=1, sha256=SHA)
    with pytest.raises(ValueError, match=r"without '\.\.'"):
        fetch(centre, [Wanted(Path("site-a"), file)], to / "in")
    assert there(to / "in") == {}


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_one_archive(centre: Centre, runs: list[Submission], to: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WIDTH", 1)
    path = to / "new" / f"all{suffix}"
    files = look(centre, runs).files
    assert archive(centre, files, path) == (2, [])
    if suffix == ".zip":
        with zipfile.ZipFile(path) as packed:
            found = {name: packed.read(name) for name in packed.namelist()}
    else:
        with tarfile.open(path) as packed_:
            found = {info.name: packed_.extractfile(info).read() for info in packed_}  # type: ignore[union-attr]
            assert {(info.uid, info.uname, info.mode) for info in packed_} == {(0, "", 0o644)}
    assert found == {f"{node}/outputs/a.csv": DATA for node in NODES}
    damage(centre, runs[0], b"a;b\n")
    count, troubles = archive(centre, files, path)
    assert (count, len(troubles)) == (1, 1)
    damage(centre, runs[1], None)
    before = path.read_bytes()
    assert archive(centre, files, path)[0] == 0
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_an_archive_of_another_kind(centre: Centre, to: Path) -> None:
    with pytest.raises(BadRequest, match=r"neither .zip nor .tar \(name it FILE.zip or FILE.tar\)"):
        archive(centre, [], to / "all.rar")


@pytest.fixture
def fem(centre: Centre, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setattr(connection, "centre", lambda: centre)
    return lambda *words: CliRunner().invoke(cli.app, list(words))


def test_the_command_tells_what_came_and_what_did_not(
    centre: Centre, runs: list[Submission], fem: Callable[..., Result], tmp_path: Path
) -> None:
    execution = str(runs[0].execution)
    ran = fem("download", execution, "--to", str(tmp_path / "to"), "--node", "site-a", "--node", "site-a")
    assert (ran.exit_code, ran.stdout) == (0, f"1 file of 1 node, 4 B: {tmp_path}/to\n")
    ran = fem("download", execution, "--archive", str(tmp_path / "all.zip"))
    assert (ran.exit_code, ran.stdout.partition(",")[0]) == (0, "1 file of 1 node")
    ran = fem("download", execution, "--to", str(tmp_path / "to"), "--json")
    assert json.loads(ran.stdout) == [str(tmp_path / "to/site-a/outputs/a.csv")]
    damage(centre, runs[0], None)
    ran = fem("download", execution, "--to", str(tmp_path / "to"))
    assert isinstance(ran.exception, FdnError)
    assert exit_codes.of_error(ran.exception) == exit_codes.INFRASTRUCTURE
    assert "1 not fetched:\n  site-a: outputs/a.csv of site-a is missing" in str(ran.exception)
    assert ran.stdout == "no files\n"


def test_a_bar_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for terminal in (True, False):
        shown = io.StringIO()
        monkeypatch.setattr(sys, "stderr", shown)
        monkeypatch.setattr("rich.console.Console", lambda terminal=terminal, **_: Console(file=sys.stderr, force_terminal=terminal))
        with cli_records.bar(10, "fetching", quiet=False) as told:
            told(10)
        assert ("fetching" in shown.getvalue()) is terminal
