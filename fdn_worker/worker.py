"""The daemon: takes orders and control requests in, gives each attempt a thread and a slot, and keeps the clock.

Threads: the main one ticks (timeouts, log flushes, flags); the broker has one to consume and one to publish; one
empties the outbox, one sends heartbeats, and each attempt that is past its waiting has one.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import threading
import time
from contextlib import AbstractContextManager
from datetime import timedelta

from fdn_worker import freshness, intake, launchers, policy, runner, site_secrets
from fdn_worker.attempts import Attempts
from fdn_worker.audit import Audit
from fdn_worker.brokers import Broker, Delivery, Handler, Subscription
from fdn_worker.errors import (
    BrokerUnavailable,
    JournalUnavailable,
    MessageError,
    SettingsError,
    SystemFault,
)
from fdn_worker.heart import Heart
from fdn_worker.holds import Holds
from fdn_worker.housekeeping import Housekeeping
from fdn_worker.inquiries import Inquiries
from fdn_worker.inventory import Inventory
from fdn_worker.journal import Journal
from fdn_worker.launchers import Launcher
from fdn_worker.onlookers import Onlookers
from fdn_worker.outbox import Outbox
from fdn_worker.policy.document import Policy
from fdn_worker.protocol import (
    Completed,
    ControlRequest,
    Grant,
    Inquiry,
    Keyring,
    Message,
    Refusal,
    Signer,
    Taken,
    TaskOrder,
    decode,
    now,
)  # fmt: skip
from fdn_worker.protocol.names import command_queue, container_name, control_queue
from fdn_worker.release.airlock import Airlock
from fdn_worker.sandbox import RunFolder
from fdn_worker.settings import WorkerSettings
from fdn_worker.source import SourceCache
from fdn_worker.transfer import Transfers

log = logging.getLogger(__name__)

#: Seconds between ticks while something runs, and while nothing does.
TICK, IDLE_TICK = 0.1, 1.0
#: Seconds between sweeps, and between tries to consume while the broker is away.
SWEEP, RETRY = 3600.0, 5.0
#: Days for which the journal remembers an ended attempt.
REMEMBER_DAYS = 30


class Worker:
    """One node. `run` blocks until `stop`; what runs in a launcher then goes on, and is taken up by the next start."""

    def __init__(self, settings: WorkerSettings, broker: Broker) -> None:
        self.settings, self.broker = settings, broker
        settings.state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._alone = _take_alone(settings)
        private = settings.keys.private
        self.signer = Signer.of_node(settings.node, private) if private else Signer()
        self._keyring = Keyring(settings.keys.trusted, unsigned_ok=settings.unsigned, revoked=settings.keys.revoked)
        self.journal = Journal(settings.state_dir / "journal.db", self.signer)
        self.outbox = Outbox(settings.node, self.journal, broker)
        self.audit = Audit(settings.state_dir / "audit", self.journal, self.signer)
        self.journal.on_event = self._wake
        self.transfers = Transfers.of(settings, broker, self.journal, self.signer, self._keyring)
        self.sources = SourceCache(settings.state_dir / "git", allow_file=settings.source.allow_file, timeout=settings.source.timeout)
        self._launchers: dict[str, Launcher] = {}
        self.holds = Holds(settings, self.journal)
        self.airlock = Airlock(settings)
        self.problems: dict[str, str] = {}
        self.policy_file = policy.PolicyFile(settings.policy, self._policy_changed) if settings.policy else None
        self.attempts = Attempts(
            settings, self.journal, self.holds, self.launcher, self.policy_file,
            lambda attempt: runner.run(attempt, self), self._journal_fails,
        )  # fmt: skip
        self.keeping = Housekeeping(
            settings, self.journal, self.holds, self.attempts, lambda: map(self.launcher, settings.allowed_launchers)
        )
        seen = settings.allowed_launchers if settings.images != "none" else ()
        self.inventory = Inventory(lambda: map(self.launcher, seen))
        self.inquiries = Inquiries(self)
        self.heart = Heart(self)
        self.onlookers = Onlookers(self)
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._intake: Subscription | None = None
        self._control: Subscription | None = None
        #: What could not be journalled, and so is not settled, with who handles it.
        self._unwritten: list[tuple[Handler, Delivery]] = []
        self._swept = self._tried = self._looked = -SWEEP

    def _wake(self) -> None:
        self.outbox.wake()
        self.audit.wake()

    @property
    def accepting(self) -> bool:
        """Orders are taken at present."""
        return self._intake is not None

    # The site, as the runner sees it

    def launcher(self, name: str) -> Launcher:
        """The launcher of that name, made once."""
        with self._lock:
            if name not in self._launchers:
                options = self.settings.launchers.get(name, {})
                self._launchers[name] = launchers.load(name, options, self.settings.state_dir / name)
            return self._launchers[name]

    def slot(self) -> AbstractContextManager[None]:
        """The slot that the present attempt has, given back at the end."""
        return self.attempts.slot()

    def end(self, attempt: runner.Attempt, why: str) -> None:
        """Have an attempt stopped; `why` is a key of runner.STOPS."""
        self.attempts.end(attempt, why)

    def uploading(self, order: TaskOrder) -> AbstractContextManager[None]:
        """Inside, an attempt's files are on their way."""
        return self.onlookers.uploading(order)

    # Life

    def run(self) -> None:
        """Recover, serve, and return when told to stop, or when drained empty."""
        for name in self.settings.allowed_launchers:
            self.launcher(name)
        self.journal.forget((now() - timedelta(days=REMEMBER_DAYS)).isoformat())
        if self.settings.unsigned:
            log.warning(
                "this is an embedded federation, for trying things on: nothing is signed, and whoever can write to its broker has this node run "
                "what they like", extra={"action": "unsigned"},
            )  # fmt: skip
        if self.policy_file is None:
            log.warning("no policy: whatever the settings allow, they allow to everybody", extra={"action": "no-policy"})
        self.onlookers.start()
        self.audit.start(self.settings.keys)
        self._mind_policy()
        intake.mind(self.journal, None)
        self.outbox.start()
        self.outbox.wake()
        # Before any control request comes: a cancel must find what it is to end.
        self._recover()
        threading.Thread(target=self.heart.beat, args=(self._stop,), name="heartbeat", daemon=True).start()
        log.info("node %s is up", self.settings.node, extra={"action": "start"})
        while not self._stop.is_set() and self._tick():
            self._stop.wait(TICK if self.attempts else IDLE_TICK)
        self._close()

    def stop(self) -> None:
        """End `run` soon; containers go on."""
        self._stop.set()

    def _close(self) -> None:
        self._stop.set()
        self.attempts.close()
        self.inquiries.close()
        for subscription in (self._intake, self._control):
            if subscription is not None:
                subscription.cancel()
        self.outbox.stop(timeout=5.0)
        self._end_audit()
        self.transfers.close()
        self.onlookers.close()
        self.broker.close()
        log.info("node %s is down; %d attempts go on", self.settings.node, len(self.attempts), extra={"action": "stop"})

    def _end_audit(self) -> None:
        try:
            self.journal.audit("down", attempts=len(self.attempts))
        except JournalUnavailable as error:
            log.error("the audit log has no last entry: %s", error, extra={"action": "audit-waits"})
        self.audit.stop(timeout=5.0)

    def _recover(self) -> None:
        """Take up every attempt where the journal has it."""
        for entry in self.journal.unfinished():
            log.info("resuming %s, which was %s", entry.name, entry.phase, extra={"action": "resume"})
            self.attempts.take_up(entry)
        self.attempts.schedule()

    def _sweep(self) -> None:
        """Clear away what finished attempts left behind: a crash may have come before."""
        runs = self.settings.state_dir / "runs"
        folders = {folder.name for folder in runs.iterdir()} if runs.is_dir() else set()
        for name in self.settings.allowed_launchers:
            try:
                launcher = self.launcher(name)
                # A launcher may hold something of an attempt that it does not name any more.
                for leftover in self._unwanted(launcher.names(self.settings.node) | folders):
                    launcher.remove(leftover)
                self.problems.pop(f"launcher {name}", None)
            except SystemFault as error:
                self.problems[f"launcher {name}"] = str(error)
                log.warning("launcher %s: %s", name, error, extra={"action": "launcher-waits"})
                # A folder goes last: it says that there is still something to clear away.
                return
        for leftover in self._unwanted(folders):
            try:
                RunFolder(runs / leftover).remove()
            except OSError as error:
                log.warning("run folder %s stays behind: %s", leftover, error, extra={"action": "sweep-later"})
        for leftover in self._unwanted(site_secrets.laid(self.settings)):
            site_secrets.clear(leftover, self.settings)
        try:
            self.holds.sweep()
        except (OSError, JournalUnavailable) as error:
            log.warning("kept sandboxes stay behind: %s", error, extra={"action": "sweep-later"})

    def _unwanted(self, found: set[str]) -> set[str]:
        """Those among `found` that no attempt has any more. An attempt is known here before anything of it stands."""
        held = self.attempts.names()
        return found - {entry.name for entry in self.journal.unfinished()} - held

    def _policy_changed(self, found: Policy | SettingsError) -> None:
        """Another policy is in force, or the file is broken and everything refused."""
        if isinstance(found, SettingsError):
            self.problems["policy"] = f"every order is refused: {found}"
            log.error("every order is refused: %s", found, extra={"action": "policy-broken"})
            self.journal.audit("policy", broken=str(found))
            return
        self.problems.pop("policy", None)
        log.info("policy %s of %d rules is in force", found.digest[:12], len(found.rule), extra={"action": "policy"})
        self.journal.audit("policy", sha256=found.digest, rules=[rule.id for rule in found.rule])

    def _mind_policy(self) -> None:
        """Have a change told when it is made, and not with the next order alone."""
        try:
            if self.policy_file is not None:
                self.policy_file.current()
        except SettingsError:
            log.debug("the policy is still broken")
        except JournalUnavailable as error:
            self._journal_fails(error, "a policy")

    # Intake

    def _accepting(self) -> bool:
        if self.journal.flag(intake.DRAIN) is not None:
            self.problems["intake"] = "draining: no orders are taken"
            return False
        if (paused := self.journal.flag(intake.PAUSED)) is not None:
            self.problems["intake"] = f"paused by {paused}: no orders are taken"
            return False
        if full := self.keeping.full():
            self.problems["intake"] = f"{full}: no orders are taken"
            return False
        if "journal" in self.problems:
            return False
        if self.audit.problem:
            self.problems["intake"] = f"{self.audit.problem}: no orders are taken"
            return False
        self.problems.pop("intake", None)
        # Taken up again only at half: each turn costs a word with the broker.
        limit = self.settings.slots + self.settings.backlog
        return len(self.attempts) < (limit if self._intake else limit - self.settings.backlog // 2)

    def _on_order(self, delivery: Delivery) -> None:
        try:
            opened = self._keyring.open(delivery.body)
            order = decode(opened.payload)
            if not isinstance(order, TaskOrder):
                raise MessageError(f"{order.kind} has no place in the command queue")
            if order.node != self.settings.node:
                raise MessageError(f"the order is for node {order.node}", code="wrong-audience")
            self._mind_clock(order)
        except MessageError as error:
            self._refuse(delivery, error, self._on_order)
            return
        try:
            fresh = self.journal.receive(order, opened.payload, opened.key_id)
        except JournalUnavailable as error:
            self._journal_fails(error, "an order")
            self._unwritten.append((self._on_order, delivery))
            return
        delivery.ack()
        if not fresh:
            log.info("%s came again; its state is sent again", order.name, extra={"action": "order-again"})
            return
        entry = self.journal.entry(order.name)
        assert entry is not None
        try:
            self.attempts.take_up(entry)
        except JournalUnavailable as error:
            self._journal_fails(error, order.name)
        self.attempts.schedule()

    def _on_control(self, delivery: Delivery) -> None:
        try:
            opened = self._keyring.open(delivery.body)
            message: Message = decode(opened.payload)
            if not isinstance(message, Grant | Completed | Taken | Refusal | Inquiry | ControlRequest):
                raise MessageError(f"{message.kind} has no place in the control queue")
            if message.node != self.settings.node:
                raise MessageError(f"{message.kind} is for another node", code="wrong-audience")
            if isinstance(message, Inquiry | ControlRequest):
                self._mind_clock(message)
                freshness.check_issued(message.kind, message.issued, self.settings.clock_tolerance, now())
        except MessageError as error:
            self._refuse(delivery, error, self._on_control)
            return
        try:
            if isinstance(message, ControlRequest):
                self._obey(message, opened.key_id)
            elif isinstance(message, Inquiry):
                self._ask(message, opened.key_id)
            else:
                self.transfers.answered(message)
        except JournalUnavailable as error:
            self._journal_fails(error, f"a {message.kind}")
            self._unwritten.append((self._on_control, delivery))
            return
        delivery.ack()

    def _refuse(self, delivery: Delivery, error: MessageError, handle: Handler) -> None:
        """What cannot be read or believed goes to the dead letters, and into the audit log."""
        log.error("message refused: %s", error, extra={"action": "dead-letter"})
        try:
            self.journal.audit("message-refused", code=error.code, why=str(error), sha256=hashlib.sha256(delivery.body).hexdigest())
        except JournalUnavailable as unavailable:
            self._journal_fails(unavailable, "a refused message")
            self._unwritten.append((handle, delivery))
            return
        delivery.reject()

    def _mind_clock(self, message: TaskOrder | ControlRequest | Inquiry) -> None:
        """A wrong clock stands in the heartbeats until the centre's and this one agree again."""
        if ahead := freshness.ahead(message.issued, self.settings.clock_tolerance, now()):
            self.problems["clock"] = f"the centre issued a {message.kind} {ahead} from now: this node's clock or the centre's is wrong"
        else:
            self.problems.pop("clock", None)

    def _ask(self, inquiry: Inquiry, key_id: str) -> None:
        """Have an inquiry answered; one that changes something, once."""
        if inquiry.action != "list":
            if not self.journal.first_time(inquiry.message_id, inquiry.deadline.isoformat()):
                log.warning("inquiry %s came again, and nothing is done again", inquiry.message_id, extra={"action": "inquiry-again"})
                return
            self.journal.audit(
                "inquiry", request=str(inquiry.request), about=inquiry.about, action=inquiry.action, image=inquiry.image, user=inquiry.user,
                key_id=key_id,
            )  # fmt: skip
        self.inquiries.ask(inquiry)

    def _journal_fails(self, error: JournalUnavailable, what: str) -> None:
        """Nothing can be written down, so nothing is concluded, until a tick finds that it can."""
        self.problems["journal"] = str(error)
        log.error("%s waits: %s", what, error, extra={"action": "journal-waits"})

    def _obey(self, request: ControlRequest, key_id: str) -> None:
        name, late = container_name(request.run, request.attempt), request.deadline <= now()
        if request.action == "cancel" or late:
            self.journal.audit(
                "cancel" if not late else "expired", run=str(request.run), attempt=request.attempt, request=str(request.request),
                action=request.action, why=request.why, key_id=key_id,
            )  # fmt: skip
        if late:
            log.warning("a request to %s %s came too late", request.action, name, extra={"action": "control-late"})
            return
        log.info("%s asked for %s: %s", request.action, name, request.why, extra={"action": request.action})
        attempt = self.attempts.get(name)
        if request.action == "cancel" and attempt is not None:
            self.attempts.end(attempt, "cancelled")
        elif request.action == "cancel" and self.attempts.end_held(name):
            log.info("%s is not waited for any longer", name, extra={"action": "cancel"})
        elif not self.journal.send_again(name) and request.action == "cancel":
            self.journal.bury(request, name)

    def _tick(self) -> bool:
        """What is due now. False when there is nothing left to do."""
        try:
            self.attempts.tick()
        except JournalUnavailable as error:
            self._journal_fails(error, "what is due")
        self._mind_policy()
        self._mind_intake()
        if time.monotonic() - self._swept > SWEEP:
            self._swept = time.monotonic()
            threading.Thread(target=self._sweep, name="sweep", daemon=True).start()
        if time.monotonic() - self._looked > self.settings.budget.every:
            self._looked = time.monotonic()
            threading.Thread(target=self.keeping.look, name="budgets", daemon=True).start()
        if self.journal.flag(intake.DRAIN) != "exit" or self.attempts or self.journal.pending(1):
            return True
        # Asked for once, done once: the next start serves.
        self.journal.set_flag(intake.DRAIN, None)
        return False

    def _mind_intake(self) -> None:
        if "journal" in self.problems:
            try:
                self.journal.set_flag("alive", now().isoformat())
                del self.problems["journal"]
                log.info("the journal can be written again", extra={"action": "journal-back"})
                self.attempts.resume()
                unwritten, self._unwritten = self._unwritten, []
                for handle, delivery in unwritten:
                    handle(delivery)
            except JournalUnavailable:
                log.debug("the journal still cannot be written")
        # Read first: a flag that is set from here on is not in force before the next tick.
        flags, accepting = intake.asked(self.journal), self._accepting()
        if self._control is None or (accepting and self._intake is None):
            self._consume(accepting)
        elif not accepting and self._intake is not None:
            self._intake.cancel()
            self._intake = None
        try:
            intake.mind(self.journal, flags)
        except JournalUnavailable as error:
            self._journal_fails(error, "the intake")

    def _consume(self, accepting: bool) -> None:
        if time.monotonic() - self._tried < RETRY and "broker" in self.problems:
            return
        self._tried = time.monotonic()
        try:
            if self._control is None:
                self._control = self.broker.consume(control_queue(self.settings.node), self._on_control, prefetch=16)
            if accepting and self._intake is None:
                self._intake = self.broker.consume(command_queue(self.settings.node), self._on_order, prefetch=16)
            self.problems.pop("broker", None)
        except BrokerUnavailable as error:
            self.problems["broker"] = str(error)
            log.warning("no broker yet: %s", error, extra={"action": "broker-waits"})


def _take_alone(settings: WorkerSettings) -> int:
    """A lock on the state folder, held while this process lives: two workers on one journal would run things twice."""
    path = settings.state_dir / "worker.lock"
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise SettingsError(
            f"another worker has the state folder {settings.state_dir}", remedy="stop it, or give this one a folder of its own"
        ) from error
    os.truncate(handle, 0)
    os.write(handle, str(os.getpid()).encode())
    return handle
