"""`fdn-worker policy lint` and `policy test`, and what `check` says of a policy."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fdn_worker.check import findings
from fdn_worker.cli import app
from fdn_worker.errors import SettingsError
from fdn_worker.journal import Decided, Journal, Phase
from fdn_worker.policy.document import read
from fdn_worker.policy.lint import lint
from fdn_worker.policy.written import read_order
from fdn_worker.protocol import Signer, State, now
from federation.local import toml
from tests.support.policies import DIGESTS, MOMENT, SIGNERS
from tests.unit.helpers import an_order, settings
from tests.unit.test_policy_judge import a_rule

#: Of a rule with no doubt about it.
SOUND = {"users": '["ada"]', "digests": f'["{DIGESTS[0]}"]', "launchers": '["docker"]'}


def doubts(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "census").mkdir(exist_ok=True)
    site = settings(
        tmp_path, datasets={"census": tmp_path / "census"}, launcher="docker", allowed_launchers=("docker", "process"),
        host_paths=("/srv",), limits={"cpus": 4}, launchers={"docker": {"network": "tasks"}},
    )  # fmt: skip
    return list(lint(read(text, Path("policy.toml")), site, MOMENT))


def test_a_sound_policy(tmp_path: Path) -> None:
    assert doubts(tmp_path, a_rule(datasets='["c*"]', cpus="4", network='"server"', until="2031-01-01T00:00:00Z", **SOUND)) == []


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"users": '["*"]', "digests": ""}, "allows any code for anybody: name tools, users or projects, and images or digests"),
        ({"digests": ""}, "allows any image, and so any code; the tool's name is only what the order says"),
        ({"digests": "", "images": '["r.example/*"]'}, "allows images by name alone: whoever can change a tag changes what runs"),
        ({"until": "2030-05-31T00:00:00Z"}, "never matches any more: it held until 2030-05-31T00:00:00+00:00"),
        ({"from_": "2030-07-01T00:00:00Z", "until": "2030-07-01T00:00:00Z"}, "never matches: `from` is not before `until`"),
        ({"max_runs": "0"}, "never matches: it lets no run in"),
        ({"datasets": '["*"]'}, "grants every dataset, also those to come"),
        ({"datasets": '["cencus"]'}, "datasets 'cencus' matches nothing: there is census"),
        ({"shelves": '["models"]'}, "shelves 'models' matches nothing: there is none"),
        ({"secrets": '["token"]'}, "secrets 'token' matches nothing: there is none"),
        ({"launchers": '["docker", "podman"]'}, "launchers 'podman' matches nothing: allowed_launchers has docker, process"),
        ({"launchers": '["process"]'}, "names images, but launcher process takes none"),
        ({"host_paths": '["/opt"]'}, "grants path '/opt', which lies below none of the settings' host_paths"),
        ({"sources": '["**"]'}, "allows source from anywhere, and so any code"),
        ({"keep_sandboxes": "true"}, "grants kept sandboxes, and the settings keep none"),
        ({"network": '"open"'}, "grants the whole network: a task can send the data anywhere"),
        ({"network": '"proxy"'}, "grants network 'proxy', and [launchers.docker] has no network for that"),
        ({"cpus": "8"}, "its cpus are above the settings' limit of 4, which holds"),
    ],
)
def test_a_doubt(tmp_path: Path, keys: dict[str, str], said: str) -> None:
    (found,) = doubts(tmp_path, a_rule(**{key: value for key, value in (SOUND | keys).items() if value}))
    assert found.startswith(f"rule one: {said}")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        ("", "no rule allows anything: every order is refused"),
        (a_rule("deny"), "rule one: denies everything"),
        (a_rule(**SOUND) + a_rule("deny", "all"), "rule one: never matches: rule all denies all of it"),
        (a_rule(**SOUND) + a_rule("deny", "two", users='["**"]'), "rule one: never matches: rule two denies all of it"),
        (a_rule(**SOUND) + a_rule("allow", "two", tools='["x"]', **SOUND), "rule two: never decides: rule one before it takes all of it"),
        (
            a_rule("deny", users='["a"]') + a_rule("deny", "two", users='["a"]', tools='["x"]'),
            "rule two: never decides: rule one before it",
        ),
        (f'[signers]\nlab = "{SIGNERS["lab"]}"\n' + a_rule(**SOUND), "signer lab: no rule asks for its signature"),
    ],
)
def test_rules_together(tmp_path: Path, rules: str, said: str) -> None:
    assert any(one.startswith(said) for one in doubts(tmp_path, rules))


@pytest.mark.parametrize(
    "second",
    [
        {"cpus": "2"}, {"datasets": '["census"]'}, {"users": '["ada", "bob"]'}, {"network": '"server"'}, {"from_": "2030-07-01T00:00:00Z"},
    ],
)  # fmt: skip
def test_what_another_rule_leaves_something_to_is_no_doubt(tmp_path: Path, second: dict[str, str]) -> None:
    first = a_rule(cpus="1", until="2030-06-30T00:00:00Z", **SOUND)
    assert doubts(tmp_path, first + a_rule("allow", "two", **(SOUND | second))) == []
    assert doubts(tmp_path, a_rule(max_runs="1", **SOUND) + a_rule("allow", "two", **SOUND)) == []
    assert doubts(tmp_path, a_rule(**SOUND) + a_rule("deny", "two", users='["ada"]', datasets='["census"]')) == []


# The commands


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A settings file of a node with a policy of two rules."""
    (tmp_path / "data/census").mkdir(parents=True)
    (tmp_path / "policy.toml").write_text(
        a_rule("deny", users='["bob"]') + a_rule("allow", "two", datasets='["census"]', users='["a*"]', max_runs="2")
    )
    path = tmp_path / "fdn-worker.toml"
    path.write_text(toml({
        "node": "site-a", "state_dir": str(tmp_path / "state"), "launcher": "process", "allowed_launchers": ["process"],
        "policy": str(tmp_path / "policy.toml"), "limits": {"disk_reserve": 0}, "data_roots": [str(tmp_path / "data")],
        "datasets": {"census": str(tmp_path / "data/census")}, "broker": {"url": f"sqlite:///{tmp_path}/b"},
    }))  # fmt: skip
    return path


