"""Answers to the centre's inquiries: on threads of their own, since the one that takes control requests must not wait."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from cryptography import x509

from fdn_worker import __version__, folders, heart, intake, policy
from fdn_worker.errors import FdnError, PolicyRefused, SystemFault
from fdn_worker.launchers import Images, Launcher
from fdn_worker.protocol import Answer, Health, Inquiry, OrderPlan, Reason, TaskOrder, now, pack
from fdn_worker.protocol.names import EVENT_KEY, event_exchange
from fdn_worker.settings import WorkerSettings

log = logging.getLogger(__name__)


class Node(heart.Node, Protocol):
    """What inquiries are about."""

    def launcher(self, name: str) -> Launcher: ...


class Inquiries:
    """Takes inquiries, and sends an answer to each unless its deadline has passed."""

    def __init__(self, node: Node) -> None:
        self._node, self._began = node, time.monotonic()
        self._pool = ThreadPoolExecutor(2, thread_name_prefix="inquiry")
        # A pull takes minutes, and a plan does not wait for it.
        self._slow = ThreadPoolExecutor(1, thread_name_prefix="images")
        self._closed = False

    def ask(self, inquiry: Inquiry) -> None:
        """Returns at once."""
        pool = self._slow if inquiry.about == "images" and inquiry.action != "list" else self._pool
        pool.submit(self._reply, inquiry).add_done_callback(_tell)

    def close(self) -> None:
        """Answer nothing more."""
        self._closed = True
        for pool in (self._pool, self._slow):
            pool.shutdown(wait=False, cancel_futures=True)

    def _reply(self, inquiry: Inquiry) -> None:
        if inquiry.deadline <= now():
            log.info("an inquiry about %s came too late", inquiry.about, extra={"action": "inquiry-late"})
            return
        node = self._node
        try:
            said = self._answer(inquiry)
        except FdnError as error:
            said = {"refused": _reason(error)}
        answer = Answer(
            request=inquiry.request, node=inquiry.node, at=now(), about=inquiry.about, slots=node.settings.slots,
            slots_free=node.attempts.slots_free, accepting=node.accepting, address=node.settings.address, **said,
        )  # fmt: skip
        try:
            # Kept by nobody: whoever asked can ask again.
            node.broker.publish(
                pack(answer, node.signer), exchange=event_exchange(answer.node), key=EVENT_KEY, message_id=answer.message_id, durable=False
            )
        except SystemFault as error:
            log.warning("answer about %s not sent: %s", inquiry.about, error, extra={"action": "answer-lost"})

    def _answer(self, inquiry: Inquiry) -> dict[str, Any]:
        if inquiry.about == "plan":
            return {"plans": tuple(self._plan(order) for order in inquiry.orders)}
        if inquiry.about == "health":
            return {"health": self._health()}
        if inquiry.about == "images":
            return {"images": self._images(inquiry)}
        self._intake(inquiry)
        return {}

    # A plan

    def _plan(self, order: TaskOrder) -> OrderPlan:
        name = order.launcher or self._node.settings.launcher
        reasons = [_reason(refused) for refused in self._node.attempts.decide(order).refusals]
        reasons += [reason for reason in self._unmet(order) if reason not in reasons]
        digest = here = None
        launcher = self._node.launcher(name) if name in self._node.settings.allowed_launchers else None
        if isinstance(launcher, Images):
            try:
                found = launcher.look(order.image, order.image_digest)
                here, digest = found is not None, found and found.rpartition("@")[2]
            except FdnError as error:
                reasons.append(_reason(error))
        return OrderPlan(task=order.task, accepts=not reasons, reasons=tuple(reasons), launcher=name, image_here=here, image_digest=digest)

    def _unmet(self, order: TaskOrder) -> Iterator[Reason]:
        """What is asked of the data itself, which takes too long for an order's acceptance."""
        try:
            folders.check(order, self._node.settings)
        except PolicyRefused as refused:
            yield _reason(refused)

    # Health

    def _health(self) -> Health:
        node, settings = self._node, self._node.settings
        problems, launchers = heart.problems(node), dict[str, str]()
        for name in settings.allowed_launchers:
            launcher = node.launcher(name)
            try:
                launcher.names(settings.node)
                launchers[name] = launcher.version() if isinstance(launcher, Images) else "ready"
            except SystemFault as error:
                launchers[name] = "unavailable"
                problems.append(f"launcher {name}: {error}")
        images = node.inventory.images() if settings.images != "none" and "unavailable" not in launchers.values() else ()
        paths = dict(_paths(settings))
        problems += [f"{name} is not as it should be" for name, fit in paths.items() if not fit]
        return Health(
            worker_version=__version__, clock=now(), uptime=time.monotonic() - self._began, cpus=policy.machine_cpus(),
            memory=policy.machine_memory(), gpus=policy.offered_gpus(settings), disk_free=policy.disk_free(settings.state_dir), paths=paths,
            launchers=launchers, images=images, certificate_expires=certificate_expires(settings), problems=tuple(problems),
        )  # fmt: skip

    # Images

    def _images(self, inquiry: Inquiry) -> Any:
        settings, image = self._node.settings, inquiry.image
        if settings.images == "none" or (inquiry.action != "list" and settings.images != "manage"):
            raise PolicyRefused(f"node {settings.node} does not let the centre {inquiry.action} images", code="images-refused")
        stores = self._node.inventory.stores()
        if not stores:
            raise PolicyRefused(f"node {settings.node} has no launcher with images", code="images-refused")
        if inquiry.action != "list":
            log.info("image %s: %s, for %s", image, inquiry.action, inquiry.user or "nobody named", extra={"action": "images"})
            (stores[0].pull if inquiry.action == "pull" else stores[0].drop)(image)
        return self._node.inventory.images()

    # Intake

    def _intake(self, inquiry: Inquiry) -> None:
        """Answered once it is in force. The site's own drain is another flag."""
        pause = inquiry.action == "pause"
        log.info("intake: %s, for %s", inquiry.action, inquiry.user or "nobody named", extra={"action": inquiry.action})
        self._node.journal.set_flag(intake.PAUSED, (inquiry.user or "the centre") if pause else None)
        if not intake.in_force(self._node.journal, lambda: not self._closed and now() < inquiry.deadline):
            log.warning("intake: %s is not in force yet", inquiry.action, extra={"action": inquiry.action})


