"""Source at a commit, from a real repository on this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fdn_worker.errors import Fault, FdnError, SystemFault, TaskFailed
from fdn_worker.protocol import Source
from fdn_worker.source import SourceCache
from federation.shipping import pack_of


def git(folder: Path, *words: str) -> str:
    quiet = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "PATH": os.environ["PATH"]}
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main", "-c", "protocol.file.allow=always"]
    return subprocess.run(["git", *identity, *words], cwd=folder, env=quiet, check=True, capture_output=True, text=True).stdout.strip()


def commit(folder: Path, **files: str) -> str:
    for name, text in files.items():
        (folder / name).write_text(text)
    git(folder, "add", "-A")
    git(folder, "commit", "-m", "x", "--allow-empty")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def seed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with two commits, which no test changes."""
    folder = tmp_path_factory.mktemp("seed") / "origin"
    folder.mkdir()
    git(folder, "init", "-q")
    commit(folder, first="1", kept="same")
    (folder / "first").unlink()
    commit(folder, second="2")
    return folder


@pytest.fixture
def origin(seed: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(seed, tmp_path / "origin"))


@pytest.fixture
def cache(tmp_path: Path) -> SourceCache:
    return SourceCache(tmp_path / "cache", allow_file=True, timeout=30.0)


def at(origin: Path, revision: str = "HEAD") -> Source:
    return Source(repository=f"file://{origin}", commit=git(origin, "rev-parse", revision))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def failed(cache: SourceCache, source: Source, target: Path) -> FdnError:
    target.parent.mkdir(exist_ok=True)
    with pytest.raises(FdnError) as caught:
        cache.checkout(source, target)
    assert names(target.parent) == set()
    assert "\n" not in str(caught.value)
    return caught.value


def test_the_tree_of_a_commit_without_its_history(cache: SourceCache, origin: Path, tmp_path: Path) -> None:
    for number, (revision, found) in enumerate(
        [("HEAD~1", {"first", "kept"}), ("HEAD", {"second", "kept"}), ("HEAD~1", {"first", "kept"})]
    ):
        target = tmp_path / f"run{number}" / "source"
        cache.checkout(at(origin, revision), target)
        assert names(target) == found
        assert names(target.parent) == {"source"}


def test_a_second_checkout_needs_the_origin_no_more(cache: SourceCache, origin: Path, tmp_path: Path) -> None:
    first, second = at(origin, "HEAD~1"), at(origin)
    cache.checkout(first, tmp_path / "a/source")
    shutil.rmtree(origin)
    cache.checkout(second, tmp_path / "b/source")
    assert (tmp_path / "b/source/second").read_text() == "2"


def test_what_stands_is_left_alone(cache: SourceCache, origin: Path, tmp_path: Path) -> None:
    target = tmp_path / "a/source"
    cache.checkout(at(origin), target)
    (target / "mark").touch()
    cache.checkout(at(origin), target)
    assert (target / "mark").exists()


def test_a_commit_that_came_later_is_fetched(cache: SourceCache, origin: Path, tmp_path: Path) -> None:
    cache.checkout(at(origin), tmp_path / "a/source")
    commit(origin, third="3")
    cache.checkout(at(origin), tmp_path / "b/source")
    assert (tmp_path / "b/source/third").read_text() == "3"


def test_an_unknown_commit(cache: SourceCache, origin: Path, tmp_path: Path) -> None:
    source = Source(repository=f"file://{origin}", commit="0f" * 20)
    for _ in range(2):
        error = failed(cache, source, tmp_path / "a/source")
        assert isinstance(error, TaskFailed)
        assert error.code == "source-missing"
        assert str(error) == f"repository file://{origin} has no commit {'0f' * 20} (push it, or name another)"
    # an object that is there, but is no commit
    tree = Source(repository=source.repository, commit=git(origin, "rev-parse", "HEAD^{tree}"))
    assert failed(cache, tree, tmp_path / "b/source").code == "source-missing"


def test_a_missing_repository(cache: SourceCache, tmp_path: Path) -> None:
    error = failed(cache, Source(repository=f"file://{tmp_path}/none", commit="0f" * 20), tmp_path / "a/source")
    assert (error.code, error.fault) == ("source-missing", Fault.USER)
    assert str(error) == f"there is no repository at file://{tmp_path}/none (mend its address)"
    assert not any((tmp_path / "cache").glob("*"))


def test_https_alone_unless_the_site_says_otherwise(origin: Path, tmp_path: Path) -> None:
    error = failed(SourceCache(tmp_path / "cache", allow_file=False, timeout=30.0), at(origin), tmp_path / "a/source")
    assert isinstance(error, SystemFault)
    assert error.code == "source-unavailable"
    assert str(error) == f"fetching file://{origin}: fatal: transport 'file' not allowed (the run may be submitted again)"


