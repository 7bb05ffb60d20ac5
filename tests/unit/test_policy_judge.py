"""What a policy says of an order: each key by itself, the order of rules, and the words of a refusal."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from fdn_worker import launchers, policy
from fdn_worker.errors import Fault, PolicyRefused
from fdn_worker.policy import PolicyFile, Runs
from fdn_worker.policy.document import read
from fdn_worker.policy.judge import MOST_QUOTED, MOST_REASONS, MOST_RULES, explain, judge
from fdn_worker.protocol import Mount, Move, Port, Server, TaskOrder
from fdn_worker.protocol.image import signed_part, vouches
from tests.support.policies import DIGESTS, KEYS, MOMENT, SIGNERS
from tests.unit.helpers import an_order, settings

PORTS, SERVERS = (Port(container=80),), (Server(node="b", host="x", ports={}),)
SIGNED = base64.b64encode(KEYS["author"].sign(signed_part(DIGESTS[0]))).decode()


def a_rule(effect: str = "allow", id_: str = "one", **keys: str) -> str:
    """A rule; values as TOML writes them."""
    return "\n".join(
        ["[[rule]]", f'id = "{id_}"', f'effect = "{effect}"', *(f"{key.rstrip('_')} = {value}" for key, value in keys.items()), ""]
    )


def asked(rules: str, order: TaskOrder, **runs: Runs) -> tuple[str | None, PolicyRefused | None]:
    found = read("[signers]\n" + "\n".join(f'{name} = "{key}"' for name, key in SIGNERS.items()) + "\n" + rules, Path("policy.toml"))
    rule, refused = judge(found, order, "docker", MOMENT, lambda name: runs.get(name, Runs()))
    return rule.id if rule else None, refused


def source(repository: str) -> dict[str, Any]:
    return {"source": {"repository": repository, "commit": "0" * 40}}


LABELS = {"labels": {"user": "ada@uni.example", "tool": "mean", "project": "census/one"}}
#: Keys of an allowing rule, an order that they allow, and one that falls short of them, with the reason.
KEYS_OF_A_RULE: dict[str, tuple[dict[str, str], dict[str, Any], dict[str, Any], str]] = {
    "tools": ({"tools": '["mean", "fl-*"]'}, LABELS, {}, "tool '' is not among its tools"),
    "users": ({"users": '["*@uni.example"]'}, LABELS, {"labels": {"user": "bob"}}, "user 'bob' is not among its users"),
    "projects": ({"projects": '["census/*"]'}, LABELS, {}, "project '' is not among its projects"),
    "images": ({"images": '["r.example/*"]'}, {"image": "r.example/a:1"}, {"image": "a:1"}, "image 'a:1' is not among its images"),
    "digests": ({"digests": f'["{DIGESTS[0]}"]'}, {"image": "a", "image_digest": DIGESTS[0]}, {"image": "a"}, "the order insists on no digest"),
    "signed_by": ({"signed_by": '["author"]'}, {"image_digest": DIGESTS[0], "image_signature": SIGNED},
                  {"image_digest": DIGESTS[1], "image_signature": SIGNED}, "the image is not signed by any of its signers"),
    "launchers": ({"launchers": '["p*"]'}, {"launcher": "process"}, {}, "launcher 'docker' is not among its launchers"),
    "own launcher": ({}, {"launcher": "docker"}, {"launcher": "process"}, "launcher 'process' is not among its launchers"),
    "datasets": ({"datasets": '["census"]'}, {"datasets": ("census",)}, {"datasets": ("census", "births")}, "dataset 'births' is not granted"),
    "mounts": ({"datasets": '["census"]'}, {"mounts": (Mount(kind="dataset", source="census/x", target="/x"),)},
               {"mounts": (Mount(kind="dataset", source="births/x", target="/x"),)}, "dataset 'births' is not granted"),
    "sources": ({"sources": '["https://g.example/**"]'}, source("https://g.example/a/b"), source("https://g.example/../b"),
                "source 'https://g.example/../b' is not granted"),
    "server": ({"network": '"server"'}, {"servers": SERVERS, "network": True}, {"network": True}, "a network is not granted"),
    "ports": ({"network": '"server"'}, {"ports": PORTS}, {"network": True}, "a network is not granted"),
    "proxy": ({"network": '"proxy"'}, {"network": True}, {"servers": SERVERS}, "to be, or to reach, a server of its execution is not granted"),
    "shelves": ({"shelves": '["models"]'}, {"moves": (Move(source="", shelf="models", to="x"),)},
                {"moves": (Move(source="", shelf="tables", to="x"),)}, "shelf 'tables' is not granted"),
    "secrets": ({"secrets": '["token"]'}, {"secrets": ("token",)}, {"secrets": ("token", "password")}, "secret 'password' is not granted"),
    "host_paths": ({"host_paths": '["/srv/a"]'}, {"mounts": (Mount(kind="host", source="/srv/a/b", target="/x"),)},
                   {"mounts": (Mount(kind="host", source="/srv/ab", target="/x"),)}, "path '/srv/ab' is not granted"),
    "keep_sandboxes": ({"keep_sandboxes": "true"}, {"sandbox": "cache"}, {}, ""),
    "cpus": ({"cpus": "2"}, {"resources": {"cpus": 2}}, {"resources": {"cpus": 2.5}}, "2.5 cpus of at most 2"),
    "memory": ({"memory": '"1GiB"'}, {}, {"resources": {"memory": "2GiB"}}, "2,147,483,648 bytes of memory of at most 1,073,741,824"),
    "gpus": ({"gpus": "0"}, {}, {"resources": {"gpus": 1}}, "1 gpus of at most 0"),
    "disk": ({"disk": '"1GiB"'}, {}, {"resources": {"disk": "2GiB"}}, "2,147,483,648 bytes of disk of at most 1,073,741,824"),
    "timeout": ({"timeout": "60"}, {"timeout": 60}, {"timeout": 61}, "61 seconds of at most 60"),
    "until": ({"until": "2030-06-02T00:00:00Z"}, {}, {}, ""),
}  # fmt: skip


@pytest.mark.parametrize("key", KEYS_OF_A_RULE)
def test_each_key_of_an_allowing_rule(key: str) -> None:
    keys, fits, short, why = KEYS_OF_A_RULE[key]
    assert asked(a_rule(**keys), an_order(**fits)) == ("one", None)
    if why:
        rule, refused = asked(a_rule(**keys), an_order(**short))
        assert rule is None
        assert refused is not None
        assert (refused.code, refused.fault, refused.remedy) == ("policy-denied", Fault.POLICY, "ask the site")
        assert f"no rule of node site-a's policy allows it (one: {why}" in refused.message


@pytest.mark.parametrize("wanting", [
    {"datasets": ("x",)}, source("https://a/b"), {"network": True}, {"ports": PORTS}, {"servers": SERVERS}, {"sandbox": "x"}, {"secrets": ("x",)},
    {"moves": (Move(source="", shelf="x", to="x"),)}, {"mounts": (Mount(kind="host", source="/x", target="/x"),)}, {"launcher": "process"},
])  # fmt: skip
def test_what_a_rule_does_not_name_it_does_not_grant(wanting: dict[str, Any]) -> None:
    assert asked(a_rule(), an_order()) == ("one", None)
    assert asked(a_rule(), an_order(**wanting))[0] is None


def test_without_a_rule_nothing_is_allowed() -> None:
    rule, refused = asked("", an_order())
    assert rule is None
    assert str(refused) == "no rule of node site-a's policy allows it (ask the site)"


@pytest.mark.parametrize(
    ("keys", "order", "denied"),
    [
        ({}, {}, True),
        ({"users": '["guest-*"]'}, {"labels": {"user": "guest-1"}}, True),
        ({"users": '["guest-*"]'}, {"labels": {"user": "ada"}}, False),
        ({"datasets": '["births"]'}, {"datasets": ("census", "births")}, True),
        ({"datasets": '["births"]'}, {"datasets": ("census",)}, False),
        ({"datasets": '["births"]', "users": '["bob"]'}, {"datasets": ("births",)}, False),
        ({"sources": '["https://e.example/**"]'}, source("https://e.example/x"), True),
        ({"sources": '["https://e.example/**"]'}, {}, False),
        ({"launchers": '["process"]'}, {"launcher": "process"}, True),
        ({"launchers": '["process"]'}, {}, False),
        ({"until": "2030-06-01T00:00:00Z"}, {}, False),
        ({"from_": "2030-06-01T00:00:00Z"}, {}, True),
        ({"from_": "2030-06-01T00:00:01Z"}, {}, False),
    ],
)
def test_a_denying_rule_goes_before_all_that_allow(keys: dict[str, str], order: dict[str, Any], denied: bool) -> None:
    allows = a_rule(datasets='["*"]', sources='["**"]', launchers='["*"]')
    rule, refused = asked(allows + a_rule("deny", "two", **keys), an_order(**order))
    assert rule == ("two" if denied else "one")
    assert (refused is not None and str(refused)) == (denied and "rule two of node site-a's policy denies it (ask the site)")


def test_no_two_rules_are_added_up_and_the_first_that_fits_decides() -> None:
    halves = a_rule(datasets='["census"]') + a_rule("allow", "two", network='"open"')
    assert asked(halves, an_order(datasets=("census",), network=True))[0] is None
    both = (
        halves + a_rule("allow", "three", datasets='["*"]', network='"open"') + a_rule("allow", "four", datasets='["*"]', network='"open"')
    )
    assert asked(both, an_order(datasets=("census",), network=True)) == ("three", None)


def test_runs_are_counted_by_rule() -> None:
    rules = a_rule(max_runs="3", max_at_once="2") + a_rule("allow", "two", max_runs="1")
    assert asked(rules, an_order(), one=Runs(2, 1)) == ("one", None)
    assert asked(rules, an_order(), one=Runs(3, 0)) == ("two", None)
    _, refused = asked(rules, an_order(), one=Runs(2, 2), two=Runs(1, 0))
    assert refused is not None
    assert "one: it has 2 runs here of at most 2 at once; two: its 1 runs are used up" in refused.message


def test_a_refusal_is_bounded_and_shows_none_of_a_rules_lists() -> None:
    many = "".join(a_rule("allow", f"rule-{number}", users='["private-name"]', tools='["secret-tool"]') for number in range(9))
    wanting = an_order(datasets=tuple(f"d{number}" for number in range(9)), labels={"user": "x" * 1000})
    _, refused = asked(many, wanting)
    assert refused is not None
    assert refused.message.count("rule-") == MOST_RULES
    assert refused.message.count("'") < MOST_RULES * (2 * MOST_REASONS + 1)
    assert "x" * MOST_QUOTED + "..." in refused.message
    assert "private-name" not in refused.message
    assert "secret-tool" not in refused.message


def test_the_rule_that_comes_nearest_is_told_first() -> None:
    rules = a_rule(users='["bob"]', tools='["mean"]') + a_rule("allow", "near", users='["bob"]')
    _, refused = asked(rules, an_order(labels={"user": "ada"}))
    assert refused is not None
    assert refused.message.index("near:") < refused.message.index("one:")


def test_an_explanation_has_all_rules() -> None:
    found = read(a_rule("deny", users='["x"]') + a_rule("allow", "two", cpus="0.5", datasets='["a"]'), Path("x"))
    readings = explain(found, an_order(datasets=("b",)), "docker", MOMENT, lambda _: Runs())
    assert [(one.rule.id, one.reasons) for one in readings] == [
        ("one", ("user '' is not among its users",)), ("two", ("dataset 'b' is not granted", "1 cpus of at most 0.5")),
    ]  # fmt: skip


def test_a_signature_is_of_one_digest_by_one_key() -> None:
    assert vouches(SIGNERS["author"], DIGESTS[0], SIGNED)
    assert not vouches(SIGNERS["lab"], DIGESTS[0], SIGNED)
    assert not vouches(SIGNERS["author"], DIGESTS[1], SIGNED)
    assert not vouches(SIGNERS["author"], DIGESTS[0], base64.b64encode(KEYS["author"].sign(DIGESTS[0].encode())).decode())
    # The digest that counts is the one that the launcher checks, wherever the order says it.
    assert asked(a_rule(signed_by='["author"]'), an_order(image=f"a@{DIGESTS[0]}", image_signature=SIGNED)) == ("one", None)
    assert asked(a_rule(signed_by='["lab"]'), an_order(image=f"a@{DIGESTS[0]}", image_signature=SIGNED))[0] is None


# With the settings


def decided(tmp_path: Path, rules: str | None, order: TaskOrder, **options: Any) -> policy.Decision:
    file = None
    if rules is not None:
        (tmp_path / "policy.toml").write_text(rules)
        file = PolicyFile(tmp_path / "policy.toml")
        options["policy"] = tmp_path / "policy.toml"
    return policy.decide(order, settings(tmp_path, **options), order.issued, file, lambda _: Runs())


def codes(decision: policy.Decision) -> list[str]:
    return [refused.code for refused in decision.refusals]


def test_settings_and_policy_must_both_agree(tmp_path: Path) -> None:
    rules = a_rule(launchers='["*"]', datasets='["census"]')
    there = decided(tmp_path, rules, an_order(timeout=10))
    assert (codes(there), there.rule, len(there.policy or "")) == ([], "one", 64)
    assert codes(decided(tmp_path, rules, an_order(datasets=("census",)))) == ["dataset-unknown"]
    both = decided(tmp_path, rules, an_order(datasets=("births",)))
    assert (codes(both), both.rule) == (["policy-denied", "dataset-unknown"], None)
    past = an_order(deadline=MOMENT - timedelta(days=9999), issued=MOMENT)
    assert "expired" in codes(decided(tmp_path, rules, past))


def test_with_a_policy_it_says_who_gets_a_network_and_not_the_settings(tmp_path: Path) -> None:
    wanting = an_order(network=True, timeout=10)
    assert codes(decided(tmp_path, None, wanting)) == ["network-refused"]
    assert codes(decided(tmp_path, a_rule(network='"open"'), wanting)) == []
    assert codes(decided(tmp_path, a_rule(), wanting, allow_network=True)) == ["policy-denied"]


@pytest.mark.parametrize(
    ("granted", "order", "keep_to"),
    [
        (None, {"servers": SERVERS}, "server"),
        ("server", {"ports": PORTS, "network": True}, "server"),
        (None, {"network": True}, ""),
        ("open", {"network": True}, ""),
        ("proxy", {"network": True}, "proxy"),
        ("open", {"servers": SERVERS}, "server"),
        ("server", {"servers": SERVERS}, "server"),
    ],
)
def test_a_task_is_kept_to_what_it_asked_for(tmp_path: Path, granted: str | None, order: dict[str, Any], keep_to: str) -> None:
    rules = None if granted is None else a_rule(network=f'"{granted}"')
    options = {"allow_network": True, "address": "a.example", "ports": "20000-20001"}
    found = decided(tmp_path, rules, an_order(timeout=10, **order), **options)
    assert (codes(found), found.keep_to) == ([], keep_to)


def test_a_server_that_the_settings_allow_gets_no_more_than_that(tmp_path: Path) -> None:
    found = decided(tmp_path, None, an_order(timeout=10, servers=SERVERS, network=True), allow_servers=True)
    assert (codes(found), found.keep_to) == ([], "server")


def test_a_broken_policy_refuses_everything(tmp_path: Path) -> None:
    found = decided(tmp_path, a_rule() + "x = 1", an_order(timeout=10))
    assert (codes(found), found.rule, found.policy) == (["policy-broken"], None, "")
    # What is wrong with it is the site's own matter.
    assert str(found.refusals[0]) == "the policy file of node site-a cannot be read (tell the site)"


def test_a_launcher_that_cannot_keep_a_task_to_a_proxy_gets_none_that_is_to_be() -> None:
    class Plain:
        """Written before there were proxies."""

    class Set:
        def gives(self, keep_to: str) -> bool:
            return keep_to == "proxy"

    wanting = an_order(network=True)
    assert [one.code for one in launchers.refusals(Plain(), wanting, "proxy")] == ["network-refused"]  # type: ignore[arg-type]
    assert not list(launchers.refusals(Plain(), wanting))  # type: ignore[arg-type]
    assert not list(launchers.refusals(Set(), wanting, "proxy"))  # type: ignore[arg-type]
    assert [one.code for one in launchers.refusals(Set(), wanting)] == ["network-refused"]  # type: ignore[arg-type]
    assert not list(launchers.refusals(Set(), an_order()))  # type: ignore[arg-type]
