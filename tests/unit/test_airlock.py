"""Which files leave: the site's rules, and what follows from a person's word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from fdn_worker.errors import Fault, SettingsError
from fdn_worker.initialise import initialise
from fdn_worker.protocol import ManifestFile, Reason, State, TaskOrder, now
from fdn_worker.protocol.manifest import LOG_PATH
from fdn_worker.release.airlock import DEFAULT, LIVE, Airlock, Leaving, Verdict, Word, conclude, waits
from fdn_worker.sandbox import RunFolder, describe
from fdn_worker.settings import load
from tests.unit.helpers import SHA, an_order, settings

TABLE, PICTURE, NOTES = "outputs/tables/one.csv", "outputs/plot.png", "outputs/notes.txt"
CONTENT = {TABLE: b"group,n\na,10\nb,12\n", PICTURE: b"\x89PNG\r\n\x1a\n....", NOTES: b"words\n", LOG_PATH: b"a line\n"}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    for path, content in CONTENT.items():
        file = folder.listed(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return folder


def judged(
    folder: RunFolder, *rules: dict[str, Any], order: TaskOrder | None = None, paths: tuple[str, ...] = (), **changes: Any
) -> dict[str, Verdict]:
    """What rules r0, r1, ... say of the files; `default` and `logs` among the changes."""
    release: dict[str, Any] = {"rules": [{"id": f"r{number}", **rule} for number, rule in enumerate(rules)]}
    if "default" in changes:
        release["default"] = changes.pop("default")
    airlock = Airlock(settings(folder.root, release=release, **{"logs": "after-release"} | changes))
    files = [(describe(folder.listed(path), path), folder.listed(path)) for path in paths or CONTENT]
    return {verdict.path: verdict for verdict in airlock.judge(order or an_order(), files)}


def actions(found: dict[str, Verdict]) -> dict[str, str]:
    return {path: f"{verdict.action} {verdict.rule}" for path, verdict in found.items()}


def test_without_rules_everything_leaves(folder: RunFolder) -> None:
    assert set(actions(judged(folder)).values()) == {f"release {DEFAULT}"}


def test_with_rules_a_person_decides_about_the_rest(folder: RunFolder) -> None:
    found = judged(folder, {"action": "auto", "files": ["tables/*.csv"]}, {"action": "auto", "log": True})
    assert actions(found) == {TABLE: "release r0", LOG_PATH: "release r1", NOTES: "hold default", PICTURE: "hold default"}
    assert waits(found.values())


@pytest.mark.parametrize(("default", "action"), [("auto", "release"), ("person", "hold"), ("deny", "deny")])
def test_the_default(folder: RunFolder, default: str, action: str) -> None:
    assert set(actions(judged(folder, default=default)).values()) == {f"{action} {DEFAULT}"}


def test_the_first_rule_that_fits_decides(folder: RunFolder) -> None:
    found = judged(
        folder, {"action": "deny", "kinds": ["png"]}, {"action": "auto", "files": ["**"], "max_size": "10"}, {"action": "person"}, paths=(TABLE, PICTURE, NOTES)
    )  # fmt: skip
    assert actions(found) == {PICTURE: "deny r0", NOTES: "release r1", TABLE: "hold r2"}


def test_a_name_makes_no_type(folder: RunFolder) -> None:
    folder.listed(TABLE).write_bytes(b"\x7fELF")
    found = judged(folder, {"action": "auto", "files": ["**/*.csv"], "kinds": ["csv"]}, paths=(TABLE,))
    assert (found[TABLE].action, found[TABLE].kind) == ("hold", "binary")


def test_more_files_than_a_rule_is_for(folder: RunFolder) -> None:
    rules = {"action": "auto", "kinds": ["csv", "text"], "max_files": 2}
    assert set(actions(judged(folder, rules, paths=(TABLE, NOTES))).values()) == {"release r0"}
    (folder.sandbox / "third.txt").write_text("x")
    assert set(actions(judged(folder, rules, paths=(TABLE, NOTES, "outputs/third.txt"))).values()) == {"hold default"}


def test_a_rule_on_outputs_is_not_about_the_log(folder: RunFolder) -> None:
    (folder.sandbox / "logs").mkdir()
    (folder.sandbox / "logs/run.log").write_text("an output")
    found = judged(folder, {"action": "auto"}, paths=("outputs/logs/run.log", LOG_PATH))
    assert actions(found) == {"outputs/logs/run.log": "release r0", LOG_PATH: "hold default"}


def test_a_log_that_left_as_it_came(folder: RunFolder) -> None:
    assert actions(judged(folder, {"action": "deny", "log": True}, logs="live", paths=(LOG_PATH,))) == {LOG_PATH: f"release {LIVE}"}


@pytest.mark.parametrize(
    ("rule", "order", "fits"),
    [
        ({"tools": ["mean*"]}, {"labels": {"tool": "mean-2"}}, True),
        ({"tools": ["mean"]}, {"labels": {"tool": "mean-2"}}, False),
        ({"tools": ["?*"]}, {}, False),
        ({"users": ["ada"], "projects": ["p"]}, {"labels": {"user": "ada", "project": "p"}}, True),
        ({"users": ["ada"], "projects": ["p"]}, {"labels": {"user": "ada", "project": "q"}}, False),
        ({"datasets": ["public*"]}, {"datasets": ("public-1", "public-2")}, True),
        ({"datasets": ["public"]}, {}, True),
        ({"datasets": ["public"]}, {"datasets": ("public", "census")}, False),
        ({"datasets": ["public"]}, {"datasets": ("public",), "mounts": ({"kind": "dataset", "source": "census/x", "target": "/x"},)}, False),
        ({"datasets": ["public"]}, {"mounts": ({"kind": "host", "source": "/srv/x", "target": "/x"},)}, False),
        ({"datasets": ["public", "/srv/x"]}, {"mounts": ({"kind": "host", "source": "/srv/x", "target": "/x"},)}, True),
        ({"datasets": ["public"]}, {"datasets": ("public",), "sandbox": "kept"}, False),
    ],
)  # fmt: skip
def test_a_rule_that_lets_go_fits_all_of_the_order(folder: RunFolder, rule: dict[str, Any], order: dict[str, Any], fits: bool) -> None:
    found = judged(folder, {"action": "auto", **rule}, order=an_order(**order), paths=(NOTES,))
    assert found[NOTES].action == ("release" if fits else "hold")


@pytest.mark.parametrize(("datasets", "fits"), [(("census", "public"), True), (("public",), False), ((), False)])
@pytest.mark.parametrize("action", ["person", "deny"])
def test_a_rule_that_holds_fits_any_of_the_order(folder: RunFolder, action: str, datasets: tuple[str, ...], fits: bool) -> None:
    found = judged(
        folder, {"action": action, "datasets": ["census"]}, {"action": "auto"}, order=an_order(datasets=datasets), paths=(NOTES,)
    )
    assert found[NOTES].rule == ("r0" if fits else "r1")


@pytest.mark.parametrize(("otherwise", "action"), [("person", "hold"), ("deny", "deny")])
def test_checks(folder: RunFolder, otherwise: str, action: str) -> None:
    checks = {"csv": {"min_count": 11, "count_columns": ["n"], "max_rows": 1}, "text": {"max_lines": 2}}
    rule = {"action": "check", "kinds": ["csv"], "checks": checks, "otherwise": otherwise}
    found = judged(folder, rule, paths=(TABLE,))[TABLE]
    assert (found.action, found.rule, found.kind) == (action, "r0", "csv")
    assert found.findings == (
        "csv: column 'n' has counts below 11: row 1",
        "csv: it has more than 1 rows",
        "text: it has more than 2 lines",
    )
    folder.listed(TABLE).write_text("group,n\na,11\n")
    good = judged(folder, rule, paths=(TABLE,))[TABLE]
    assert (good.action, good.findings) == ("release", ())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[release.rules]]\nid = "a"\naction = "check"\n', "rule 'a': action check and a table of checks belong together"),
        ('[[release.rules]]\nid = "a"\naction = "auto"\n[release.rules.checks.csv]\n', "action check and a table of checks"),
        ('[[release.rules]]\nid = "a"\naction = "auto"\nlog = true\nfiles = ["x"]\n', "the log is one file"),
        ('[[release.rules]]\nid = "a"\naction = "auto"\n' * 2, "rule 'a' is there twice"),
        ('[[release.rules]]\nid = "default"\naction = "auto"\n', "rule 'default' is there twice, or has a name that is taken"),
        ('[[release.rules]]\nid = "a"\naction = "auto"\nkinds = ["exe"]\n', "fdn-worker.toml:9: release.rules.0.kinds.0: Input should be 'empty'"),
        ('[[release.rules]]\nid = "a"\naction = "auto"\n[[release.rules]]\nid = "b"\nacton = "deny"\n',
         "fdn-worker.toml:11: unknown key 'release.rules.1.acton', did you mean 'action'?"),
    ],
)  # fmt: skip
def test_wrong_rules_are_named_with_their_place(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "fdn-worker.toml"
    path.write_text(f'node = "a"\nlauncher = "process"\nallowed_launchers = ["process"]\n[broker]\nurl = "sqlite:///{tmp_path}/b"\n{text}')
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert said in str(caught.value)


def test_a_check_that_is_not_there_is_found_at_the_start(tmp_path: Path) -> None:
    rule = {"id": "a", "action": "check", "checks": {"parquet": {}}}
    with pytest.raises(SettingsError, match="check 'parquet' is not installed"):
        Airlock(settings(tmp_path, release={"rules": [rule]}))


def test_the_example_that_init_writes_is_right(tmp_path: Path) -> None:
    initialise("site-a", tmp_path / "fdn-worker.toml", f"sqlite:///{tmp_path}/b", tmp_path)
    before, head, after = (tmp_path / "fdn-worker.toml").read_text().partition("[release]\n")
    example, _, rest = after.partition("\n\n")
    keys = "\n".join(re.findall(r"^# (\w[\w.]* = .*|\[\[.*)$", example, re.MULTILINE))
    (tmp_path / "fdn-worker.toml").write_text(f"{before}{head}{keys}\n\n{rest}")
    section = load(tmp_path / "fdn-worker.toml").release
    assert (section.default, [(rule.id, rule.action, list(rule.checks)) for rule in section.rules]) == (
        "person",
        [("tables", "check", ["csv"])],
    )


# What follows

FILES = {path: ManifestFile(path=path, size=len(content), sha256=SHA) for path, content in CONTENT.items()}
OWN = Reason(code="exit-code", fault=Fault.USER, message="the task ended with exit code 3")


def leaving(state: State = State.SUCCEEDED, word: tuple[str, ...] | None = None, **said: str) -> Leaving:
    """`said`: table, picture, log -> what the rules say of it."""
    paths = {"table": TABLE, "picture": PICTURE, "log": LOG_PATH}
    verdicts = [Verdict(path=paths[name], size=1, kind="text", action=action, rule=f"{name}-rule") for name, action in said.items()]  # type: ignore[arg-type]
    spoken = None if word is None else Word(person="eve", at=now(), files=tuple(paths[name] for name in word), why="because")
    return conclude(state, None if state is State.SUCCEEDED else OWN, [FILES[one.path] for one in verdicts], verdicts, spoken)


@pytest.mark.parametrize(
    ("said", "word", "state", "verdict", "withheld"),
    [
        ({"table": "release", "log": "release"}, None, State.SUCCEEDED, "released", 0),
        ({"table": "release", "log": "deny"}, None, State.SUCCEEDED, "partly", 1),
        ({"log": "deny"}, None, State.SUCCEEDED, "denied", 1),
        ({"table": "release", "picture": "deny"}, None, State.SUCCEEDED, "partly", 1),
        ({"table": "deny", "picture": "deny"}, None, State.FAILED, "denied", 2),
        ({"table": "deny", "log": "release"}, None, State.FAILED, "partly", 1),
        ({"table": "hold", "picture": "hold", "log": "release"}, ("table",), State.SUCCEEDED, "partly", 1),
        ({"table": "hold", "picture": "hold"}, ("table", "picture"), State.SUCCEEDED, "released", 0),
        ({"table": "hold", "log": "hold"}, ("log",), State.FAILED, "partly", 1),
        ({"table": "hold", "picture": "release"}, (), State.FAILED, "denied", 2),
        ({"log": "hold"}, (), State.FAILED, "denied", 1),
        # A rule's denial is not a person's to undo.
        ({"table": "hold", "picture": "deny"}, ("table", "picture"), State.SUCCEEDED, "partly", 1),
    ],
)  # fmt: skip
def test_how_a_success_ends(said: dict[str, str], word: tuple[str, ...] | None, state: State, verdict: str, withheld: int) -> None:
    end = leaving(word=word, **said)
    assert end.release is not None
    assert (end.state, end.release.verdict, end.release.withheld) == (state, verdict, withheld)
    assert len(end.files) == len(said) - withheld
    assert (end.reason and (end.reason.code, end.reason.fault)) == (("release-denied", Fault.POLICY) if state is State.FAILED else None)


def test_who_let_it_go(folder: RunFolder) -> None:
    end = leaving(word=("table",), table="hold", picture="release", log="deny")
    assert end.release is not None
    assert (end.release.rules, end.release.person, end.release.why) == (("picture-rule",), "eve", "because")
    denied = leaving(word=(), table="hold")
    assert denied.reason is not None
    assert denied.reason.message == "the site does not let the outputs leave: because"


@pytest.mark.parametrize("word", [None, (), ("log",)])
def test_a_failure_stays_what_it_was(word: tuple[str, ...] | None) -> None:
    end = leaving(State.FAILED, word, log="hold")
    assert (end.state, end.reason, len(end.files)) == (State.FAILED, OWN, 1 if word else 0)


def test_nothing_to_decide_about() -> None:
    assert leaving().release is None
