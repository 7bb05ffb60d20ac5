"""The site's secrets: in memory, for the task that may have them, and in nothing that is written or sent."""

from __future__ import annotations

import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fdn_worker import site_secrets
from fdn_worker.errors import FdnError, PolicyRefused, SystemFault
from fdn_worker.settings import WorkerSettings
from tests.unit.helpers import an_order, settings


@pytest.fixture
def site(tmp_path: Path) -> Iterator[WorkerSettings]:
    (tmp_path / "token").write_text("open sesame\n")
    (tmp_path / "long").write_bytes(b"x" * (site_secrets.MOST + 1))
    node = f"s{uuid.uuid4().hex[:12]}"
    secrets = {name: tmp_path / name for name in ("token", "long", "gone")}
    made = settings(tmp_path, node=node, secrets=secrets)
    yield made
    folder = Path("/dev/shm") / f"fdn-worker-{node}"
    if folder.is_dir() and not folder.is_symlink():
        for name in site_secrets.laid(made):
            site_secrets.clear(name, made)
        folder.rmdir()


def order(*names: str) -> Any:
    return an_order(secrets=names)


def refused(kind: type[FdnError], site: WorkerSettings, *names: str) -> str:
    with pytest.raises(kind) as caught:
        site_secrets.lay(order(*names), site)
    assert str(site.state_dir) not in str(caught.value)
    return caught.value.code


def test_a_secret_is_a_file_in_memory_for_one_attempt(site: WorkerSettings) -> None:
    asked = order("token")
    folder = site_secrets.lay(asked, site)
    assert folder == Path(f"/dev/shm/fdn-worker-{site.node}/{asked.name}")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"token": "open sesame\n"}
    assert [stat.S_IMODE(path.stat().st_mode) for path in (folder.parent, folder, folder / "token")] == [0o700, 0o700, 0o400]
    # A container may have it mounted: what stands there stays.
    number = (folder / "token").stat().st_ino
    assert site_secrets.lay(asked, site) == folder
    assert (folder / "token").stat().st_ino == number
    assert site_secrets.laid(site) == {asked.name}
    for _ in range(2):
        site_secrets.clear(asked.name, site)
        assert site_secrets.laid(site) == set()


def test_no_secrets_no_folder(site: WorkerSettings) -> None:
    assert site_secrets.lay(order(), site) is None
    assert site_secrets.lines(order(), site) == ()
    assert site_secrets.laid(site) == set()


def test_what_cannot_be_given(site: WorkerSettings) -> None:
    assert refused(PolicyRefused, site, "other") == "secret-unknown"
    assert refused(PolicyRefused, site, "gone") == "secret-unavailable"
    assert refused(PolicyRefused, site, "long") == "secret-unavailable"


def test_a_write_that_was_cut_off_is_done_again(site: WorkerSettings) -> None:
    folder = site_secrets.place(site) / order("token").name
    folder.mkdir()
    (folder / ".token").write_text("ope")
    site_secrets.lay(order("token"), site)
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"token": "open sesame\n"}


@pytest.mark.parametrize("kind", ["link", "open"])
def test_a_place_that_somebody_else_made_is_not_used(site: WorkerSettings, tmp_path: Path, kind: str) -> None:
    place = Path(f"/dev/shm/fdn-worker-{site.node}")
    if kind == "link":
        place.symlink_to(tmp_path)
    else:
        place.mkdir()
        place.chmod(0o777)
    try:
        assert refused(SystemFault, site, "token") == "secrets-place"
    finally:
        place.unlink() if kind == "link" else place.rmdir()


def test_a_place_on_a_disk_is_not_used(site: WorkerSettings, tmp_path: Path) -> None:
    assert tmp_path.stat().st_dev != Path("/dev/shm").stat().st_dev
    assert refused(SystemFault, site.model_copy(update={"secrets_dir": tmp_path}), "token") == "secrets-place"


def test_lines_that_no_log_may_hold(site: WorkerSettings, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("-----BEGIN KEY-----\nabc\n  MC4CAQAwBQYDK2VwBCIE\n\n")
    site_secrets.lay(order("token"), site)
    assert site_secrets.lines(order("token"), site) == ("MC4CAQAwBQYDK2VwBCIE", "-----BEGIN KEY-----")
