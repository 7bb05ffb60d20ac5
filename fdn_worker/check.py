"""The probes of `fdn-worker check`: each a finding and, where it is bad, what mends it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import urllib3

from fdn_worker import folders, launchers, policy
from fdn_worker.brokers import connect
from fdn_worker.errors import FdnError
from fdn_worker.holds import bind_address
from fdn_worker.journal import Journal
from fdn_worker.protocol import Signer
from fdn_worker.protocol.names import command_queue, control_queue
from fdn_worker.release.airlock import Airlock
from fdn_worker.settings import WorkerSettings


@dataclass(frozen=True)
class Finding:
    sound: bool
    what: str
    says: str
    remedy: str = ""


def probe(settings: WorkerSettings) -> Iterator[Finding]:
    """All findings, one after the other."""
    yield _disk(settings)
    yield _journal(settings)
    yield _keys(settings)
    yield _broker(settings)
    yield _store(settings)
    yield _release(settings)
    for name in settings.allowed_launchers:
        yield _launcher(name, settings)
    for name in sorted(settings.datasets):
        yield _folder("dataset", name, folders.dataset, settings)
    for name in sorted(settings.shelves):
        yield _shelf(name, settings)
    for path in settings.host_paths:
        yield Finding(
            path.exists(),
            f"host path {path}",
            *(("is there",) if path.exists() else ("is not there", "make it, or take it from host_paths")),
        )
    if settings.ports:
        yield _ports(settings)


def _bad(what: str, error: FdnError) -> Finding:
    return Finding(False, what, error.message, error.remedy or "see the log")


def _disk(settings: WorkerSettings) -> Finding:
    what = f"disk of {settings.state_dir}"
    try:
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        free = policy.disk_free(settings.state_dir)
    except OSError as error:
        return Finding(False, what, error.strerror or str(error), "make the folder, writable for the worker's user")
    if free < settings.limits.disk_reserve:
        return Finding(False, what, f"{free:,} bytes free", f"free space: below {settings.limits.disk_reserve:,} no order is taken")
    return Finding(True, what, f"{free:,} bytes free")


def _journal(settings: WorkerSettings) -> Finding:
    path = settings.state_dir / "journal.db"
    try:
        journal = Journal(path, Signer())
        journal.set_flag("checked", "yes")
        journal.close()
    except FdnError as error:
        return _bad("journal", error)
    return Finding(True, "journal", f"{path} can be written")


def _keys(settings: WorkerSettings) -> Finding:
    if settings.keys.private is None:
        return Finding(True, "keys", "an embedded federation works unsigned")
    try:
        Signer.load(settings.node, settings.keys.private)
    except FdnError as error:
        return _bad("keys", error)
    if not settings.keys.trusted:
        return Finding(False, "keys", "no key is trusted: every order would be refused", "add the centre's public key under [keys.trusted]")
    return Finding(True, "keys", f"signs as {settings.node}, trusts {', '.join(settings.keys.trusted)}")


def _broker(settings: WorkerSettings) -> Finding:
    url = settings.broker.url.get_secret_value()
    place = urlsplit(url).hostname or url.removeprefix("sqlite:///")
    try:
        broker = connect(url, name=f"fdn-worker check {settings.node}")
        try:
            missing = [queue for queue in (command_queue(settings.node), control_queue(settings.node)) if broker.depth(queue) is None]
        finally:
            broker.close()
    except FdnError as error:
        return _bad("broker", error)
    if missing:
        return Finding(
            False, "broker", f"{place} has no queue {missing[0]}", f"have the centre enrol this node: `fem nodes enrol {settings.node}`"
        )
    return Finding(True, "broker", f"{place} answers, and has this node's queues")


def _store(settings: WorkerSettings) -> Finding:
    address = settings.transfer.store
    if settings.transfer.by == "broker":
        return Finding(True, "store", "not needed: files go over the broker")
    if not address:
        return Finding(True, "store", "not probed: transfer.store is not set")
    if address.startswith("file://"):
        folder = Path(urlsplit(address).path)
        # The centre makes it with the first file.
        sound = settings.transfer.allow_file and folder.parent.is_dir()
        return Finding(sound, "store", f"folder {folder}", "" if sound else f"make {folder.parent}, and set transfer.allow_file")
    try:
        # Any answer will do: without a signed URL a store refuses, but it is there.
        response = urllib3.PoolManager(retries=False, timeout=10).request("GET", address, redirect=False)
    except (urllib3.exceptions.HTTPError, ValueError) as error:
        return Finding(False, "store", f"{address}: {type(error).__name__}", "check the address, and that the site's firewall lets it out")
    return Finding(
        response.status < 500, "store", f"{address} answers {response.status}", "" if response.status < 500 else "tell the centre"
    )


def _release(settings: WorkerSettings) -> Finding:
    try:
        Airlock(settings)
    except FdnError as error:
        return _bad("release", error)
    section = settings.release
    if not section.closed:
        return Finding(True, "release", "nothing waits here: all that matches an order's patterns leaves by itself ([release] has no rule)")
    said = f"{len(section.rules)} rules, and for the rest {section.otherwise}"
    if settings.logs == "live":
        return Finding(False, "release", f"{said}; but a task's log leaves as it comes, whatever it says", 'set logs = "after-release" or "never"')
    return Finding(True, "release", said)


def _launcher(name: str, settings: WorkerSettings) -> Finding:
    what = f"launcher {name}"
    try:
        held = launchers.load(name, settings.launchers.get(name, {}), settings.state_dir / name).names(settings.node)
    except FdnError as error:
        return _bad(what, error)
    warning = "; it protects nothing: for development alone" if name == "process" else ""
    return Finding(True, what, f"answers, holds {len(held)} attempts{warning}")


def _folder(kind: str, name: str, look: Callable[[str, WorkerSettings], Path], settings: WorkerSettings) -> Finding:
    try:
        folder = look(name, settings)
    except FdnError as error:
        return _bad(f"{kind} {name}", error)
    return Finding(True, f"{kind} {name}", str(folder))


def _shelf(name: str, settings: WorkerSettings) -> Finding:
    found = _folder("shelf", name, folders.shelf, settings)
    if found.sound and not os.access(found.says, os.W_OK):
        return Finding(False, found.what, f"{found.says} cannot be written", "give it to the worker's user")
    return found


def _ports(settings: WorkerSettings) -> Finding:
    try:
        bind = bind_address(settings)
    except FdnError as error:
        return _bad("ports", error)
    return Finding(True, "ports", f"{settings.ports} can be published at {bind}, for others at {settings.address}")
