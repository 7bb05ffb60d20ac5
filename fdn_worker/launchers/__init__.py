"""Launcher: what starts a task at a node. Found by name among the entry points of group `fdn_worker.launchers`.

An attempt is known to its launcher by its name alone, which is derived from run and attempt: so a restarted worker
finds what its predecessor started, and nothing is started twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from fdn_worker.errors import PolicyRefused, SettingsError
from fdn_worker.protocol import ImageHere, Resources, TaskOrder, Usage
from fdn_worker.settings import KeepTo

GROUP = "fdn_worker.launchers"
PullPolicy = Literal["always", "if-not-present", "never"]


@dataclass(frozen=True)
class Bind:
    """A folder or file of the host that the task sees at `target` as well."""

    source: Path
    target: str
    read_only: bool = True


@dataclass(frozen=True)
class LaunchSpec:
    """All that a launcher needs to start one attempt. Paths are the host's, absolute and real."""

    name: str
    node: str
    argv: tuple[str, ...]
    #: What `prepare` returned.
    image: str | None
    environment: Mapping[str, str]
    #: The one folder that the task may write; also its working folder.
    sandbox: Path
    #: Read-only for the task: dataset name -> folder.
    datasets: Mapping[str, Path] = field(default_factory=dict)
    #: Read-only for the task; None when there is none.
    inputs: Path | None = None
    source: Path | None = None
    #: Read-only for the task, in memory: a file a secret; None when there is none.
    secrets: Path | None = None
    resources: Resources = field(default_factory=Resources)
    network: bool = False
    #: What of the network it is kept to.
    keep_to: KeepTo = ""
    #: The site's own variables, for the environment and to be filled in.
    variables: Mapping[str, str] = field(default_factory=dict)
    #: Port of the task -> port of this machine at which others reach it, on the address `bind` alone.
    ports: Mapping[int, int] = field(default_factory=dict)
    bind: str = ""
    mounts: tuple[Bind, ...] = ()


@dataclass(frozen=True)
class LogLine:
    """A line that the task printed. `cursor` is where to go on after it."""

    text: str
    cursor: str


@dataclass(frozen=True)
class Exit:
    """How an attempt ended. `code` as a shell gives it: 128 + signal when killed."""

    code: int
    out_of_memory: bool
    started: datetime
    finished: datetime
    usage: Usage


class Launcher(Protocol):
    """At most six methods; each may be called from any thread.

    Made with `state`, a folder of its own at the node, and the options of the node's table `[launchers.<name>]`.

    All raise LauncherUnavailable when the engine does not answer within a bounded time.
    """

    def prepare(self, image: str | None, digest: str | None) -> str | None:
        """Have the image here, by the node's pull policy; return the digest that `start` takes.

        Raises TaskFailed (image-missing, digest-differs) or PolicyRefused.
        """

    def start(self, spec: LaunchSpec) -> None:
        """Start the attempt, or adopt it when its name is taken; an exited one is never started again."""

    def follow(self, name: str, on_line: Callable[[LogLine], None], after: str = "") -> Exit:
        """Hand over each log line after cursor `after`, until the attempt has ended; then tell how.

        Raises RunVanished when nothing of that name is here, or its exit status is lost.
        """

    def stop(self, name: str, grace: float) -> None:
        """TERM, `grace` seconds, then KILL, of the whole tree. Returns at the end. Nothing there is no error."""

    def remove(self, name: str) -> None:
        """Clear away all that is left of the attempt, killing it if need be. Idempotent."""

    def names(self, node: str) -> set[str]:
        """Names of this node's attempts that the launcher still holds, live or exited."""


# What a launcher may offer besides. One that lacks `Serving` gets no order with ports, one that lacks `Particular` none
# with mounts or secrets, one that lacks `Keeping` none that is to be kept to a proxy: what it does not know of, it would leave
# out without a word.


@runtime_checkable
class Serving(Protocol):
    """Tasks of this launcher can be servers."""

    def listening(self, name: str, ports: Mapping[int, int]) -> set[int]:
        """Those ports of the task at which the task itself takes connections now. No connection is made to find out."""


@runtime_checkable
class Particular(Protocol):
    """Knows all that an order may hold, and which of it this launcher, with its options, does not take."""

    def refusals(self, order: TaskOrder) -> Iterator[PolicyRefused]:
        """Every reason; quick, without asking an engine."""


@runtime_checkable
class Keeping(Protocol):
    """Tasks of this launcher can be kept to a part of the network."""

    def gives(self, keep_to: KeepTo) -> bool:
        """Whether the site has set it up for that."""


@runtime_checkable
class Weighable(Protocol):
    """Knows what its tasks hold on to of a disk, though it has no name there any more."""

    def unlinked(self, name: str, folder: Path) -> int:
        """Bytes of deleted files on the disk of `folder` that the task still has open; 0 where that cannot be seen."""


@runtime_checkable
class Images(Protocol):
    """Tasks of this launcher come from images."""

    def version(self) -> str:
        """The engine's, for people."""

    def images(self) -> list[ImageHere]:
        """All that are here, by name."""

    def look(self, image: str | None, digest: str | None) -> str | None:
        """What `prepare` would return if the image is here; None if it has yet to be pulled. Raises as `prepare` does."""

    def pull(self, image: str) -> None:
        """Have it here, from its registry. Raises TaskFailed (image-missing)."""

    def drop(self, image: str) -> None:
        """Take the name away, and the image with its last one. Raises TaskFailed (image-missing, image-in-use)."""


@runtime_checkable
class Collecting(Protocol):
    """Brings images here, and takes away again what it brought."""

    def collect(self, most: int, keep: Callable[[str], bool]) -> int:
        """Remove images that it pulled, the longest unused first, until the rest takes at most `most` bytes; the bytes of the rest.

        Those that a task has, or whose name is to be kept, stay.
        """


def refusals(launcher: Launcher, order: TaskOrder, keep_to: KeepTo = "") -> Iterator[PolicyRefused]:
    """Why this launcher does not take the order, whose task would be kept to that of the network."""
    if isinstance(launcher, Keeping):
        if (order.network or order.ports or order.servers) and not launcher.gives(keep_to):
            yield no_network(order.node)
    elif keep_to == "proxy":
        yield PolicyRefused("this launcher keeps no task to a proxy", code="network-refused", remedy="name another one")
    if order.ports and not isinstance(launcher, Serving):
        yield PolicyRefused("this launcher publishes no ports", code="ports-refused", remedy="name another one")
    if isinstance(launcher, Particular):
        yield from launcher.refusals(order)
        return
    if order.mounts:
        yield PolicyRefused("this launcher mounts no folders", code="mounts-refused", remedy="name another one")
    if order.secrets:
        yield PolicyRefused("this launcher hands over no secrets", code="secrets-refused", remedy="name another one")


def no_network(node: str) -> PolicyRefused:
    """The launcher has no network to give."""
    return PolicyRefused(
        f"node {node} grants no network to tasks", code="network-refused", remedy="order it without network, ports and servers"
    )


def load(name: str, options: Mapping[str, Any], state: Path) -> Launcher:
    """The launcher of that entry-point name, made with the node's table `[launchers.<name>]` and a folder for its state."""
    found = {point.name: point for point in entry_points(group=GROUP)}
    if name not in found:
        raise SettingsError(f"launcher {name!r} is not installed", remedy=f"installed are: {', '.join(sorted(found)) or 'none'}")
    launcher: Launcher = found[name].load()(state=state, **options)
    return launcher
