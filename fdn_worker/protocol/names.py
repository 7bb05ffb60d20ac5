"""Names of sites, queues, exchanges, runs and containers; nobody spells one by hand.

Site and task ids are [a-z0-9-], parts of a name are joined by `.`, so no id can be guessed into another's queue.
"""

from __future__ import annotations

import re
from uuid import UUID, uuid5

from fdn_worker.errors import Fault, FdnError

#: A site, task or dataset id: 1 to 63 of [a-z0-9-], no dash at either end.
ID_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
_ID = re.compile(ID_PATTERN)

#: Names of a namespace of our own for uuid5, so that ids are derived and never drawn.
NAMESPACE = UUID("6f1d1b9e-3f0a-5b52-9d1c-52c1f1f0a7d4")

#: The one queue that every node's events reach; read by the relay alone.
INBOX = "inbox"
#: The queue that every node's heartbeats reach: bounded, the oldest go first.
BEATS = "beats"
#: Keys by which a node's exchange tells them, and the chunks of files, apart.
EVENT_KEY, BEAT_KEY, UP_KEY = "event", "beat", "up"
#: Undecodable events end here.
DEAD_INBOX = "dead.inbox"
#: The centre-only exchange on which the relay publishes again, routed by execution id.
EXECUTIONS = "executions"


class NameRefused(FdnError):
    """An id holds something other than [a-z0-9-]."""

    code = "bad-name"
    fault = Fault.USER


def check_id(value: str, what: str = "id") -> str:
    """Return `value` if it is a valid id, else raise NameRefused."""
    if not _ID.match(value) or "\n" in value:
        raise NameRefused(
            f"{what} {value!r} is not a valid id",
            remedy="use 1 to 63 characters of a-z, 0-9 and -, with no - at either end",
        )
    return value


def command_queue(node: str) -> str:
    """Orders for `node`."""
    return f"cmd.{check_id(node, 'node')}"


def control_queue(node: str) -> str:
    """Control requests, grants and other answers for `node`; apart, so that a cancel overtakes waiting orders."""
    return f"ctl.{check_id(node, 'node')}"


def up_queue(node: str) -> str:
    """Chunks of files that `node` sends where it goes by the broker; read by the relay alone."""
    return f"up.{check_id(node, 'node')}"


def down_queue(node: str) -> str:
    """Chunks of files for `node`."""
    return f"down.{check_id(node, 'node')}"


def event_exchange(node: str) -> str:
    """The exchange that only `node` may publish to."""
    return f"evt.{check_id(node, 'node')}"


def node_of_exchange(exchange: str) -> str:
    """The node that owns an event exchange: the sender as the broker vouches for it."""
    prefix, _, node = exchange.partition(".")
    if prefix != "evt":
        raise NameRefused(f"{exchange!r} is not a node's event exchange")
    return check_id(node, "node")


def dead_letter_queue(node: str) -> str:
    """Where commands and control requests that `node` cannot read end."""
    return f"dead.{check_id(node, 'node')}"


def execution_queue(execution: UUID, follower: str = "wait") -> str:
    """The expiring queue from which one follower (the flow's wait, a log viewer) reads an execution's events."""
    return f"exe.{execution}.{check_id(follower, 'follower')}"


def execution_id(user: str, key: str) -> UUID:
    """The id of `user`'s submission with idempotency key `key`: the same for a second submission."""
    return uuid5(uuid5(NAMESPACE, user), key)


def run_id(execution: UUID, task: str, node: str) -> UUID:
    """The id of one task of one execution at one node."""
    return uuid5(execution, f"{check_id(task, 'task')}.{check_id(node, 'node')}")


def container_name(run: UUID, attempt: int) -> str:
    """The launcher's name of an attempt: derived, so that a second create finds the first."""
    return f"fdn-{run}-{attempt}"
