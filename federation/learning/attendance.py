"""Which clients there are: the nodes of a session, and those of them that can be asked now."""

from __future__ import annotations

import asyncio

from federation.catalogue.node import NodeEntry
from federation.centre import Centre
from federation.inquiry import ask
from federation.learning.selection import Client
from federation.learning.session import SessionConfiguration
from federation.presence import presence

#: Seconds between two looks while too few are there, and for a silent node to answer.
LOOK, ANSWER = 1.0, 5.0


def clients(centre: Centre, asked: SessionConfiguration) -> list[Client]:
    """All of the session's, there or not. Their attributes are the labels of the catalogue's entry, and its region."""
    found = []
    for row in centre.records.nodes():
        if row.retired is None and (asked.nodes == "*" or row.name in asked.nodes):
            entry = NodeEntry.model_validate_json(row.document) if row.document else NodeEntry(id=row.name)
            found.append(Client(row.name, entry.labels | ({"region": entry.region} if entry.region else {})))
    return found


async def present(centre: Centre, asked: SessionConfiguration, required: int) -> list[Client]:
    """Those that are not gone. While they are too few, others are waited for, as long as a round may take; then those that are there."""
    loop = asyncio.get_running_loop()
    until = loop.time() + asked.round_timeout
    while True:
        there = await asyncio.to_thread(clients, centre, asked)
        gone = {node.name for node in await asyncio.to_thread(presence, centre.records) if node.presence == "gone"}
        found = [client for client in there if client.name not in gone]
        if len(found) >= required or loop.time() >= until:
            return found
        await asyncio.sleep(LOOK)


async def wake(centre: Centre, asked: SessionConfiguration) -> None:
    """Hear of those that seem to be gone, where it was only that nobody has listened: their heartbeats come before their answers."""
    names = {client.name for client in await asyncio.to_thread(clients, centre, asked)}
    gone = [node.name for node in await asyncio.to_thread(presence, centre.records) if node.presence == "gone" and node.name in names]
    await ask(centre, gone, "health", seconds=ANSWER)