def command(site: Path, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["policy", *words, "--settings", str(site)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_an_order_that_is_written_down_is_explained(site: Path) -> None:
    order = site.parent / "order.toml"
    order.write_text('user = "ada"\ndatasets = ["census"]\n')
    assert command(site, "test", str(order)) == (
        0, "accepted by rule two\n  deny one: does not apply: user 'ada' is not among its users\n  allow two: decides\n",
    )  # fmt: skip
    order.write_text('{"labels": {"user": "bob"}, "network": true}')
    code, said = command(site, "test", str(order))
    assert code == 1
    assert said.startswith(
        "refused by rule one\n  policy-denied: rule one of node site-a's policy denies it (ask the site)\n  deny one: decides\n"
    )
    assert "allow two: falls short: user 'bob' is not among its users, a network is not granted" in said
    order.write_text(an_order(labels={"user": "ada"}).model_dump_json().replace("{", '{"kind":"task-order",', 1))
    assert command(site, "test", str(order))[0] == 0
    order.write_text('user = "bob"\n')
    code, said = command(site, "test", str(order), "--json")
    facts = json.loads(said)
    assert (code, facts["accepted"], facts["rule"], facts["refusals"][0]["code"]) == (1, False, "one", "policy-denied")


def test_another_file_and_another_moment_may_be_tried(site: Path) -> None:
    order, other = site.parent / "order.toml", site.parent / "next.toml"
    order.write_text('user = "ada"\n')
    other.write_text(a_rule(until="2031-01-01T00:00:00Z"))
    assert command(site, "test", str(order), "--policy", str(other))[0] == 0
    assert command(site, "test", str(order), "--policy", str(other), "--at", "2031-01-01")[0] == 1


def test_an_order_that_was_here_is_explained_with_what_it_counts(site: Path) -> None:
    journal = Journal(site.parent / "state/journal.db", Signer())
    order = an_order(labels={"user": "ada"})
    journal.receive(order, order.model_copy().model_dump_json().replace("{", '{"kind":"task-order",', 1).encode())
    assert command(site, "test", str(order.run)[:8])[0] == 0
    for _ in range(2):
        journal.record(order.name, phase=Phase.ACCEPTED, state=State.ACCEPTED, decided=Decided("two", "x"))
        journal.record(order.name, phase=Phase.RECEIVED)
        with journal.transaction() as db:
            db.execute("UPDATE runs SET state=?", (State.QUEUED,))
    journal.close()
    code, said = command(site, "test", str(order.run)[:8])
    assert (code, "falls short: its 2 runs are used up" in said) == (1, True)
    with pytest.raises(SettingsError, match="'nonsense' is no file, and no run that was here"):
        command(site, "test", "nonsense")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("user = ", "write it as TOML or JSON"),
        ('usr = "x"', "usr: unknown, did you mean 'user'?"),
        ("argv = []", "argv: Tuple should have at least 1 item"),
        ('node = "A"', "order"),
        ('labels = "x"', "order"),
    ],
)
def test_an_order_that_cannot_be_read(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "order").write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_order(tmp_path / "order", "site-a", now())
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_lint_by_command(site: Path) -> None:
    code, said = command(site, "lint")
    assert code == 1
    assert said.splitlines() == [
        "rule two: allows any image, and so any code; the tool's name is only what the order says",
        f"{site.parent}/policy.toml: 2 rules, 1 doubts",
    ]
    assert json.loads(command(site, "lint", "--json")[1]) == said.splitlines()[:1]
    (site.parent / "policy.toml").write_text(a_rule(id_="no-one", effect="deny") + "x = 1\n")
    with pytest.raises(SettingsError, match=r"policy\.toml:4: unknown key"):
        command(site, "lint")