def test_no_hook_runs(cache: SourceCache, origin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither those of the repository nor those that a template of this machine would put into the clone."""
    ran = tmp_path / "ran"
    template = tmp_path / "template"
    for folder in (origin / ".git/hooks", template / "hooks"):
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("post-checkout", "reference-transaction", "post-index-change", "pre-auto-gc", "upload-pack"):
            (folder / name).write_text(f"#!/bin/sh\necho {name} >> {ran}\n")
            (folder / name).chmod(0o755)
    git(origin, "config", "core.fsmonitor", f"touch {ran}")
    monkeypatch.setenv("GIT_TEMPLATE_DIR", str(template))
    cache.checkout(at(origin), tmp_path / "a/source")
    assert names(tmp_path / "a/source") == {"kept", "second"}
    assert not ran.exists()


def test_submodules_are_not_fetched(cache: SourceCache, origin: Path, seed: Path, tmp_path: Path) -> None:
    git(origin, "submodule", "add", "-q", str(seed), "sub")
    commit(origin)
    cache.checkout(at(origin), tmp_path / "a/source")
    assert names(tmp_path / "a/source") == {"kept", "second", "sub", ".gitmodules"}
    assert names(tmp_path / "a/source/sub") == set()


def test_what_a_kill_left_behind_is_in_nobodys_way(cache: SourceCache, origin: Path, tmp_path: Path) -> None:
    cache.checkout(at(origin), tmp_path / "a/source")
    (clone,) = (tmp_path / "cache").iterdir()
    (clone / "index.lock").touch()
    (tmp_path / "b/source.partial").mkdir(parents=True)
    (tmp_path / "b/source.partial/half").touch()
    (tmp_path / "b/source.index.lock").touch()
    cache.checkout(at(origin), tmp_path / "b/source")
    assert names(tmp_path / "b/source") == {"kept", "second"}
    assert names(tmp_path / "b") == {"source"}


def test_a_half_made_clone_is_made_anew(cache: SourceCache, origin: Path, tmp_path: Path) -> None:
    cache.checkout(at(origin), tmp_path / "a/source")
    (clone,) = (tmp_path / "cache").iterdir()
    shutil.rmtree(clone)
    clone.with_name(clone.name + ".partial").mkdir()
    cache.checkout(at(origin), tmp_path / "b/source")
    assert list((tmp_path / "cache").iterdir()) == [clone]


def test_checkouts_at_once_do_not_hinder_each_other(cache: SourceCache, origin: Path, tmp_path: Path) -> None:
    first, second = at(origin, "HEAD~1"), at(origin)
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: cache.checkout((first, second)[n % 2], tmp_path / str(n) / "source"), range(6)))
    assert [names(tmp_path / str(n) / "source") for n in range(6)] == [{"first", "kept"}, {"second", "kept"}] * 3


def test_without_git_the_site_is_told(cache: SourceCache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "git", None)
    error = failed(cache, Source(repository="https://x.invalid/y", commit="0" * 40), tmp_path / "a/source")
    assert str(error) == "this node has no git (install git at the site)"


def pack(origin: Path, revision: str, folder: Path) -> tuple[Source, Path]:
    """What the centre sends along, by the centre's own code."""
    folder.mkdir()
    source = at(origin, revision)
    return source, pack_of(source, folder, allow_file=True)


def test_a_pack_needs_no_server_and_leaves_nothing_but_the_tree(origin: Path, tmp_path: Path) -> None:
    cache = SourceCache(tmp_path / "cache", allow_file=False, timeout=30.0)
    for revision, found in (("HEAD", {"second", "kept"}), ("HEAD~1", {"first", "kept"})):
        source, packed = pack(origin, revision, tmp_path / f"pack-{revision}")
        target = tmp_path / f"run-{revision}" / "source"
        cache.checkout(source, target, packed)
        assert names(target) == found
        assert names(target.parent) == {"source"}
    assert not (tmp_path / "cache").exists()


def test_a_pack_of_another_commit_is_refused(cache: SourceCache, origin: Path, tmp_path: Path) -> None:
    """The site runs the commit that was ordered, or nothing."""
    _, packed = pack(origin, "HEAD~1", tmp_path / "pack")
    (tmp_path / "a").mkdir()
    with pytest.raises(TaskFailed) as caught:
        cache.checkout(at(origin), tmp_path / "a/source", packed)
    assert (caught.value.code, names(tmp_path / "a")) == ("source-missing", set())


def test_a_pack_that_is_damaged_is_refused(cache: SourceCache, origin: Path, tmp_path: Path) -> None:
    source, packed = pack(origin, "HEAD", tmp_path / "pack")
    packed.chmod(0o600)
    data = bytearray(packed.read_bytes())
    data[len(data) // 2] ^= 1
    packed.write_bytes(data)
    (tmp_path / "a").mkdir()
    with pytest.raises(SystemFault):
        cache.checkout(source, tmp_path / "a/source", packed)
    assert names(tmp_path / "a") == set()