def _reason(error: FdnError) -> Reason:
    return Reason(code=error.code, fault=error.fault, message=str(error))


def _tell(answered: Future[None]) -> None:
    """A fault of our own belongs into the log."""
    if not answered.cancelled() and (error := answered.exception()) is not None:
        log.error("an inquiry failed inside the worker", exc_info=error, extra={"action": "internal-error"})


def _paths(settings: WorkerSettings) -> Iterator[tuple[str, bool]]:
    """Folders by what they are to the centre, which is not told where they stand."""
    yield "state_dir", settings.state_dir.is_dir()
    for what, names, look in (("dataset", settings.datasets, folders.dataset), ("shelf", settings.shelves, folders.shelf)):
        for name in sorted(names):
            try:
                look(name, settings)
                yield f"{what} {name}", True
            except PolicyRefused:
                yield f"{what} {name}", False
    for path in settings.host_paths:
        yield f"host path {path}", path.is_dir()


def certificate_expires(settings: WorkerSettings) -> datetime | None:
    """When the certificate by which this node logs in at the broker ends; None without one, or where it cannot be read."""
    files = parse_qs(urlsplit(settings.broker.url.get_secret_value()).query).get("certfile")
    if not files:
        return None
    try:
        return x509.load_pem_x509_certificate(Path(files[0]).read_bytes()).not_valid_after_utc
    except (OSError, ValueError) as error:
        log.warning("certificate %s: %s", files[0], error, extra={"action": "certificate"})
        return None
