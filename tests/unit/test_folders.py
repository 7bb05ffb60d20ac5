"""Folders that an order may name: real, inside what the site named, and quiet about where they lead."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdn_worker import folders
from fdn_worker.errors import PolicyRefused
from fdn_worker.protocol import Mount
from fdn_worker.settings import WorkerSettings
from tests.unit.helpers import an_order, settings


@pytest.fixture
def site(tmp_path: Path) -> WorkerSettings:
    for name in ("data/census/2024", "data/empty", "host/models", "elsewhere", "shelf"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/census/2024/a.csv").touch()
    (tmp_path / "data/census/out").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data/census/in").symlink_to(tmp_path / "data/census/2024")
    (tmp_path / "host/models/astray").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/b.csv").touch()
    return settings(
        tmp_path / "state", datasets={"census": tmp_path / "data/census", "empty": tmp_path / "data/empty"}, data_roots=(tmp_path / "data",),
        host_paths=(tmp_path / "host/models",), shelves={"models": tmp_path / "shelf", "gone": tmp_path / "gone"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "source", "leads"),
    [
        ("dataset", "census", "data/census"),
        ("dataset", "census/2024", "data/census/2024"),
        ("dataset", "census/in", "data/census/2024"),
        ("dataset", "census/2024/a.csv", "data/census/2024/a.csv"),
        ("host", "{}/host/models", "host/models"),
    ],
)
def test_what_may_be_mounted(site: WorkerSettings, tmp_path: Path, kind: str, source: str, leads: str) -> None:
    mount = Mount(kind=kind, source=source.format(tmp_path), target="/x")  # type: ignore[arg-type]
    assert folders.mounted(mount, site) == tmp_path / leads


@pytest.mark.parametrize(
    ("kind", "source", "code"),
    [
        ("dataset", "cencus/2024", "dataset-unknown"),
        ("dataset", "census/2023", "dataset-unavailable"),
        ("dataset", "census/out", "dataset-refused"),
        ("dataset", "census/out/b.csv", "dataset-refused"),
        ("host", "/etc", "mounts-refused"),
        ("host", "/no/such/folder", "mounts-refused"),
        ("host", "{}/host/models2", "mounts-refused"),
        ("host", "{}/host", "mounts-refused"),
        ("host", "{}/host/models/none", "mounts-refused"),
        ("host", "{}/host/models/astray", "mounts-refused"),
    ],
)
def test_what_may_not(site: WorkerSettings, tmp_path: Path, kind: str, source: str, code: str) -> None:
    mount = Mount(kind=kind, source=source.format(tmp_path), target="/x")  # type: ignore[arg-type]
    with pytest.raises(PolicyRefused) as caught:
        folders.mounted(mount, site)
    assert caught.value.code == code
    assert "elsewhere" not in str(caught.value)


def test_a_host_path_that_is_not_given_is_not_told_to_be_there(site: WorkerSettings) -> None:
    said = []
    for source in ("/etc", "/no/such"):
        with pytest.raises(PolicyRefused) as caught:
            folders.mounted(Mount(kind="host", source=source, target="/x"), site)
        said.append(str(caught.value).replace(source, "PATH"))
    assert said[0] == said[1] == "node site-a does not give 'PATH' to tasks (name a dataset)"


def test_a_folder_in_the_sandbox_is_made(tmp_path: Path) -> None:
    assert folders.in_sandbox("", tmp_path) == tmp_path
    for _ in range(2):
        assert folders.in_sandbox("a/b", tmp_path) == tmp_path / "a/b"
    assert (tmp_path / "a/b").is_dir()


@pytest.mark.parametrize("below", ["link", "link/x", "deep/link/x", "file"])
def test_a_link_that_an_earlier_task_left_is_not_mounted(tmp_path: Path, below: str) -> None:
    sandbox = tmp_path / "sandbox"
    (sandbox / "deep").mkdir(parents=True)
    for link in (sandbox / "link", sandbox / "deep/link"):
        link.symlink_to("/etc")
    (sandbox / "file").touch()
    with pytest.raises(PolicyRefused, match="is no folder in the sandbox"):
        folders.in_sandbox(below, sandbox)
    assert not Path("/etc/x").exists()


def test_shelves(site: WorkerSettings, tmp_path: Path) -> None:
    assert folders.shelf("models", site) == tmp_path / "shelf"
    for name, code in (("gone", "shelf-unavailable"), ("model", "shelf-unknown")):
        with pytest.raises(PolicyRefused) as caught:
            folders.shelf(name, site)
        assert caught.value.code == code


@pytest.mark.parametrize(
    "pattern",
    ["census", "census/2024", "census/2024/a.csv", "census/*", "census/**/*.csv", "*/2024", "c*s/2*/?.csv", "**/a.csv", "**", "census/in/a.csv", "empty"],
)  # fmt: skip
def test_checks_that_hold(site: WorkerSettings, pattern: str) -> None:
    folders.check(an_order(datasets=("census", "empty"), checks=(pattern,)), site)


@pytest.mark.parametrize(
    "pattern", ["other", "census/2023", "census/*.csv", "empty/*", "empty/**", "census/out/b.csv", "census/out/*", "**/b.csv", "a.csv"]
)
def test_checks_that_do_not(site: WorkerSettings, pattern: str) -> None:
    with pytest.raises(PolicyRefused, match="nothing in the task's datasets at node site-a matches") as caught:
        folders.check(an_order(datasets=("census", "empty"), checks=("census", pattern)), site)
    assert caught.value.code == "check-failed"
    assert f"matches {pattern!r} (" in str(caught.value)


def test_a_check_looks_at_the_orders_datasets_alone(site: WorkerSettings) -> None:
    with pytest.raises(PolicyRefused):
        folders.check(an_order(datasets=("empty",), checks=("census/2024",)), site)
    folders.check(an_order(mounts=(Mount(kind="dataset", source="census/2024", target="/x"),), checks=("census/2024",)), site)
