"""Random orders against random policies: the worker's answer is that of an independent reading."""

from __future__ import annotations

import json
import random
import tomllib
from collections import Counter
from pathlib import Path

from fdn_worker.policy import Runs
from fdn_worker.policy.document import Policy, read
from fdn_worker.policy.judge import explain, judge
from fdn_worker.protocol import TaskOrder
from tests.support.policies import MOMENT, OWN_LAUNCHER, a_policy, an_asking, answer
from tests.unit.helpers import an_order

POLICIES, ORDERS = 500, 20


def read_by_worker(policy: Policy, order: TaskOrder, runs: dict[str, Runs]) -> tuple[bool, str | None]:
    """Its answer; what explains it must be of one mind with it."""
    rule, refused = judge(policy, order, OWN_LAUNCHER, MOMENT, runs.__getitem__)
    fitting = [one.rule for one in explain(policy, order, OWN_LAUNCHER, MOMENT, runs.__getitem__) if not one.reasons]
    assert rule == next((one for effect in ("deny", "allow") for one in fitting if one.effect == effect), None)
    return refused is None, rule.id if rule else None


def test_the_answer_is_that_of_a_reading_by_brute_force() -> None:
    seed = random.SystemRandom().randrange(2**32)
    rng, seen = random.Random(seed), Counter[tuple[bool, bool]]()
    for _ in range(POLICIES):
        text = a_policy(rng)
        policy, file = read(text, Path("policy.toml")), tomllib.loads(text)
        runs = {rule.id: (rng.choice([0, 1, 4, 5]), rng.choice([0, 1, 4, 5])) for rule in policy.rule}
        for _ in range(ORDERS):
            order = an_order(**an_asking(rng))
            found = read_by_worker(policy, order, {name: Runs(*counts) for name, counts in runs.items()})
            expected = answer(file, json.loads(order.model_dump_json()), runs)
            assert found == expected, f"seed {seed}\n{runs}\n{text}\n{order.model_dump_json(indent=1, exclude_defaults=True)}"
            seen[found[0], found[1] is not None] += 1
    # Let in by a rule, refused by one, and refused since there is none: all of it often enough.
    assert sum(seen.values()) == POLICIES * ORDERS == 10_000
    assert all(seen[kind] > 300 for kind in ((True, True), (False, True), (False, False))), seen
