"""A task's source code: a Git repository at one commit, through a clone that the node keeps.

What a repository could run or reach is switched off: no hooks, no submodules, no configuration but ours, https alone.
"""

from __future__ import annotations

import hashlib
import shutil
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from fdn_worker.errors import SystemFault, TaskFailed
from fdn_worker.protocol import Source

if TYPE_CHECKING:
    from git import Repo

_OPTIONS = ("core.hooksPath=/dev/null", "protocol.ext.allow=never", "core.fsmonitor=false", "core.symlinks=true")


class SourceCache:
    """Bare clones below `root`, one a repository; one fetch at a time."""

    def __init__(self, root: Path, *, allow_file: bool, timeout: float) -> None:
        self._root, self._timeout = root, timeout
        self._environment = {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_ALLOW_PROTOCOL": "https:file" if allow_file else "https",
            "GIT_LFS_SKIP_SMUDGE": "1",
        }
        self._lock = threading.Lock()

    def checkout(self, source: Source, target: Path, pack: Path | None = None) -> None:
        """Make `target` the tree of that commit, without its history. Nothing half-done stays behind.

        With `pack`, a Git pack of the commit that came with the order, no server is asked. Raises TaskFailed when the
        repository or the commit is not there, SystemFault when Git or the network fails.
        """
        try:
            from git import Git
            from git.exc import GitCommandError
        except ImportError as error:
            raise SystemFault("this node has no git", code="source-unavailable", remedy="install git at the site") from error

        if target.exists():
            return
        partial, index = target.with_name(target.name + ".partial"), target.with_name(target.name + ".index")
        unpacked = target.with_name(target.name + ".git")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            if pack is None:
                with self._lock:
                    repo = self._clone(source)
            else:
                repo = self._unpack(source, pack, unpacked)
            work = Git(str(partial))
            # An index of its own: the clone's would be one for all, and its lock would outlive a kill.
            work.update_environment(**self._environment, GIT_INDEX_FILE=str(index))
            index.with_name(index.name + ".lock").unlink(missing_ok=True)
            options = [word for option in _OPTIONS for word in ("-c", option)]
            work.execute(
                ["git", *options, f"--git-dir={repo.git_dir}", f"--work-tree={partial}", "checkout", "--force", source.commit, "--", "."],
                kill_after_timeout=self._timeout,
            )
        except GitCommandError as error:
            shutil.rmtree(partial)
            raise _explained(source, error) from error
        finally:
            index.unlink(missing_ok=True)
            shutil.rmtree(unpacked, ignore_errors=True)
        partial.rename(target)

    def _clone(self, source: Source) -> Repo:
        from git import Repo
        from git.exc import GitCommandError

        folder = self._root / hashlib.sha256(source.repository.encode()).hexdigest()[:32]
        options = [f"--config={option}" for option in _OPTIONS]
        if not (folder / "HEAD").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            partial = folder.with_name(folder.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            # Our own constant options are what GitPython calls unsafe here: they only switch things off.
            Repo.clone_from(
                source.repository, partial, env=self._environment, multi_options=["--mirror", *options], allow_unsafe_options=True,
                kill_after_timeout=self._timeout,
            )  # fmt: skip
            partial.rename(folder)
        repo = Repo(folder)
        repo.git.update_environment(**self._environment)
        try:
            repo.git.cat_file("-e", source.commit + "^{commit}")
        except GitCommandError:
            repo.git.fetch("--prune", "--no-recurse-submodules", "origin", kill_after_timeout=self._timeout)
            repo.git.cat_file("-e", source.commit + "^{commit}")
        return repo

    def _unpack(self, source: Source, pack: Path, folder: Path) -> Repo:
        """A repository that has the pack's commit. Git computes each object's id anew, so the commit is the one that was ordered, or not there."""
        from git import Repo

        shutil.rmtree(folder, ignore_errors=True)
        hashes = "sha256" if len(source.commit) == 64 else "sha1"
        repo = Repo.init(folder, bare=True, object_format=hashes, template="", allow_unsafe_options=True)
        repo.git.update_environment(**self._environment)
        with pack.open("rb") as packed:
            repo.git.index_pack("--stdin", istream=packed, kill_after_timeout=self._timeout)
        # Its parents did not come.
        (folder / "shallow").write_text(source.commit + "\n")
        repo.git.cat_file("-e", source.commit + "^{commit}")
        return repo


def _explained(source: Source, error: Exception) -> TaskFailed | SystemFault:
    text = str(error)
    if "cat-file" in text or "unable to read tree" in text or "not a tree" in text:
        return TaskFailed(
            f"repository {source.repository} has no commit {source.commit}", code="source-missing", remedy="push it, or name another"
        )
    if "does not exist" in text or "not found" in text or "does not appear to be a git repository" in text:
        return TaskFailed(f"there is no repository at {source.repository}", code="source-missing", remedy="mend its address")
    # GitPython puts what Git said between quotes, the last of them on a line of its own
    said = [line.strip(" '").removeprefix("stderr: '") for line in text.splitlines()]
    last = next((line for line in reversed(said) if line), "git failed")
    return SystemFault(f"fetching {source.repository}: {last}", code="source-unavailable", remedy="the run may be submitted again")
