"""A worker that kills itself (SIGKILL) at a point that a test names. The worker's own code has no hook for this.

`python -m tests.support.dying_worker SETTINGS WHEN CALL LABEL NUMBER`: WHEN is `before` or `after`, CALL a key of CALLS, LABEL
tells its calls apart ("*" is any), and NUMBER is which of those it is, counted from 1.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from itertools import count
from typing import Any

from fdn_worker import cli
from fdn_worker.protocol import decode
from fdn_worker.protocol.chunk import unframe
from fdn_worker.protocol.envelope import payload_of

Label = Callable[..., str]


def _nothing(*_: Any, **__: Any) -> str:
    return ""


def _written(_journal: Any, _name: str, *, phase: str = "", state: str = "", lines: tuple[str, ...] = (), **columns: Any) -> str:
    """What a journal write says: a phase, a state, lines, or the columns that it sets."""
    return phase or state or ("lines" if lines else ",".join(columns))


def _message(body: bytes) -> Any:
    """What was sent, or of which chunk."""
    return decode(payload_of(body if body.startswith(b"{") else unframe(body)[0]))


def _sent(_broker: Any, body: bytes, **_: Any) -> str:
    message = _message(body)
    return f"{message.kind} {getattr(message, 'state', None) or ''}".strip()


def _held(delivery: Any) -> str:
    return str(_message(delivery.body).kind)


_LAUNCHERS = ("fdn_worker.launchers.process:ProcessLauncher", "fdn_worker.launchers.docker:DockerLauncher")
_BROKERS = ("fdn_worker.brokers.embedded:EmbeddedBroker", "fdn_worker.brokers.amqp:AmqpBroker")
#: Name -> the classes that have it, the method, and what labels a call of it.
CALLS: dict[str, tuple[tuple[str, ...], str, Label]] = {
    "receive": (("fdn_worker.journal:Journal",), "receive", _nothing),
    "record": (("fdn_worker.journal:Journal",), "record", _written),
    "sent": (("fdn_worker.journal:Journal",), "sent", _nothing),
    "part-done": (("fdn_worker.journal:Journal",), "part_done", _nothing),
    "bury": (("fdn_worker.journal:Journal",), "bury", _nothing),
    "audit": (("fdn_worker.audit:Audit",), "_append", _nothing),
    "ack": (("fdn_worker.brokers.delivery:Held",), "ack", _held),
    "publish": (_BROKERS, "publish", _sent),
    "start": (_LAUNCHERS, "start", _nothing),
    "follow": (_LAUNCHERS, "follow", _nothing),
    "remove": (_LAUNCHERS, "remove", _nothing),
    "start-container": (("docker.api.container:ContainerApiMixin",), "start", _nothing),
    "remove-container": (("docker.api.container:ContainerApiMixin",), "remove_container", _nothing),
    "make-folder": (("fdn_worker.sandbox:RunFolder",), "make", _nothing),
    "remove-folder": (("fdn_worker.sandbox:RunFolder",), "remove", _nothing),
    "get": (("fdn_worker.transfer:Transfers",), "_get", _nothing),
    "put": (("fdn_worker.signed_urls:SignedUrls", "fdn_worker.chunks:Chunks"), "put", _nothing),
    "complete": (("fdn_worker.transfer:Transfers",), "_complete", _nothing),
}


#: The centre's own steps, for a centre that dies.
CALLS |= {
    "store-input": (("storage.objects.s3:S3Store", "storage.objects.folder:FolderStore"), "put", _nothing),
    "create-execution": (("storage.records:Records",), "create_execution", _nothing),
    "add-attempt": (("storage.records:Records",), "add_attempt", _nothing),
    "listen": (("federation.centre:Centre",), "listen", _nothing),
    "mark-dispatched": (("storage.records:Records",), "mark_dispatched", _nothing),
}


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(when: str, call: str, label: str, number: int) -> None:
    """Have the process die at that point."""
    owners, method, label_of = CALLS[call]
    numbers = count(1)
    for owner in owners:
        module, _, name = owner.partition(":")
        kind = getattr(import_module(module), name)
        original = getattr(kind, method)

        def wrapped(*args: Any, _original: Callable[..., Any] = original, **kwargs: Any) -> Any:
            due = label in ("*", label_of(*args, **kwargs)) and next(numbers) == number
            if due and when == "before":
                _die()
            answer = _original(*args, **kwargs)
            if due:
                _die()
            return answer

        setattr(kind, method, wrapped)


def main() -> None:
    settings, when, call, label, number = sys.argv[1:]
    arm(when, call, label, int(number))
    sys.argv = ["fdn-worker", "start", "--settings", settings]
    cli.main()


if __name__ == "__main__":
    main()
