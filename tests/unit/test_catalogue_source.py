"""A branch is pinned to a commit, once, by asking a real repository; and Git is asked nothing else."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from fdn_worker.errors import SystemFault
from federation.catalogue.source import commit_of, pinned
from federation.catalogue.tool import Code, Tool
from federation.request import BadRequest, build


def git(folder: Path, *words: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"} | {
        f"GIT_{who}_{what}": "a@x.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }
    return subprocess.run(["git", *words], cwd=folder, env=environment, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Branches main and dev, and an annotated tag v1 on main's first commit."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q", "-b", "main")
    for step in ("first", "second"):
        git(folder, "commit", "-q", "--allow-empty", "-m", step)
        if step == "first":
            git(folder, "tag", "-a", "v1", "-m", "v1")
    git(folder, "checkout", "-q", "-b", "dev")
    git(folder, "commit", "-q", "--allow-empty", "-m", "third")
    git(folder, "checkout", "-q", "main")
    return folder


def code(repository: Path, branch: str | None = None) -> Code:
    return build(Code, url=f"file://{repository}", branch=branch)


@pytest.mark.parametrize(("branch", "revision"), [(None, "HEAD"), ("main", "main"), ("dev", "dev"), ("v1", "v1^{commit}")])
def test_a_branch_or_tag_becomes_its_commit(repository: Path, branch: str | None, revision: str) -> None:
    assert commit_of(code(repository, branch), allow_file=True) == git(repository, "rev-parse", revision)


def test_a_tool_is_pinned_once(repository: Path) -> None:
    source = f"file://{repository} --branch dev"
    tool = build(Tool, name="t", tasks=[{"id": "a", "command": {"base": "x"}, "source": source}, {"id": "b", "command": {"base": "x"}}])
    first = pinned(tool, allow_file=True)
    assert first.tasks[0].source is not None
    assert first.tasks[0].source.commit == git(repository, "rev-parse", "dev")
    assert first.tasks[1] == tool.tasks[1]
    git(repository, "checkout", "-q", "dev")
    git(repository, "commit", "-q", "--allow-empty", "-m", "fourth")
    assert pinned(first, allow_file=True) == first, "a commit stays"


def test_what_is_not_there_is_told(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="has no branch or tag nosuch"):
        commit_of(code(repository, "nosuch"), allow_file=True)
    (tmp_path / "empty").mkdir()
    git(tmp_path / "empty", "init", "-q")
    with pytest.raises(BadRequest, match="has no commit yet"):
        commit_of(code(tmp_path / "empty"), allow_file=True)
    with pytest.raises(SystemFault, match=r"source file:///.*nowhere: .*(mend its address)"):
        commit_of(code(tmp_path / "nowhere"), allow_file=True)


def test_files_of_the_centre_are_not_read_unless_that_is_allowed(repository: Path) -> None:
    with pytest.raises(BadRequest, match="https:// only"):
        commit_of(code(repository))


def test_no_setting_of_git_rewrites_the_address(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".gitconfig").write_text(f'[url "file://{tmp_path}/other"]\n\tinsteadOf = file://{repository}\n')
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other"))
    assert commit_of(code(repository), allow_file=True) == git(repository, "rev-parse", "HEAD")


@pytest.mark.parametrize("branch", ["--upload-pack=id", "-x", "a b", "", "a:b", "main\n"])
def test_a_branch_is_never_an_option(branch: str) -> None:
    with pytest.raises(BadRequest, match="branch"):
        build(Code, url="https://x.org/y", branch=branch)


@pytest.mark.parametrize("url", ["ext::sh -c id", "--upload-pack=id", "http://x.org/y", "git://x.org/y", "https://x.org/y z", "https://"])
def test_an_address_is_https(url: str) -> None:
    with pytest.raises(BadRequest, match="must be an https:// address"):
        build(Code, url=url)
