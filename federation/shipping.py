"""Source that goes with an order: a Git pack of its commit, for nodes that reach no Git server."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from uuid import UUID

from fdn_worker.errors import SystemFault
from fdn_worker.protocol import InputFile, Source, TaskOrder
from federation.git import git_environment
from federation.request import BadRequest
from storage.keys import source_key
from storage.objects import ObjectStore
from storage.records import Records

#: Seconds for one command of Git.
PATIENCE = 600.0


def ship(
    orders: Sequence[TaskOrder], records: Records, store: ObjectStore, *, always: bool = False, allow_file: bool = False
) -> list[TaskOrder]:
    """The orders, with the source of those whose files go by the broker (or of all) in the store; one pack for each task.

    Raises BadRequest when repository or commit is not there, SystemFault when Git or the network fails.
    """
    by_broker = {row.name for row in records.nodes() if row.heartbeat and json.loads(row.heartbeat).get("transfer") == "broker"}
    packs: dict[tuple[UUID, str, str, str], InputFile] = {}
    shipped = []
    for order in orders:
        source = order.source
        if source is not None and source.pack is None and (always or order.node in by_broker):
            of = (order.execution, order.task, source.repository, source.commit)
            if of not in packs:
                packs[of] = _stored(order, source, store, allow_file)
            order = order.model_copy(update={"source": source.model_copy(update={"pack": packs[of]})})
        shipped.append(order)
    return shipped


def _stored(order: TaskOrder, source: Source, store: ObjectStore, allow_file: bool) -> InputFile:
    with tempfile.TemporaryDirectory(prefix="fem-source-") as folder:
        path = pack_of(source, Path(folder), allow_file=allow_file)
        with path.open("rb") as file:
            sha256, size = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
            file.seek(0)
            where = source_key(order.execution, order.task, sha256)
            store.put(where, file, size)
    return InputFile(name="source.pack", size=size, sha256=sha256, where=where)


def pack_of(source: Source, folder: Path, *, allow_file: bool = False) -> Path:
    """A file in `folder` with the commit's own objects, and none of its history."""
    if source.repository.startswith("file://") and not allow_file:
        raise BadRequest(
            f"source {source.repository}: https:// only", code="source-refused", remedy="push it to a server that the centre reaches"
        )
    environment = git_environment(allow_file=allow_file) | {"GIT_DIR": str(folder / "git")}

    def git(*words: str, said: str = "") -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                ["git", *words], env=environment, cwd=folder, input=said, capture_output=True, text=True, timeout=PATIENCE, check=False
            )
        except OSError as error:
            raise SystemFault(
                f"git cannot be started: {error.strerror}", code="source-unavailable", remedy="install git at the centre"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise SystemFault(f"source {source.repository} did not come in {PATIENCE:.0f} s", code="source-unavailable") from error

    git("init", "--quiet", "--bare", "--template=", f"--object-format={'sha256' if len(source.commit) == 64 else 'sha1'}")
    fetch = ("fetch", "--quiet", "--no-tags", "--no-recurse-submodules")
    # Some servers give a commit by its id; of others all branches and tags are asked for.
    if git(*fetch, "--depth=1", "--", source.repository, source.commit).returncode:
        done = git(*fetch, "--", source.repository, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["git failed"]
            raise SystemFault(
                f"source {source.repository}: {lines[0]}", code="source-unavailable", remedy="mend its address, or submit again later"
            )
    if git("cat-file", "-e", f"{source.commit}^{{commit}}").returncode:
        raise BadRequest(
            f"repository {source.repository} has no commit {source.commit}", code="source-missing", remedy="push it, or name another"
        )
    (folder / "git" / "shallow").write_text(source.commit + "\n")
    done = git("pack-objects", "--quiet", "--revs", str(folder / "source"), said=source.commit + "\n")
    if done.returncode:
        raise SystemFault(f"git cannot pack {source.commit}: {done.stderr.strip()}", code="source-unavailable")
    return folder / f"source-{done.stdout.strip()}.pack"
