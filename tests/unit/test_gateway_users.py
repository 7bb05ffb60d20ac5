"""`fem users` and `fem tokens`, and the settings of the gateway."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from fdn_worker.errors import FdnError, SettingsError
from federation.centre import Centre
from federation.gateway.errors import NotSignedIn
from federation.gateway.gate import Gate
from federation.gateway.passwords import matches
from federation.gateway.settings import GatewaySettings, load_settings
from federation.gateway.users import FIRST, first_administrator
from federation.settings import load
from flows import connection
from flows.cli import app
from storage.records import Records
from tests.unit.gateway import PASSWORD


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("FEM_HOME", str(tmp_path))
    yield tmp_path
    connection.close()


def call(*words: str, given: str = "") -> Result:
    return CliRunner().invoke(app, words, input=given)


def told(*words: str) -> str:
    result = call(*words)
    assert result.exit_code == 0, result.output
    return result.stdout


def gate() -> Gate:
    return Gate(connection.centre().records, GatewaySettings())


def test_a_user_is_made_changed_and_shut_out() -> None:
    assert call("users", "add", "anna", "--project", "heart", "--project", "liver", given=f"{PASSWORD}\n").exit_code == 0
    [anna] = json.loads(told("users", "list", "--json"))
    assert (anna["name"], anna["role"], anna["projects"], anna["disabled"]) == ("anna", "researcher", ["heart", "liver"], None)
    told("users", "role", "anna", "auditor")
    told("users", "projects", "anna", "lung")
    new = told("users", "password", "anna", "--generate").removeprefix("password: ").strip()
    [anna] = json.loads(told("users", "list", "--json"))
    assert (anna["role"], anna["projects"]) == ("auditor", ["lung"])
    row = connection.centre().records.gateway.user("anna")
    assert row is not None
    assert (matches(row.password, new), matches(row.password, PASSWORD)) == (True, False)
    told("users", "disable", "anna")
    with pytest.raises(NotSignedIn):
        gate().tokens.sign_in("anna", new)
    told("users", "disable", "anna", "--undo")
    assert gate().tokens.sign_in("anna", new).user == "anna"
    assert "auditor" in told("users", "list")
    kinds = [line.what["user"] for kind in ("user-added", "user-changed") for line in connection.centre().records.audit.of_kind(kind)]
    assert kinds == ["anna"] * 6
    assert all(new not in line for _, line in connection.centre().records.audit.lines())


def test_a_programs_token_is_shown_once_and_revoked_by_its_label() -> None:
    told("users", "add", "anna", "--generate")
    token = told("tokens", "create", "anna", "notebook", "--days", "3").strip()
    assert gate().identify(token, "here").name == "anna"
    [row] = json.loads(told("tokens", "list", "anna", "--json"))
    assert row["label"] == "notebook"
    assert token not in told("tokens", "list", "anna")
    told("tokens", "revoke", "anna", "notebook")
    with pytest.raises(NotSignedIn):
        gate().identify(token, "here")
    # The label is free again.
    assert told("tokens", "create", "anna", "notebook").startswith("fem_api_")


WRONG = {
    "a role that is none": (("users", "add", "bert", "--role", "king", "--generate"), "'king' is no role"),
    "a name that is none": (("users", "add", "Bert!", "--generate"), "is no user's name"),
    "a name that is taken": (("users", "add", "anna", "--generate"), "is there already"),
    "a project that is none": (("users", "add", "bert", "--project", " ", "--generate"), "is no project's name"),
    "a password too short": (("users", "password", "anna"), "has 0 characters"),
    "an unknown user": (("users", "role", "nobody", "auditor"), "no user 'nobody'"),
    "a label twice": (("tokens", "create", "anna", "one"), "has a token 'one' already"),
    "no label": (("tokens", "create", "anna", ""), "is no label"),
    "a token of nobody's": (("tokens", "create", "nobody", "one"), "no user 'nobody'"),
    "a label that is unknown": (("tokens", "revoke", "anna", "two"), "has no token 'two'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_told_and_changes_nothing(case: str) -> None:
    told("users", "add", "anna", "--generate")
    told("tokens", "create", "anna", "one")
    before = told("users", "list", "--json"), told("tokens", "list", "anna", "--json")
    words, message = WRONG[case]
    result = call(*words)
    assert isinstance(result.exception, FdnError)
    assert message in str(result.exception)
    assert (told("users", "list", "--json"), told("tokens", "list", "anna", "--json")) == before


def test_the_first_administrator_is_made_once(centre: Centre) -> None:
    password = first_administrator(centre.records.gateway)
    assert password is not None
    row = centre.records.gateway.user(FIRST)
    assert row is not None
    assert (row.role, matches(row.password, password)) == ("administrator", True)
    assert first_administrator(centre.records.gateway) is None


def test_records_of_an_earlier_version_get_the_tables(centre: Centre) -> None:
    address = centre.settings.records_url.get_secret_value()
    with centre.records.database.write() as db:
        for table in ("memberships", "users", "tokens", "rates"):
            db.exec_driver_sql(f"DROP TABLE {table}")
        db.exec_driver_sql("UPDATE schema_version SET version = 3")
    with pytest.raises(FdnError):
        centre.records.gateway.users()
    opened = Records.open(address)
    assert opened.gateway.users() == []
    opened.close()


def test_settings_come_from_the_table_serve_and_the_centre_passes_it_over(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "fem.toml").write_text('patience = 3.0\n[serve]\nport = 9000\nbody_limit = "2MiB"\noidc_roles = {}\n')
    monkeypatch.setenv("FEM_SERVE_HOST", "127.0.0.2")
    monkeypatch.setenv("FEM_SERVE_CORS_ORIGINS", '["https://a.example"]')
    found = load_settings(port=9001)
    assert (found.host, found.port, found.body_limit, found.cors_origins) == ("127.0.0.2", 9001, 2 * 2**20, ("https://a.example",))
    assert load().patience == 3.0


@pytest.mark.parametrize("text", ["[serve]\nprot = 1\n", "[serve]\nport = 70000\n", '[serve]\noidc_roles = {a = "king"}\n', "serve = 1\n"])
def test_settings_that_are_wrong_name_key_and_file(home: Path, text: str) -> None:
    (home / "fem.toml").write_text(text)
    with pytest.raises(SettingsError, match=r"fem.toml.*serve"):
        load_settings()
