"""Enrolling a node: its queues and exchange at the broker, its key in the records; and the queues of the centre."""

from __future__ import annotations

from fdn_worker.brokers import Binding, Broker, Exchange, Queue
from fdn_worker.protocol.names import (
    BEAT_KEY,
    BEATS,
    DEAD_INBOX,
    EVENT_KEY,
    EXECUTIONS,
    INBOX,
    UP_KEY,
    command_queue,
    control_queue,
    dead_letter_queue,
    down_queue,
    event_exchange,
    up_queue,
)
from federation.management import Management
from storage.records import Records

#: Heartbeats that wait while no relay is up; the oldest go first.
MOST_BEATS = 10_000
#: Chunks of files (256 KiB) that wait in one queue; who sends more waits.
MOST_CHUNKS = 64


def declare_centre(broker: Broker) -> None:
    """The inbox, its dead letters, the heartbeats and the exchange of the followers. Idempotent."""
    broker.declare(
        Queue(DEAD_INBOX),
        Queue(INBOX, dead_letter=DEAD_INBOX, single_active=True),
        Queue(BEATS, max_length=MOST_BEATS, drop_oldest=True, single_active=True, replicated=False),
        Exchange(EXECUTIONS, "direct"),
    )


def enrol(
    broker: Broker, records: Records, node: str, *, public_key: str = "", display_name: str = "", management: Management | None = None
) -> str:
    """Make the node's user, queues and exchange stand, and record it. Idempotent; a new key or display name replaces the old.

    Without `management` the user is not touched. Returns the password that was made for it, "" if none was.
    """
    password = management.admit(node) if management else ""
    declare_centre(broker)
    broker.declare(
        Queue(dead_letter_queue(node)),
        Queue(command_queue(node), dead_letter=dead_letter_queue(node)),
        Queue(control_queue(node), dead_letter=dead_letter_queue(node)),
        Exchange(event_exchange(node), "direct"),
        Binding(event_exchange(node), INBOX, EVENT_KEY),
        Binding(event_exchange(node), BEATS, BEAT_KEY),
        *chunk_queues(node),
    )
    records.enrol_node(node, public_key=public_key, display_name=display_name)
    return password


def chunk_queues(node: str) -> tuple[Queue | Binding, ...]:
    """The queues of files that go by the broker.

    Not replicated: a chunk that is lost is sent again, and a quorum queue would write each to the disk of every broker.
    """
    return (
        Queue(up_queue(node), max_length=MOST_CHUNKS, single_active=True, replicated=False),
        Queue(down_queue(node), max_length=MOST_CHUNKS, replicated=False),
        Binding(event_exchange(node), up_queue(node), UP_KEY),
    )


def retire(broker: Broker, records: Records, node: str, *, management: Management | None = None) -> None:
    """Take the node's user away, which drops its connections, then its queues and exchange, with the orders that wait there."""
    records.retire_node(node)
    if management:
        management.expel(node)
    queues = (command_queue(node), control_queue(node), dead_letter_queue(node), up_queue(node), down_queue(node))
    broker.delete(*map(Queue, queues), Exchange(event_exchange(node)))
