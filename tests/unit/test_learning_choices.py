"""Choice of clients, end of a session, and who goes to which combiner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fdn_worker.errors import SettingsError
from federation.learning.assignment import Combiner, NoCombiner, Preference, assign, by_name, by_region, least_packed, reassign
from federation.learning.selection import Client, TooFewClients, by_attribute, everyone, random_share, select
from federation.learning.stopping import after_rounds, first, loss_reached, metric_reached, patience

CLIENTS = [Client(f"site-{number}", {"region": "north" if number % 3 else "south", "kind": "hospital"}) for number in range(10)]


def names(clients: Sequence[Client]) -> list[str]:
    return [client.name for client in clients]


# Selection


@pytest.mark.parametrize(("share", "count"), [(0.3, 3), (0.25, 3), (0.01, 1), (1.0, 10)])
def test_a_random_share_is_the_same_for_the_same_seed_in_any_order(share: float, count: int) -> None:
    chosen = random_share(share, seed=5)
    drawn = names(chosen(CLIENTS, 2))
    assert len(set(drawn)) == count
    assert names(chosen(CLIENTS[::-1], 2)) == drawn


def test_a_random_share_differs_by_round_and_seed_and_reaches_all() -> None:
    rounds = [tuple(names(random_share(0.3, seed=5)(CLIENTS, number))) for number in range(40)]
    assert len(set(rounds)) > 30
    assert {name for drawn in rounds for name in drawn} == set(names(CLIENTS))
    assert names(random_share(0.3, seed=6)(CLIENTS, 0)) != list(rounds[0])


def test_by_attribute() -> None:
    assert names(by_attribute(region="south", kind="hospital")(CLIENTS, 0)) == ["site-0", "site-3", "site-6", "site-9"]
    assert by_attribute(region="east")(CLIENTS, 0) == []


def test_select_requests_and_requires() -> None:
    assert names(select(everyone, CLIENTS, 0)) == names(CLIENTS)
    assert names(select(everyone, CLIENTS, 0, requested=4)) == names(CLIENTS[:4])
    assert names(select(lambda clients, number: clients[number : number + 1], CLIENTS, 7)) == ["site-7"]
    with pytest.raises(TooFewClients, match="round 3 needs 5 clients; of 10 there, 4 were chosen"):
        select(by_attribute(region="south"), CLIENTS, 3, required=5)
    with pytest.raises(TooFewClients, match="round 0 needs 1 clients; of 0 there"):
        select(everyone, [], 0)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.2, float("nan")])
def test_an_impossible_share_is_told(share: float) -> None:
    with pytest.raises(SettingsError, match="a share of"):
        random_share(share, seed=1)


def test_a_function_that_makes_clients_up_is_told() -> None:
    with pytest.raises(SettingsError, match="names 'elsewhere', which is no candidate"):
        select(lambda clients, number: [Client("elsewhere")], CLIENTS, 0)
    with pytest.raises(SettingsError, match="a client twice"):
        select(lambda clients, number: [clients[0], clients[0]], CLIENTS, 0)


# The end


def test_rules_say_why() -> None:
    history = [{"loss": 2.0, "accuracy": 0.5}, {"loss": 0.4, "accuracy": 0.9}]
    assert after_rounds(2)(history) == "2 rounds were run"
    assert after_rounds(3)(history) is None
    assert metric_reached("accuracy", 0.9)(history) == "accuracy is 0.9, at least 0.9"
    assert metric_reached("accuracy", 0.91)(history) is None
    assert loss_reached(0.5)(history) == "loss is 0.4, at most 0.5"
    assert loss_reached(0.3)(history) is None
    assert first([after_rounds(3), loss_reached(0.5), after_rounds(1)], history) == "loss is 0.4, at most 0.5"
    assert first([], history) is None


def test_rules_on_what_is_not_there() -> None:
    for rule in (metric_reached("accuracy", 0.0), loss_reached(1e9), patience("loss", 1, rises=False)):
        assert rule([]) is None
    assert metric_reached("accuracy", 0.0)([{"loss": 1.0}]) is None
    assert patience("loss", 2, rises=False)([{}, {}]) == "loss has not been better for 2 rounds"


@pytest.mark.parametrize(
    ("values", "over"),
    [([3, 2, 1], False), ([1, 2, 3], True), ([3, 1, 2, 0.5], False), ([1, 1, 1], True), ([1, 0.995, 0.99], True), ([2, 3, 1, 4, 5], True)],
)
def test_patience(values: list[float], over: bool) -> None:
    falling = patience("loss", 2, rises=False, least=0.01)([{"loss": value} for value in values])
    rising = patience("gain", 2, rises=True, least=0.01)([{"gain": -value} for value in values])
    assert (falling is not None) == over
    assert (rising is not None) == over


def test_impossible_rules_are_told() -> None:
    with pytest.raises(SettingsError, match="0 rounds"):
        after_rounds(0)
    with pytest.raises(SettingsError, match="a patience of 0 rounds"):
        patience("loss", 0, rises=False)


# Combiners

NORTH, SOUTH, ANY = Combiner("a-north", "north"), Combiner("b-south", "south"), Combiner("c-any")


def test_least_packed_spreads_evenly() -> None:
    assert Counter(assign(CLIENTS, [NORTH, SOUTH, ANY]).values()) == {"a-north": 4, "b-south": 3, "c-any": 3}


def test_by_region_goes_near_and_else_anywhere() -> None:
    assigned = assign([*CLIENTS, Client("far", {"region": "east"}), Client("nowhere")], [NORTH, SOUTH], by_region)
    assert {assigned[client.name] for client in CLIENTS if client.attributes["region"] == "south"} == {"b-south"}
    assert {assigned[client.name] for client in CLIENTS if client.attributes["region"] == "north"} == {"a-north"}
    assert {assigned["far"], assigned["nowhere"]} <= {"a-north", "b-south"}


def test_by_name_goes_there_and_nowhere_else() -> None:
    wanted = {"site-1": "c-any", "site-2": "gone"}
    assert assign(CLIENTS[:2], [NORTH, ANY], by_name(wanted)) == {"site-0": "a-north", "site-1": "c-any"}
    with pytest.raises(NoCombiner, match=r"no combiner takes client site-2 .there are a-north, c-any"):
        assign(CLIENTS[:3], [NORTH, ANY], by_name(wanted))


def test_room_is_kept() -> None:
    small = Combiner("small", room=1)
    assert Counter(assign(CLIENTS, [small, ANY]).values()) == {"small": 1, "c-any": 9}
    with pytest.raises(NoCombiner, match="no combiner takes client site-1"):
        assign(CLIENTS, [small])
    with pytest.raises(NoCombiner, match="there are none"):
        assign(CLIENTS, [])


@given(
    clients=st.integers(1, 20), combiners=st.integers(2, 5), lost=st.integers(0, 4), preference=st.sampled_from([least_packed, by_region])
)
def test_when_a_combiner_is_lost_its_clients_alone_move(clients: int, combiners: int, lost: int, preference: Preference) -> None:
    here = [Client(f"{number}", {"region": f"{number % 3}"}) for number in range(clients)]
    there = [Combiner(f"{number}", f"{number % 2}") for number in range(combiners)]
    gone = f"{lost % combiners}"
    before = assign(here, there, preference)
    moved = reassign(before, gone, here, there, preference)
    assert moved.keys() == {client for client, combiner in before.items() if combiner == gone}
    assert gone not in moved.values()
    # Spread over those left, and not all to one.
    if preference is least_packed:
        load = Counter((before | moved).values())
        assert max(load.values()) - min(load.get(combiner.name, 0) for combiner in there if combiner.name != gone) <= 1
