"""A worker with a policy: what it lets in, what it says of the rest, and what becomes of both when the file changes."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
import tomllib
from collections.abc import Iterator
from uuid import uuid4

import pytest

from fdn_worker.audit import files
from fdn_worker.protocol import OrderPlan, Reason, State, TaskOrder, pack
from fdn_worker.protocol.names import command_queue
from federation.inquiry import ask
from federation.local import LocalFederation
from tests.support.policies import DATASETS, a_policy, an_asking, answer, put_policy
from tests.support.rig import Rig, name_of, rig
from tests.support.waiting import SOON, eventually
from tests.unit.helpers import an_order
from tests.unit.test_policy_judge import a_rule

ADA = a_rule(users='["ada"]', datasets='["census"]')
LIST = ("/bin/sh", "-c", "ls $DATA_PATH > list")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    home = tmp_path_factory.mktemp("policy")
    names = (*DATASETS[0], "private")
    for name in names:
        (home / "data" / name).mkdir(parents=True)
    (home / "policy.toml").write_text(ADA)
    options = {"policy": str(home / "policy.toml"), "slots": 1}
    with rig(LocalFederation(home, ("site",), {"site": {name: home / "data" / name for name in names}}, options=options)) as made:
        made.start("site")
        yield made


def put(house: Rig, text: str) -> None:
    put_policy(house, "site", text)


@pytest.fixture(autouse=True)
def policy_of_ada(house: Rig) -> None:
    put(house, ADA)


def plan(house: Rig, order: TaskOrder) -> OrderPlan:
    return asyncio.run(ask(house.centre, ("site",), "plan", seconds=SOON, orders={"site": (order,)}))["site"].plans[0]


def decision(house: Rig, name: str) -> tuple[str, str | None, str] | None:
    """State, rule and hash of the policy, as the journal has them; None before it is decided."""
    with sqlite3.connect(f"file:{house.state_dir('site')}/journal.db?mode=ro", uri=True) as journal:
        found = journal.execute("SELECT state, rule, policy FROM runs JOIN decisions USING (name) WHERE name=?", (name,)).fetchone()
    journal.close()
    return found


def reason(house: Rig, submission: object) -> Reason:
    found = house.result(submission)  # type: ignore[arg-type]
    assert found.state is State.REJECTED
    assert found.reason is not None
    return found.reason


def test_what_a_rule_allows_runs_and_the_rule_stands_in_journal_and_audit(house: Rig) -> None:
    sent = house.send("site", *LIST, user="ada", datasets=("census",), outputs=("list",))
    assert house.output(house.result(sent), "outputs/list") == b"census\n"
    found = decision(house, name_of(sent))
    assert found is not None
    assert found[:2] == ("SUCCEEDED", "one")
    (row,) = (row for row in json.loads(house.command("site", "runs", "--json").stdout) if row["run"] == str(sent.run))
    assert row["rule"] == "one"

    def audited() -> list[str]:
        lines = [line for path in files(house.state_dir("site") / "audit") for line in path.read_text().splitlines()]
        return [line for line in lines if str(sent.run) in line and '"accepted"' in line]

    (line,) = eventually("it is audited", audited)
    assert '"one"' in line
    assert found[2] in line


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"user": "bob"}, "one: user 'bob' is not among its users"),
        ({"user": "ada", "datasets": ("private",)}, "one: dataset 'private' is not granted"),
        ({"user": "ada", "network": True}, "one: a network is not granted"),
    ],
)
def test_what_no_rule_allows_is_rejected_with_the_reason_and_the_plan_said_so(house: Rig, fields: dict[str, object], why: str) -> None:
    sent = house.send("site", *LIST, **fields)
    found = reason(house, sent)
    assert found.code == "policy-denied"
    assert why in found.message
    order = an_order(node="site", argv=LIST, labels={"user": fields["user"]}, **{name: fields[name] for name in fields if name != "user"})
    assert plan(house, order).reasons[0] == found
    assert not house.folder(sent).exists()


def test_a_rule_that_denies_is_recorded(house: Rig) -> None:
    put(house, ADA + a_rule("deny", "closed", datasets='["census"]'))
    sent = house.send("site", *LIST, user="ada", datasets=("census",))
    assert "rule closed of node site's policy denies it" in reason(house, sent).message
    found = decision(house, name_of(sent))
    assert found is not None
    assert found[:2] == ("REJECTED", "closed")


def test_a_broken_file_refuses_everything_and_is_a_problem_until_it_is_mended(house: Rig) -> None:
    path = house.federation.home / "policy.toml"
    path.write_text(ADA.replace("users", "user"))

    def problems() -> tuple[str, ...]:
        health = asyncio.run(ask(house.centre, ("site",), "health", seconds=SOON))["site"].health
        assert health is not None
        return health.problems

    (said,) = eventually("it is a problem", problems)
    assert said == f"every order is refused: {path}:4: unknown key 'rule.0.user', did you mean 'users'?"
    sent = house.send("site", "/bin/true", user="ada")
    assert reason(house, sent).code == "policy-broken"
    # The worker starts with it, too, since what runs is to be looked after.
    house.stop("site")
    house.start("site")
    assert reason(house, house.send("site", "/bin/true", user="ada")).code == "policy-broken"
    put(house, ADA)
    assert house.result(house.send("site", "/bin/true", user="ada")).state is State.SUCCEEDED
    assert problems() == ()


def test_what_waited_for_a_slot_is_decided_about_again(house: Rig) -> None:
    first = house.send("site", "/bin/sh", "-c", "echo begun; until [ -e go ]; do sleep 0.02; done", user="ada")
    house.line(first, "begun")
    waits = house.send("site", "/bin/true", user="ada")
    house.reach(waits, State.ACCEPTED)
    put(house, a_rule("deny", "closed", tools='["none"]') + a_rule("allow", "two", users='["bob"]'))
    (house.folder(first) / "sandbox/go").touch()
    # What runs already is left alone.
    assert house.result(first).state is State.SUCCEEDED
    assert "two: user 'ada' is not among its users" in reason(house, waits).message
    found = decision(house, name_of(waits))
    assert found is not None
    assert found[:2] == ("REJECTED", None)


def test_runs_are_counted_over_a_restart(house: Rig) -> None:
    put(house, a_rule("allow", "twice", users='["ada"]', max_runs="2"))
    assert house.result(house.send("site", "/bin/true", user="ada")).state is State.SUCCEEDED
    assert reason(house, house.send("site", "/bin/true", user="bob")).code == "policy-denied"
    house.kill("site")
    house.start("site")
    assert house.result(house.send("site", "/bin/true", user="ada")).state is State.SUCCEEDED
    assert "twice: its 2 runs are used up" in reason(house, house.send("site", "/bin/true", user="ada")).message


def test_the_worker_the_plan_and_an_independent_reading_are_of_one_mind(house: Rig) -> None:
    seed = random.SystemRandom().randrange(2**32)
    rng, answers = random.Random(seed), set()
    for _ in range(6):
        # What counts runs would answer otherwise by the time that the order comes, and the dates are those of another clock.
        text = "\n".join(line for line in a_policy(rng).splitlines() if not line.startswith(("max_", "from", "until")))
        put(house, text + "\n")
        for _ in range(6):
            fields = {name: value for name, value in an_asking(rng).items() if name != "source"}
            order = an_order(execution=uuid4(), node="site", **fields)
            allowed, rule = answer(tomllib.loads(text), json.loads(order.model_dump_json()), {}, own="process")
            planned = plan(house, order)
            house.centre.broker.publish(pack(order, house.centre.signer), key=command_queue("site"), message_id=order.message_id)
            state, by, _ = eventually("it is decided", lambda name=order.name: decision(house, name))  # type: ignore[misc]
            assert (by, allowed) == (rule, all(one.code != "policy-denied" for one in planned.reasons)), f"seed {seed}\n{text}\n{order}"
            assert (state == "REJECTED") is not planned.accepts, f"seed {seed}\n{text}\n{order}"
            answers.add(allowed)
    assert answers == {True, False}
