"""Outputs and logs of an execution as one download: several files at a time, gone on with where they were cut, checked.

What one node left damaged or not at all holds up nobody: the others are fetched, and it is told.
"""

from __future__ import annotations

import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from fdn_worker.errors import FdnError, StoreUnavailable, SystemFault
from fdn_worker.protocol import State
from federation.centre import Centre, Submission
from federation.request import BadRequest
from federation.results import OutputFile, TaskResult, describe, download

#: Files that are fetched at once.
WIDTH = 4

#: Told of each so many bytes, from any thread.
Told = Callable[[int], None]


@dataclass(frozen=True)
class Wanted:
    """A file to fetch into `folder`, which is relative."""

    folder: Path
    file: OutputFile


@dataclass
class Found:
    """What an execution left: files, results that tell of more or less than that, and what is wrong, in words."""

    files: list[Wanted] = field(default_factory=list)
    results: list[TaskResult] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    nodes: int = 0

    @property
    def size(self) -> int:
        return sum(wanted.file.size for wanted in self.files)

    @property
    def partial(self) -> str:
        """Who did not succeed; "" when all did."""
        whole = {result.node for result in self.results} - (left := {one.node for one in self.results if one.state is not State.SUCCEEDED})
        if len(whole) == self.nodes:
            return ""
        told = [one.explain() for one in self.results if one.node in left and one.state is not State.SUCCEEDED]
        return f"{len(whole)} of {self.nodes} nodes: partial" + "".join(f"\n  {line}" for line in told)


def look(centre: Centre, submissions: Sequence[Submission]) -> Found:
    """What is there, checked against the manifests. Files go below NODE, or NODE/TASK where there are several tasks."""
    found = Found(nodes=len({one.node for one in submissions}))
    several = len({one.task for one in submissions}) > 1
    looked: dict[Submission, TaskResult | FdnError] = {}

    def one(submission: Submission) -> None:
        try:
            looked[submission] = describe(centre, submission)
        except StoreUnavailable as error:
            if error.code == StoreUnavailable.code:
                raise  # that is so for all of them
            looked[submission] = error
        except FdnError as error:
            looked[submission] = error

    centre.side_by_side(submissions, one)
    for submission in submissions:
        result = looked[submission]
        if isinstance(result, FdnError):
            found.troubles.append(f"{submission.node}: {result}")
            continue
        found.results.append(result)
        if result.cleaned:
            found.troubles.append(f"{result.node}: deleted on {result.cleaned:%Y-%m-%d} by retention")
        folder = Path(submission.node, submission.task) if several else Path(submission.node)
        found.files += [Wanted(folder, file) for file in result.files]
    return found


def fetch(centre: Centre, files: Sequence[Wanted], to: Path, told: Told = lambda _: None) -> tuple[list[Path], list[str]]:
    """The files that are there now, in their order, and what is wrong with the others. A store or disk that fails as a whole is raised."""
    ended = threading.Event()

    def unless_ended(size: int) -> None:
        if ended.is_set():
            raise SystemFault("not fetched", code="download-ended")
        told(size)

    def one(wanted: Wanted) -> Path | str | None:
        if ended.is_set():
            return None
        try:
            return _once_more(centre, wanted, to / wanted.folder, unless_ended)
        except StoreUnavailable as error:
            if error.code == StoreUnavailable.code:
                ended.set()
                raise
            return f"{wanted.folder}: {error}"
        except FdnError as error:
            return f"{wanted.folder}/{wanted.file.path}: {error}"
        except OSError as error:
            ended.set()
            raise SystemFault(f"{to}: {error.strerror}", code="download-disk", remedy="mend that, and call again: it goes on") from error

    with ThreadPoolExecutor(WIDTH, thread_name_prefix="download") as pool:
        try:
            done = list(pool.map(one, files))
        finally:
            ended.set()  # after Ctrl-C, too, no thread goes on
    return [path for path in done if isinstance(path, Path)], [trouble for trouble in done if isinstance(trouble, str)]


def _once_more(centre: Centre, wanted: Wanted, folder: Path, told: Told) -> Path:
    """What stood there of an earlier try may have been cut by a crash; then it is fetched from its start."""
    begun = (folder / (wanted.file.path + ".partial")).exists()
    try:
        return download(centre, wanted.file, folder, told)
    except StoreUnavailable as error:
        if error.code != "download-corrupted" or not begun:
            raise
        return download(centre, wanted.file, folder, told)


def archive(centre: Centre, files: Sequence[Wanted], path: Path, told: Told = lambda _: None) -> tuple[int, list[str]]:
    """Write the files to `path` (.zip or .tar), whole or not at all, and not for no file; how many there are, and what is wrong with the others.

    Each is checked before it goes in, a few at a time, so that neither memory nor disk holds all of them twice.
    """
    kinds: dict[str, type[_Zip] | type[_Tar]] = {".zip": _Zip, ".tar": _Tar}
    write = kinds.get(path.suffix)
    if write is None:
        raise BadRequest(f"archive {path.name}: neither .zip nor .tar", remedy="name it FILE.zip or FILE.tar")
    partial, count, troubles = path.with_name(path.name + ".partial"), 0, []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as place, write(partial) as sink:
            for start in range(0, len(files), WIDTH):
                done, wrong = fetch(centre, files[start : start + WIDTH], Path(place), told)
                for file in done:
                    sink.add(file, str(file.relative_to(place)))
                    file.unlink()
                count += len(done)
                troubles += wrong
        if count:
            partial.replace(path)
    except OSError as error:
        raise SystemFault(f"archive {path}: {error.strerror}", code="download-disk", remedy="name a place with room for it") from error
    finally:
        partial.unlink(missing_ok=True)
    return count, troubles


class _Zip(zipfile.ZipFile):
    """What the sites sent may be packed already, so it is stored as it is."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w", zipfile.ZIP_STORED, strict_timestamps=False)

    def add(self, file: Path, name: str) -> None:
        self.write(file, name)


class _Tar:
    """No user, group or mode of this machine goes in."""

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 (closed by `__exit__`)

    def __enter__(self) -> _Tar:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def add(self, file: Path, name: str) -> None:
        info = self._tar.gettarinfo(file, name)
        info.uid, info.gid, info.uname, info.gname, info.mode = 0, 0, "", "", 0o644
        with file.open("rb") as source:
            self._tar.addfile(info, source)
