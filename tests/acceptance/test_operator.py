"""What an operator types: fem nodes show, fem queue, fem sync."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from federation.centre import Centre

from .conftest import Run


def test_a_node_is_shown_with_what_it_said(run: Run, centre: Centre) -> None:
    shown = run("fem", "nodes", "show", "SITE-A").stdout
    assert shown.splitlines()[0] == "site-a"
    for word in ("connected", "slots free", "process", "patients"):
        assert word in shown
    said = json.loads(run("fem", "nodes", "show", "site-a", "--json").stdout)
    assert (said["presence"], said["datasets"], said["catalogue"]) == ("connected", ["patients"], None)


@pytest.mark.parametrize("words", [("nodes", "show"), ("queue", "show"), ("queue", "purge"), ("queue", "pause")])
def test_a_node_that_is_not_there_is_told_with_the_nearest(words: tuple[str, ...], run: Run, centre: Centre) -> None:
    done = run("fem", *words, "site-z")
    assert (done.returncode, done.stdout) == (2, "")
    assert "node 'site-z' is not enrolled" in done.stderr
    assert "site-a" in done.stderr


def test_a_queue_is_shown_paused_and_resumed(run: Run, centre: Centre) -> None:
    assert run("fem", "queue", "pause", "site-b").stdout == "site-b is paused\n"
    try:
        assert json.loads(run("fem", "queue", "show", "site-b", "--json").stdout)["paused"] is not None
        assert "paused since" in run("fem", "queue", "show", "site-b").stdout
        assert "paused" in run("fem", "nodes", "show", "site-b").stdout
    finally:
        assert run("fem", "queue", "resume", "site-b").stdout == "site-b takes orders again\n"
    assert json.loads(run("fem", "queue", "show", "site-b", "--json").stdout)["paused"] is None
    assert run("fem", "queue", "purge", "site-b").stdout == "nothing waits there\n"


def test_a_folder_is_synced_once_and_then_there_is_nothing_to_change(run: Run, tmp_path: Path) -> None:
    home = {"FEM_HOME": str(tmp_path / "home")}
    tool = tmp_path / "catalogue/tools/hello.yaml"
    tool.parent.mkdir(parents=True)
    tool.write_text("name: hello\ntasks: [{id: main, command: {base: [echo, hello]}}]\n")
    (tmp_path / "catalogue/nodes").mkdir()
    (tmp_path / "catalogue/nodes/site-a.yaml").write_text("id: site-a\n")
    expected = ["+ enrol node site-a", "+ add tool hello"]
    assert run("fem", "sync", "catalogue", "--dry-run", env=home).stdout.splitlines() == [*expected, "2 to change"]
    assert run("fem", "sync", "catalogue", env=home).stdout.splitlines() == [*expected, "2 changed"]
    assert run("fem", "sync", "catalogue", env=home).stdout == "nothing to change\n"
    assert (tmp_path / "home/bundles/site-a/README.md").exists()

    tool.write_text("name: hello\ntasks: [{id: main, comand: {base: [echo, hello]}}]\n")
    (tmp_path / "catalogue/nodes/site-a.yaml").unlink()
    done = run("fem", "sync", "catalogue", env=home)
    assert (done.returncode, done.stdout) == (2, "")
    assert "hello.yaml:2: tasks.0.comand: unknown key, did you mean command?" in done.stderr
    assert "site-a" in run("fem", "nodes", env=home).stdout, "nothing was changed"


def test_a_site_without_its_key_gets_a_bundle_and_no_more(run: Run, tmp_path: Path) -> None:
    home = {
        "FEM_HOME": str(tmp_path / "home"),
        "FEM_KEY": str(tmp_path / "centre.key"),
        "FEM_BROKER_URL": "amqps://centre.example.invalid/",
    }
    assert run("fem", "keys", str(tmp_path / "centre.key"), env=home).returncode == 0
    done = run("fem", "nodes", "enrol", "site-n", env=home)
    assert done.returncode == 0, done.stderr
    assert "not enrolled yet" in done.stdout
    assert (tmp_path / "home/bundles/site-n/fdn-worker.toml").exists()
