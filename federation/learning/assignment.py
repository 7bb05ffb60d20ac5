"""Which combiner takes which client's updates. Pure: the same candidates give the same assignment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fdn_worker.errors import Fault, FdnError
from federation.learning.selection import Client


class NoCombiner(FdnError):
    """A client has none to go to."""

    code = "no-combiner"
    fault = Fault.USER


@dataclass(frozen=True)
class Combiner:
    """Takes up to `room` clients; None: any number."""

    name: str
    region: str = ""
    room: int | None = None


#: Client, combiners that have room, how many clients each has -> one of them, or None if none will do.
Preference = Callable[[Client, Sequence[Combiner], Mapping[str, int]], Combiner | None]


def least_packed(client: Client, combiners: Sequence[Combiner], load: Mapping[str, int]) -> Combiner | None:
    """The one with the fewest clients, and of several the first by name."""
    return min(combiners, key=lambda combiner: (load.get(combiner.name, 0), combiner.name), default=None)


def by_region(client: Client, combiners: Sequence[Combiner], load: Mapping[str, int]) -> Combiner | None:
    """The least packed of those in the region that the client's attribute `region` names; of all, if there is none."""
    near = [combiner for combiner in combiners if combiner.region and combiner.region == client.attributes.get("region")]
    return least_packed(client, near or combiners, load)


def by_name(names: Mapping[str, str]) -> Preference:
    """The one that stands beside the client's name, and no other; a client that is not listed goes to the least packed."""

    def preference(client: Client, combiners: Sequence[Combiner], load: Mapping[str, int]) -> Combiner | None:
        if (name := names.get(client.name)) is None:
            return least_packed(client, combiners, load)
        return next((combiner for combiner in combiners if combiner.name == name), None)

    return preference


def assign(
    clients: Sequence[Client],
    combiners: Sequence[Combiner],
    preference: Preference = least_packed,
    *,
    stay: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Client -> combiner, by their names. Who is in `stay` with a combiner that is still there stays.

    Raises NoCombiner for the first client that none will take.
    """
    there = {combiner.name: combiner for combiner in combiners}
    wanted = {client.name for client in clients}
    assigned = {client: combiner for client, combiner in (stay or {}).items() if client in wanted and combiner in there}
    load = Counter(assigned.values())
    for client in sorted(clients, key=lambda client: client.name):
        if client.name in assigned:
            continue
        roomy = [combiner for combiner in combiners if combiner.room is None or load[combiner.name] < combiner.room]
        if (chosen := preference(client, roomy, load)) is None:
            raise NoCombiner(
                f"no combiner takes client {client.name}",
                remedy=f"there are {', '.join(sorted(there)) or 'none'}; give one more room, or add one",
            )
        assigned[client.name] = chosen.name
        load[chosen.name] += 1
    return assigned


def reassign(
    assigned: Mapping[str, str], lost: str, clients: Sequence[Client], combiners: Sequence[Combiner], preference: Preference = least_packed
) -> dict[str, str]:
    """After combiner `lost` is gone: where its clients go now; theirs alone, all others stay. Their updates are to be sent again."""
    left = [combiner for combiner in combiners if combiner.name != lost]
    after = assign(clients, left, preference, stay=assigned)
    return {client: combiner for client, combiner in after.items() if assigned.get(client) == lost}
