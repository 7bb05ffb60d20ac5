"""Who may do what: every action with every role, and the gate that tells strangers nothing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from uuid import uuid4

import pytest
from fastapi.routing import APIRoute, iter_route_contexts

from federation.centre import Centre
from federation.gateway import signing
from federation.gateway.access import Action, Asked, Caller, Role, decide, scope
from federation.gateway.errors import NotAllowed, NotFound, TooMany
from federation.gateway.gate import Gate
from federation.gateway.settings import GatewaySettings
from tests.unit.gateway import a_gateway

OWN, SHARED, FOREIGN, NOBODYS = Asked("me"), Asked("other", "heart"), Asked("other", "liver"), Asked("other")
THINGS = {
    "own": Asked("me"), "own-heart": Asked("me", "heart"), "own-liver": Asked("me", "liver"),
    "shared": SHARED, "foreign": FOREIGN, "nobodys": NOBODYS,
}  # fmt: skip
SELF = {"own", "own-heart"}
MINE = SELF | {"own-liver"}
MINE_AND_SHARED = MINE | {"shared"}
ALL = set(THINGS)
NONE: set[str] = set()
#: Written out, and not from the table: action -> role's initial -> things.
EXPECTED = {
    "federation.read": {"r": ALL, "o": ALL, "a": ALL, "A": ALL},
    "tools.plan": {"r": SELF, "o": SELF, "a": NONE, "A": SELF},
    "nodes.check": {"r": ALL, "o": ALL, "a": NONE, "A": ALL},
    "nodes.manage": {"r": NONE, "o": ALL, "a": NONE, "A": ALL},
    "executions.list": {"r": MINE_AND_SHARED, "o": ALL, "a": ALL, "A": ALL},
    "executions.submit": {"r": SELF, "o": SELF, "a": NONE, "A": SELF},
    "executions.read": {"r": MINE_AND_SHARED, "o": ALL, "a": ALL, "A": ALL},
    "executions.logs": {"r": MINE_AND_SHARED, "o": ALL, "a": ALL, "A": ALL},
    "executions.outputs": {"r": MINE_AND_SHARED, "o": MINE_AND_SHARED, "a": ALL, "A": ALL},
    "executions.cancel": {"r": MINE_AND_SHARED, "o": ALL, "a": NONE, "A": ALL},
    "executions.retry": {"r": MINE, "o": ALL, "a": NONE, "A": ALL},
    "sessions.read": {"r": MINE_AND_SHARED, "o": ALL, "a": ALL, "A": ALL},
    "sessions.steer": {"r": MINE_AND_SHARED, "o": ALL, "a": NONE, "A": ALL},
    "models.read": {"r": MINE_AND_SHARED, "o": MINE_AND_SHARED, "a": ALL, "A": ALL},
    "reports.read": {"r": MINE_AND_SHARED, "o": ALL, "a": ALL, "A": ALL},
    "metrics.read": {"r": NONE, "o": ALL, "a": ALL, "A": ALL},
    "audit.read": {"r": NONE, "o": NONE, "a": ALL, "A": ALL},
    "account": {"r": ALL, "o": ALL, "a": ALL, "A": ALL},
    "users.manage": {"r": NONE, "o": NONE, "a": NONE, "A": ALL},
}
INITIAL = {Role.RESEARCHER: "r", Role.OPERATOR: "o", Role.AUDITOR: "a", Role.ADMINISTRATOR: "A"}


def a_caller(role: Role) -> Caller:
    return Caller("me", role, frozenset({"heart"}))


def test_the_expectation_has_every_action() -> None:
    assert set(EXPECTED) == {str(action) for action in Action}


@pytest.mark.parametrize(("action", "role"), list(itertools.product(Action, Role)))
def test_each_role_may_do_what_is_expected(action: Action, role: Role) -> None:
    expected = EXPECTED[action][INITIAL[role]]
    assert {name for name, thing in THINGS.items() if decide(a_caller(role), action, thing)} == expected
    assert decide(a_caller(role), action) is bool(expected)


def test_what_has_no_project_is_shared_with_nobody() -> None:
    odd = Caller("me", Role.RESEARCHER, frozenset({""}))
    assert not decide(odd, Action.EXECUTIONS_READ, NOBODYS)


@pytest.fixture
def gate(centre: Centre) -> Iterator[Gate]:
    gate = Gate(centre.records, GatewaySettings(downloads_at_once=2, downloads_in_all=3))
    yield gate
    gate.ledger.close()


def an_execution(centre: Centre, user: str, project: str = "") -> str:
    execution = str(uuid4())
    centre.records.create_execution(execution, user=user, project=project, tool="t", key=execution, request_json="{}", runs=[])
    return execution


def test_unknown_foreign_and_unreadable_ids_are_told_alike(centre: Centre, gate: Gate) -> None:
    me = a_caller(Role.RESEARCHER)
    mine, foreign = an_execution(centre, "me"), an_execution(centre, "other", "liver")
    assert gate.execution(me, Action.EXECUTIONS_READ, mine).id == mine
    told = set()
    for id_ in (foreign, str(uuid4()), "no id", "", foreign[:8]):
        with pytest.raises(NotFound) as refused:
            gate.execution(me, Action.EXECUTIONS_READ, id_)
        told.add((str(refused.value), refused.value.status))
    assert len(told) == 1


def test_what_changes_something_is_in_the_audit_by_itself_and_reads_are_told_together(centre: Centre, gate: Gate) -> None:
    me = a_caller(Role.RESEARCHER)
    mine = an_execution(centre, "me")
    for _ in range(3):
        gate.execution(me, Action.EXECUTIONS_READ, mine)
    gate.execution(me, Action.EXECUTIONS_CANCEL, mine)
    with pytest.raises(NotAllowed):
        gate.allow(me, Action.USERS_MANAGE)
    [cancelled] = centre.records.audit.of_kind("request")
    assert cancelled.what | {"by": ""} == {"who": "me", "action": "executions.cancel", "thing": mine, "decision": "allowed", "by": ""}
    assert list(centre.records.audit.of_kind("requests")) == []
    gate.ledger.flush(gathered=True)
    [gathered] = centre.records.audit.of_kind("requests")
    assert sorted(json.loads(json.dumps(gathered.what["told"]))) == [
        ["me", "executions.read", mine, "allowed", 3],
        ["me", "users.manage", "", "refused", 1],
    ]


def test_a_scan_of_ids_does_not_fill_the_audit(centre: Centre, gate: Gate) -> None:
    me = a_caller(Role.RESEARCHER)
    for number in range(1500):
        with pytest.raises(NotFound):
            gate.reveal(me, Action.EXECUTIONS_READ, None, f"{number}")
    gate.ledger.flush(gathered=True)
    [gathered] = centre.records.audit.of_kind("requests")
    told = gathered.what["told"]
    assert isinstance(told, list)
    assert len(told) == 501
    assert sum(row[4] for row in told) == 1500


def test_downloads_at_once_are_counted_for_one_and_for_all(gate: Gate) -> None:
    me, you = a_caller(Role.RESEARCHER), Caller("you", Role.RESEARCHER)
    with gate.download(me), gate.download(me):
        with pytest.raises(TooMany, match="2 of your downloads"), gate.download(me):
            pass
        with gate.download(you), pytest.raises(TooMany, match="as many"), gate.download(you):
            pass
    with gate.download(me):
        pass


#: Paths that a stranger may ask; nothing of the federation's is behind them. Metrics ask by themselves, where no token of the settings is shown.
OPEN = {"/health/live", "/health/ready", "/api/v2/token", "/metrics"}


def test_every_route_asks_who_is_there(centre: Centre) -> None:
    def asks(route: APIRoute) -> bool:
        found, left = False, [route.dependant]
        while left:
            one = left.pop()
            found |= one.call in (signing.caller, signing.bearer)
            left += one.dependencies
        return found

    routes = {one.path or "": one.original_route for one in iter_route_contexts(a_gateway(centre).routes)}
    there = {path: route for path, route in routes.items() if isinstance(route, APIRoute)}
    assert set(there) >= OPEN
    assert {path for path, route in there.items() if not asks(route)} - OPEN == set()


def test_lists_can_be_narrowed_before_they_are_read() -> None:
    assert {role: scope(a_caller(role), Action.EXECUTIONS_LIST).value for role in Role} == {
        Role.RESEARCHER: "shared", Role.OPERATOR: "all", Role.AUDITOR: "all", Role.ADMINISTRATOR: "all",
    }  # fmt: skip
