"""`fdn-worker check` on a site's folders and ports: each finding, and what mends it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fdn_worker.check import findings as probe
from fdn_worker.findings import Finding
from fdn_worker.journal import Journal
from fdn_worker.protocol import Signer
from tests.unit.helpers import settings


def found(tmp_path: Path, **options: Any) -> dict[str, Finding]:
    Journal(tmp_path / "journal.db", Signer()).close()
    return {finding.what: finding for finding in probe(settings(tmp_path, **options))}


def test_folders_that_are_there(tmp_path: Path) -> None:
    for name in ("data/census", "shelf", "host"):
        (tmp_path / name).mkdir(parents=True)
    findings = found(
        tmp_path, datasets={"census": tmp_path / "data/census"}, data_roots=(tmp_path / "data",), shelves={"models": tmp_path / "shelf"},
        host_paths=(tmp_path / "host",), address="127.0.0.1", ports="20000-20009",
    )  # fmt: skip
    assert findings["dataset census"] == Finding(True, "dataset census", str(tmp_path / "data/census"))
    assert findings["shelf models"] == Finding(True, "shelf models", str(tmp_path / "shelf"))
    assert findings[f"host path {tmp_path}/host"].sound
    assert findings["ports"] == Finding(True, "ports", "20000-20009 can be published at 127.0.0.1, for others at 127.0.0.1")


def test_what_is_to_be_mended(tmp_path: Path) -> None:
    findings = found(
        tmp_path, shelves={"models": tmp_path / "gone"}, host_paths=(tmp_path / "gone",), address="192.0.2.1", ports="20000-20009"
    )  # fmt: skip
    bad = {what: finding for what, finding in findings.items() if not finding.sound}
    assert bad.keys() == {"broker", "shelf models", f"host path {tmp_path}/gone", "ports"}
    assert all(finding.remedy for finding in bad.values())
    assert bad["ports"].remedy == "set bind to an address of this machine; 0.0.0.0 is all of them"


def test_what_is_not_set_is_not_looked_at(tmp_path: Path) -> None:
    assert not [what for what in found(tmp_path) if what.startswith(("dataset", "shelf", "host", "ports"))]


@pytest.mark.parametrize(
    ("options", "sound", "says"),
    [
        ({}, True, "nothing waits here"),
        ({"logs": "never", "release": {"default": "person"}}, True, "0 rules, and for the rest person"),
        ({"release": {"rules": [{"id": "a", "action": "auto"}]}}, False, "a task's log leaves as it comes"),
        ({"release": {"rules": [{"id": "a", "action": "check", "checks": {"gone": {}}}]}}, False, "check 'gone' is not installed"),
    ],
)
def test_what_may_leave(tmp_path: Path, options: dict[str, Any], sound: bool, says: str) -> None:
    finding = found(tmp_path, **options)["release"]
    assert (finding.sound, bool(finding.remedy)) == (sound, not sound)
    assert says in finding.says