def test_without_a_policy_there_is_nothing_to_ask(site: Path) -> None:
    site.write_text("\n".join(line for line in site.read_text().splitlines() if not line.startswith('"policy"')))
    with pytest.raises(SettingsError, match="these settings name no policy"):
        command(site, "lint")


def test_check_says_what_decides(tmp_path: Path) -> None:
    def found(**options: object) -> tuple[bool, str]:
        (finding,) = (one for one in findings(settings(tmp_path, **options)) if one.what == "policy")
        return finding.sound, finding.says

    path = tmp_path / "policy.toml"
    assert found() == (True, "none is set: whatever the settings allow, they allow to everybody")
    assert found(policy=path) == (False, f"policy file {path}: No such file or directory")
    path.write_text(a_rule())
    assert found(policy=path) == (True, f"1 rules of {path} decide; 1 doubts: `fdn-worker policy lint`")
    path.chmod(0o664)
    assert next(one for one in findings(settings(tmp_path, policy=path)) if one.what == "policy").remedy == f"chmod go-w {path}"


# The journal


def test_the_journal_counts_by_rule_for_ever(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.db", Signer())
    orders = [an_order(attempt=number, issued=MOMENT - timedelta(days=9), deadline=MOMENT - timedelta(days=2000)) for number in (1, 2, 3)]
    for order in orders:
        journal.receive(order, order.model_dump_json().replace("{", '{"kind":"task-order",', 1).encode())
    for order in orders[:2]:
        journal.record(order.name, phase=Phase.ACCEPTED, state=State.ACCEPTED, decided=Decided("one", "abc"))
    journal.record(orders[2].name, phase=Phase.DONE, state=State.REJECTED, finished="2020", decided=Decided("two", "abc"))
    assert (journal.let_in("one"), journal.let_in("two"), journal.let_in("three")) == ((2, 2), (0, 0), (0, 0))
    assert journal.decision(orders[2].name) == Decided("two", "abc")
    journal.record(orders[0].name, phase=Phase.DONE, state=State.CANCELLED, finished="2020")
    # Decided again, as before a start: by another rule, and it is not let in a second time.
    journal.record(orders[1].name, decided=Decided("three", "def"))
    assert (journal.let_in("one"), journal.let_in("three")) == ((2, 0), (0, 1))
    journal.forget("2021")
    assert journal.decision(orders[0].name) is None
    assert journal.deciding_rules() == {orders[1].name: "three"}
    assert journal.let_in("one") == (2, 0)
    journal.close()
