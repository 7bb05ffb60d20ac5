"""The difference between a catalogue's folder and the federation, and what a sync makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fdn_worker.protocol.names import command_queue
from federation.catalogue.document import CatalogueError
from federation.catalogue.folder import load
from federation.centre import Centre
from federation.enrol import enrol
from federation.settings import CentreSettings
from federation.sync import Step, carry_out, difference, differing

TOOL = """\
name: {name}
version: "{version}"
tasks: [{{id: main, command: {{base: [echo, hello]}}}}]
"""
KEY = "A" * 43 + "="


@pytest.fixture
def centre(tmp_path: Path) -> Iterator[Centre]:
    opened = Centre.open(CentreSettings(home=tmp_path / "home"))
    yield opened
    opened.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One tool and one node."""
    write(tmp_path / "catalogue/tools/hello.yaml", TOOL.format(name="hello", version="1"))
    write(tmp_path / "catalogue/nodes/site-a.yaml", "id: site-a\ndisplay_name: SITE_A\n")
    return tmp_path / "catalogue"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def sync(centre: Centre, folder: Path) -> list[str]:
    catalogue = load(folder)
    steps = differing(centre, catalogue)
    carry_out(centre, catalogue, steps)
    assert [step for step in differing(centre, catalogue) if step.counts] == [], "done once, there is nothing left to do"
    return [str(step) for step in steps]


def test_what_the_folder_has_is_there_afterwards(centre: Centre, folder: Path) -> None:
    assert sync(centre, folder) == ["+ enrol node site-a", "+ add tool hello (version 1)"]
    assert centre.broker.depth(command_queue("site-a")) is not None
    node = centre.records.node("site-a")
    assert node is not None
    assert (node.display_name, node.retired) == ("SITE_A", None)
    assert [tool.name for tool in centre.records.catalogue.tools()] == ["hello"]


def test_changes_are_told_by_their_keys(centre: Centre, folder: Path) -> None:
    sync(centre, folder)
    write(folder / "tools/hello.yaml", TOOL.format(name="hello", version="2"))
    write(folder / "nodes/site-a.yaml", "id: site-a\ndisplay_name: Hospital A\nregion: north\n")
    assert sync(centre, folder) == ["~ change node site-a (display_name, region)", "~ change tool hello (version)"]
    node = centre.records.node("site-a")
    assert node is not None
    assert node.display_name == "Hospital A"


def test_what_the_folder_has_no_more_goes(centre: Centre, folder: Path) -> None:
    write(folder / "nodes/site-b.yaml", "id: site-b\n")
    write(folder / "tools/other.yaml", TOOL.format(name="other", version="1"))
    sync(centre, folder)
    (folder / "nodes/site-b.yaml").unlink()
    (folder / "tools/other.yaml").unlink()
    assert sync(centre, folder) == ["- retire node site-b (its queues go, with the orders that wait there)", "- withdraw tool other"]
    assert centre.broker.depth(command_queue("site-b")) is None
    write(folder / "nodes/site-b.yaml", "id: site-b\n")
    assert sync(centre, folder) == ["+ enrol node site-b"], "it may come back"


def test_a_node_that_an_operator_enrolled_by_hand_is_left_alone_until_the_folder_names_it(centre: Centre, folder: Path) -> None:
    enrol(centre.broker, centre.records, "by-hand")
    sync(centre, folder)
    assert centre.broker.depth(command_queue("by-hand")) is not None
    write(folder / "nodes/by-hand.yaml", "id: by-hand\n")
    assert sync(centre, folder) == ["~ change node by-hand (from now on by the folder)"]


@pytest.mark.parametrize("part", ["nodes", "tools"])
def test_a_folder_without_nodes_or_tools_says_nothing_of_them(part: str, centre: Centre, folder: Path) -> None:
    sync(centre, folder)
    for file in (folder / part).iterdir():
        file.unlink()
    assert sync(centre, folder) == []


def test_a_wrong_file_stops_it_before_anything_changes(centre: Centre, folder: Path) -> None:
    write(folder / "tools/broken.yaml", "name: broken\ntasks: [")
    with pytest.raises(CatalogueError, match=r"broken\.yaml"):
        sync(centre, folder)
    assert (centre.records.nodes(), centre.records.catalogue.tools()) == ([], [])


def test_where_messages_are_signed_a_node_waits_for_its_key_with_its_bundle_written(folder: Path, centre: Centre) -> None:
    catalogue = load(folder)
    waiting = Step("await", "node", "site-a", "its public key is not in the folder yet")
    assert waiting in difference(catalogue, [], [], keys=True)
    carry_out(centre, catalogue, [waiting])
    assert (centre.settings.home / "bundles/site-a/fdn-worker.toml").exists()
    assert centre.records.nodes() == [], "it is enrolled by its key alone"
    write(folder / "nodes/site-a.yaml", f"id: site-a\npublic_key: {KEY}\n")
    assert sync(centre, folder)[0] == "+ enrol node site-a"
    node = centre.records.node("site-a")
    assert node is not None
    assert node.public_key == KEY
