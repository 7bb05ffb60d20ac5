"""The probes of `fdn-worker check`: each a finding and, where it is bad, what mends it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import urllib3

from fdn_worker import folders, launchers, policy, probe, site_secrets
from fdn_worker.brokers import connect
from fdn_worker.errors import FdnError
from fdn_worker.findings import Finding
from fdn_worker.holds import bind_address
from fdn_worker.journal import Journal
from fdn_worker.launchers import Images
from fdn_worker.policy.lint import lint
from fdn_worker.protocol import Signer, now
from fdn_worker.protocol.names import command_queue, control_queue
from fdn_worker.release.airlock import Airlock
from fdn_worker.settings import WorkerSettings


def findings(settings: WorkerSettings) -> Iterator[Finding]:
    """All findings, one after the other."""
    yield _disk(settings)
    yield _journal(settings)
    yield _keys(settings)
    yield _broker(settings)
    yield _store(settings)
    yield from _policy(settings)
    yield _release(settings)
    for name in settings.allowed_launchers:
        yield from _launcher(name, settings)
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
    for name in sorted(settings.secrets):
        yield _secret(name, settings)


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
        return Finding(True, "keys", "an embedded federation works unsigned: for trying things on, never for data that matters")
    try:
        own = Signer.of_node(settings.node, settings.keys.private)
    except FdnError as error:
        return _bad("keys", error)
    trusted = sorted(set(settings.keys.trusted) - set(settings.keys.revoked))
    if not trusted:
        return Finding(False, "keys", "no key is trusted: every order would be refused", "add the centre's public key under [keys.trusted]")
    return Finding(True, "keys", f"signs as {own.key_id}, trusts {', '.join(trusted)}")


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
        return Finding(
            False, "release", f"{said}; but a task's log leaves as it comes, whatever it says", 'set logs = "after-release" or "never"'
        )
    return Finding(True, "release", said)


def _policy(settings: WorkerSettings) -> Iterator[Finding]:
    path = settings.policy
    if path is None:
        yield Finding(True, "policy", "none is set: whatever the settings allow, they allow to everybody")
        return
    try:
        found = policy.PolicyFile(path).current()
        mode = path.stat().st_mode
    except FdnError as error:
        yield _bad("policy", error)
        return
    if mode & 0o022:
        yield Finding(False, "policy", f"others than its owner may write {path}", f"chmod go-w {path}")
    doubts = len(list(lint(found, settings, now())))
    more = f"; {doubts} doubts: `fdn-worker policy lint`" if doubts else ""
    yield Finding(True, "policy", f"{len(found.rule)} rules of {path} decide{more}")


def _launcher(name: str, settings: WorkerSettings) -> Iterator[Finding]:
    what = f"launcher {name}"
    try:
        launcher = launchers.load(name, settings.launchers.get(name, {}), settings.state_dir / name)
        held = launcher.names(settings.node)
    except FdnError as error:
        yield _bad(what, error)
        return
    warning = "; it protects nothing: for development alone" if name == "process" else ""
    yield Finding(True, what, f"answers, holds {len(held)} attempts{warning}")
    if isinstance(launcher, Images):
        yield from probe.hardening(name, launcher, settings)


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


def _secret(name: str, settings: WorkerSettings) -> Finding:
    what = f"secret {name}"
    try:
        path = site_secrets.check(name, settings)
        site_secrets.place(settings)
    except FdnError as error:
        return _bad(what, error)
    if path.stat().st_mode & 0o007:
        return Finding(False, what, f"{path} is open to everybody on this machine", f"chmod o= {path}")
    return Finding(True, what, f"{path}, handed over in {settings.secrets_dir}")


def _ports(settings: WorkerSettings) -> Finding:
    try:
        bind = bind_address(settings)
    except FdnError as error:
        return _bad("ports", error)
    return Finding(True, "ports", f"{settings.ports} can be published at {bind}, for others at {settings.address}")
