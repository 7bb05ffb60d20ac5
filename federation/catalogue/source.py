"""Pinning a tool's source: a branch is resolved once, when the tool is submitted, so that all nodes get the same commit."""

from __future__ import annotations

import subprocess

from fdn_worker.errors import SystemFault
from federation.catalogue.tool import Code, Tool
from federation.git import git_environment
from federation.request import BadRequest

#: Seconds for a repository to answer.
PATIENCE = 60.0


def pinned(tool: Tool, *, allow_file: bool = False) -> Tool:
    """The tool with a commit in each source. Asks the repositories of those that name a branch, or nothing."""
    tasks = []
    for task in tool.tasks:
        if task.source is not None and task.source.commit is None:
            commit = commit_of(task.source, allow_file=allow_file)
            task = task.model_copy(update={"source": task.source.model_copy(update={"commit": commit})})
        tasks.append(task)
    return tool.model_copy(update={"tasks": tuple(tasks)})


def commit_of(code: Code, *, allow_file: bool = False) -> str:
    """The commit that the branch, or the repository's own default, stands at now."""
    if code.url.startswith("file://") and not allow_file:
        raise BadRequest(f"source {code.url}: https:// only", code="source-refused", remedy="push it to a server that the sites reach")
    refs = [f"refs/heads/{code.branch}", f"refs/tags/{code.branch}^{{}}", f"refs/tags/{code.branch}"] if code.branch else ["HEAD"]
    environment = git_environment(allow_file=allow_file)
    try:
        done = subprocess.run(
            ["git", "ls-remote", "--", code.url, *refs], env=environment, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
    except OSError as error:
        raise SystemFault(
            f"git cannot be started: {error.strerror}", code="source-unavailable", remedy="install git at the centre"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise SystemFault(f"source {code.url} did not answer in {PATIENCE:.0f} s", code="source-unavailable") from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["git failed"]
        raise SystemFault(f"source {code.url}: {said[0]}", code="source-unavailable", remedy="mend its address, or submit again later")
    found: dict[str, str] = {ref: commit for commit, _, ref in (line.partition("\t") for line in done.stdout.splitlines())}
    for ref in refs:
        if ref in found:
            return found[ref]
    raise BadRequest(f"source {code.url} has no {'branch or tag ' + code.branch if code.branch else 'commit yet'}", code="source-missing")
