"""The attempts in the worker's hands: each waits for a slot, has a thread from then on, and may be told to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from fdn_worker import freshness, launchers, policy
from fdn_worker.errors import Fault, JournalUnavailable, SystemFault
from fdn_worker.holds import Holds
from fdn_worker.journal import Decided, Entry, Journal, Phase
from fdn_worker.launchers import Launcher
from fdn_worker.policy import Decision, PolicyFile, Runs
from fdn_worker.protocol import Reason, State, TaskOrder, now
from fdn_worker.release.register import Releases
from fdn_worker.runner import Attempt
from fdn_worker.settings import WorkerSettings

log = logging.getLogger(__name__)


class Attempts:
    """Safe from any thread. `run` takes an attempt to its end; `trouble` is told why the journal cannot be written, and what waits for it."""

    def __init__(
        self,
        settings: WorkerSettings,
        journal: Journal,
        holds: Holds,
        launcher: Callable[[str], Launcher],
        policy_file: PolicyFile | None,
        run: Callable[[Attempt], None],
        trouble: Callable[[JournalUnavailable, str], None],
    ) -> None:
        self._settings, self._journal, self._holds, self._launcher = settings, journal, holds, launcher
        self._releases = Releases(journal)
        self._policy, self._run, self._trouble = policy_file, run, trouble
        self._held: dict[str, Attempt] = {}
        self._ready: deque[Attempt] = deque()
        self._slots_free = settings.slots
        self._lock, self._deciding = threading.RLock(), threading.Lock()
        self._closed = False

    def __len__(self) -> int:
        return len(self._held)

    @property
    def slots_free(self) -> int:
        """What a new attempt would find."""
        with self._lock:
            return max(0, self._slots_free)

    def promised(self) -> int:
        """Bytes of disk that those which run may fill; what they have filled already counts once more."""
        with self._lock:
            return sum(attempt.order.resources.disk for attempt in self._held.values() if attempt.running)

    def names(self) -> set[str]:
        """Of all of them."""
        with self._lock:
            return set(self._held)

    def get(self, name: str) -> Attempt | None:
        """The attempt, if it is here."""
        with self._lock:
            return self._held.get(name)

    def close(self) -> None:
        """Start nothing more."""
        self._closed = True

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Give the slot, which was taken for this attempt, back at the end."""
        try:
            yield
        finally:
            with self._lock:
                self._slots_free += 1
            self.schedule()

    def take_up(self, entry: Entry) -> None:
        """Put a journalled attempt in its place: refused, waiting for a slot, held for release in the journal alone, or straight on."""
        order = entry.order
        assert order is not None, "a tombstone is done"
        if entry.phase is Phase.RECEIVED:
            # One at a time: each counts for the next.
            with self._deciding:
                if not self._taken(entry.name, order):
                    return
        if entry.phase is Phase.HELD and entry.name not in self._releases.due():
            with self._lock:
                self._held.pop(entry.name, None)
            return
        attempt = Attempt(entry.name, order, self._holds.folder(order), stop=entry.stop)
        with self._lock:
            self._held[entry.name] = attempt
            if entry.phase in (Phase.RECEIVED, Phase.ACCEPTED) and entry.stop is None:
                self._ready.append(attempt)
                return
            if entry.phase in (Phase.RECEIVED, Phase.ACCEPTED, Phase.STARTED):
                self._slots_free -= 1  # given back by its thread, even if that only settles it
        self._launch(attempt)

    def _taken(self, name: str, order: TaskOrder) -> bool:
        """Decide about an order, and write that down."""
        decision = self.decide(order)
        decided = None if decision.policy is None else Decided(decision.rule, decision.policy)
        if not decision.refusals:
            # The intake has other orders to write, and would judge this one alike after a power cut.
            self._journal.record(name, durable=False, phase=Phase.ACCEPTED, state=State.ACCEPTED, decided=decided)
            return True
        refused = decision.refusals[0]
        reason = Reason(code=refused.code, fault=refused.fault, message=str(refused))
        log.warning("%s rejected: %s", name, refused, extra={"action": "reject"})
        self._journal.record(name, phase=Phase.DONE, state=State.REJECTED, reason=reason, decided=decided, finished=now().isoformat())
        return False

    def decide(self, order: TaskOrder) -> Decision:
        """What the site says of the order now, and its launcher; the same for a plan of it."""
        moment, name = now(), order.launcher or self._settings.launcher
        stale = freshness.refusals(order, self._journal, self._settings.clock_tolerance, moment)
        decision = policy.decide(order, self._settings, moment, self._policy, lambda rule: Runs(*self._journal.let_in(rule)))
        unfit = launchers.refusals(self._launcher(name), order, decision.keep_to) if name in self._settings.allowed_launchers else ()
        return replace(decision, refusals=(*stale, *decision.refusals, *unfit))

    def schedule(self) -> None:
        """Give free slots to those that wait, first come first served."""
        while not self._closed:
            with self._lock:
                if self._slots_free <= 0 or not self._ready:
                    return
                self._slots_free -= 1
                attempt = self._ready.popleft()
            self._launch(attempt)

    def _launch(self, attempt: Attempt) -> None:
        threading.Thread(target=self._run_attempt, args=(attempt,), name=attempt.name, daemon=True).start()

    def _run_attempt(self, attempt: Attempt) -> None:
        """The thread of an attempt."""
        try:
            self._run(attempt)
        except JournalUnavailable as error:
            self._trouble(error, attempt.name)
            return
        except Exception:
            # A fault of our own must not leave the run without an end; the traceback stays here.
            log.exception("%s failed inside the worker", attempt.name, extra={"action": "internal-error"})
            reason = Reason(code="internal", fault=Fault.INFRASTRUCTURE, message="the worker failed; its log at the site has the details")
            self._journal.record(attempt.name, phase=Phase.DONE, state=State.FAILED, reason=reason, finished=now().isoformat())
        with self._lock:
            self._held.pop(attempt.name, None)

    def tick(self) -> None:
        """Send log lines that waited, and end what has had its time."""
        with self._lock:
            held, ready = list(self._held.values()), set(self._ready)
        moment = now()
        for attempt in held:
            if attempt.sink is not None and attempt.running:
                attempt.sink.tick()
            if attempt.running and attempt.ends is not None and time.monotonic() > attempt.ends:
                self.end(attempt, "timeout")
            if (attempt.running or attempt in ready) and moment >= attempt.order.deadline:
                self.end(attempt, "deadline")
        for name in self._releases.due():
            # One whose thread is just about to let go of it comes with the next tick.
            entry = self._journal.entry(name) if self.get(name) is None else None
            if entry is not None and entry.phase is Phase.HELD:
                self.take_up(entry)

    def end(self, attempt: Attempt, why: str) -> None:
        """Have an attempt stopped; `why` is a key of runner.STOPS. Returns at once; the first reason stands."""
        with attempt.lock:
            if attempt.stop is not None:
                return
            self._journal.record(attempt.name, stop=why)
            attempt.stop = why
        with self._lock:
            if attempt in self._ready:
                self._ready.remove(attempt)
                self._slots_free -= 1  # given back by its thread, which only settles it
                self._launch(attempt)
        if attempt.running:
            threading.Thread(target=self._end_running, args=(attempt,), name=f"stop-{attempt.name}", daemon=True).start()

    def _end_running(self, attempt: Attempt) -> None:
        entry = self._journal.entry(attempt.name)
        assert entry is not None
        # What fills the disk gets no time to go on with it.
        grace = 0 if attempt.stop == "disk-exceeded" else self._settings.grace
        while attempt.running:
            try:
                self._launcher(entry.launcher or self._settings.launcher).stop(attempt.name, grace)
                return
            except SystemFault as error:
                log.warning("%s is not stopped yet: %s", attempt.name, error, extra={"action": "stop-waits"})
                time.sleep(2.0)

    def end_held(self, name: str) -> bool:
        """Have an attempt cancelled that waits for its release; False when it is none of those."""
        entry = self._journal.entry(name)
        if entry is None or entry.phase is not Phase.HELD:
            return False
        self._journal.record(name, stop="cancelled")
        return True

    def resume(self) -> None:
        """Take up attempts whose threads stopped because nothing could be written."""
        live = {thread.name for thread in threading.enumerate()}
        for entry in self._journal.unfinished():
            if entry.name not in live and not any(attempt.name == entry.name for attempt in self._ready):
                self.take_up(entry)
        self.schedule()
