"""What an attempt has of the node for itself: the ports that it publishes, and a sandbox that outlives it.

Chosen once and kept in the journal, so that a restarted worker tells the same, and given back once its files are away.
"""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from fdn_worker.disk import weigh
from fdn_worker.errors import SystemFault
from fdn_worker.journal import Journal, Phase
from fdn_worker.protocol import TaskOrder
from fdn_worker.sandbox import RunFolder, remove_tree
from fdn_worker.settings import WorkerSettings


@dataclass(frozen=True)
class Hold:
    """Of one attempt."""

    #: Port of the task -> published port of this machine.
    ports: Mapping[int, int]
    #: Whether it was told already that all of them are open.
    listening: bool


class Holds:
    """Of all attempts; safe from any thread."""

    def __init__(self, settings: WorkerSettings, journal: Journal) -> None:
        self._settings, self._journal = settings, journal
        self._kept = settings.state_dir / "kept"

    def of(self, name: str) -> Hold | None:
        """What the attempt has; None if it took nothing."""
        rows = self._journal.read("SELECT ports, listening FROM holds WHERE name=?", name)
        return Hold(_ports(rows[0]["ports"]), bool(rows[0]["listening"])) if rows else None

    def take(self, order: TaskOrder) -> Hold:
        """What the attempt has already, else what it needs.

        Raises SystemFault (port-taken, no-port, sandbox-busy): another attempt, or a program of the site's, has it now.
        """
        held = self.of(order.name)
        if held is not None:
            return held
        sandbox = kept_as(order)
        # Not durable: a power cut that undoes it ends the task as well.
        with self._journal.transaction(durable=False) as db:
            query = "SELECT h.ports, h.sandbox, r.phase FROM holds h JOIN runs r USING (name) WHERE r.phase NOT IN ('uploaded', 'done')"
            others = db.execute(query).fetchall()
            if sandbox is not None and any(row["sandbox"] == sandbox for row in others):
                raise SystemFault(f"sandbox {order.sandbox!r} is in use by another run", code="sandbox-busy", remedy="wait for its end")
            taken = {port for row in others if row["phase"] not in (Phase.EXITED, Phase.HELD) for port in _ports(row["ports"]).values()}
            ports = self._choose(order, taken)
            db.execute("INSERT INTO holds (name, ports, sandbox) VALUES (?, ?, ?)", (order.name, json.dumps(ports), sandbox))
        return Hold(ports, False)

    def _choose(self, order: TaskOrder, taken: set[int]) -> dict[int, int]:
        bind, chosen = bind_address(self._settings) if order.ports else "", dict[int, int]()
        # Those with a number first, so that nobody else's free choice takes it.
        for port in sorted(order.ports, key=lambda port: port.host is None):
            wanted = (port.host,) if port.host is not None else self._settings.published
            found = _first_free(wanted, taken | set(chosen.values()), bind)
            if found is None and port.host is not None:
                raise SystemFault(f"port {port.host} of node {order.node} is in use", code="port-taken", remedy="wait, or name none")
            if found is None:
                raise SystemFault(f"node {order.node} has no free port left", code="no-port", remedy="wait for other servers to end")
            chosen[port.container] = found
        return chosen

    # Kept sandboxes

    def folder(self, order: TaskOrder) -> RunFolder:
        """The attempt's folders."""
        root = self._settings.state_dir / "runs" / order.name
        sandbox = kept_as(order)
        return RunFolder(root, self._kept / sandbox if sandbox is not None else None)

    def sweep(self) -> None:
        """Remove kept sandboxes that were not used for the site's number of days."""
        oldest = time.time() - self._settings.keep_days * 86400
        for folder in self._kept.glob("*/*"):
            if folder.name.startswith("."):  # what a sweep that was cut off left behind
                remove_tree(folder)
            elif folder.stat().st_mtime < oldest:
                self._put_away(folder)

    def collect(self, most: int) -> int:
        """Remove kept sandboxes that are not in use, the longest unused first, until that many bytes are free; how many are."""
        freed = 0
        for folder in sorted(self._kept.glob("*/[!.]*"), key=lambda folder: folder.stat().st_mtime):
            if freed >= most:
                break
            size = weigh(folder).size
            self._put_away(folder)
            freed += 0 if folder.exists() else size
        return freed

    def _put_away(self, folder: Path) -> None:
        gone = folder.with_name(f".{folder.name}")
        name = folder.relative_to(self._kept).as_posix()
        # Inside a transaction nobody can take it.
        with self._journal.transaction(durable=False) as db:
            query = "SELECT 1 FROM holds h JOIN runs r USING (name) WHERE h.sandbox=? AND r.phase NOT IN ('uploaded', 'done')"
            if db.execute(query, (name,)).fetchone() is None:
                folder.rename(gone)
        if gone.exists():
            remove_tree(gone)


def kept_as(order: TaskOrder) -> str | None:
    """The kept sandbox of an order, `<user>/<name>`; the user's name as a hash, so that none leads into another's folder."""
    if order.sandbox is None:
        return None
    return f"{sha256(order.labels.user.encode()).hexdigest()[:32]}/{order.sandbox}"


def bind_address(settings: WorkerSettings) -> str:
    """The one address at which ports are published. SystemFault when it is none of this machine's."""
    try:
        address: str = settings.bind or str(socket.getaddrinfo(settings.address, None, type=socket.SOCK_STREAM)[0][4][0])
        _bind(address, 0)
    except OSError as error:
        raise SystemFault(
            f"ports cannot be published at {settings.bind or settings.address}: {error.strerror}", code="address-unusable",
            remedy="set bind to an address of this machine; 0.0.0.0 is all of them",
        ) from error  # fmt: skip
    return address


def _first_free(ports: Iterable[int], taken: set[int], bind: str) -> int | None:
    return next((port for port in ports if port not in taken and _free(bind, port)), None)


def _free(bind: str, port: int) -> bool:
    try:
        _bind(bind, port)
    except OSError:
        return False
    return True


def _bind(address: str, port: int) -> None:
    """Listen there for a moment. OSError when that cannot be."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as probe:
        # As servers do: a connection of its predecessor that lingers does not keep a port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((address, port))


def _ports(text: str) -> dict[int, int]:
    return {int(port): published for port, published in json.loads(text).items()}
