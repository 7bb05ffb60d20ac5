"""Which clients take part in a round. A selection is a function of the candidates and the round's number, and gives the same for the same."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil

from fdn_worker.errors import Fault, FdnError, SettingsError


class TooFewClients(FdnError):
    """A round needs more clients than there are."""

    code = "too-few-clients"
    fault = Fault.USER


@dataclass(frozen=True)
class Client:
    """A node as the learner sees it; `attributes` are its labels."""

    name: str
    attributes: Mapping[str, str] = field(default_factory=dict)


#: Candidates, number of the round -> those that take part.
Selection = Callable[[Sequence[Client], int], Sequence[Client]]


def everyone(clients: Sequence[Client], number: int) -> Sequence[Client]:
    """All of them."""
    return clients


def random_share(share: float, seed: int) -> Selection:
    """That share of them, rounded up, without repetition; another draw in each round, the same in any order of the candidates."""
    if not 0 < share <= 1:
        raise SettingsError(f"a share of {share} of the clients", remedy="above 0, and at most 1")

    def chosen(clients: Sequence[Client], number: int) -> Sequence[Client]:
        ordered = sorted(clients, key=lambda client: client.name)
        # 0.1 * 30 is 3.0000000000000004.
        return random.Random(f"{seed}/{number}").sample(ordered, ceil(share * len(ordered) - 1e-9))

    return chosen


def by_attribute(**wanted: str) -> Selection:
    """Those that have all these attributes."""
    return lambda clients, number: [client for client in clients if wanted.items() <= client.attributes.items()]


def select(
    selection: Selection, clients: Sequence[Client], number: int, *, required: int = 1, requested: int | None = None
) -> list[Client]:
    """At most `requested` of those chosen, in the order of the choice. Raises TooFewClients below `required`, SettingsError when a client is made up."""
    chosen = list(selection(clients, number))
    known = {client.name for client in clients}
    if strange := [client.name for client in chosen if client.name not in known]:
        raise SettingsError(f"the selection names {strange[0]!r}, which is no candidate", remedy="choose among what it is given")
    if len({client.name for client in chosen}) != len(chosen):
        raise SettingsError("the selection names a client twice", remedy="choose without repetition")
    if len(chosen) < required:
        raise TooFewClients(f"round {number} needs {required} clients; of {len(clients)} there, {len(chosen)} were chosen")
    return chosen[:requested]
