"""The centre's settings: an embedded federation unless something else is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdn_worker.errors import SettingsError
from federation.settings import load


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEM_HOME", str(tmp_path))
    return tmp_path


def wrong() -> str:
    with pytest.raises(SettingsError) as caught:
        load()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_without_anything_it_is_embedded(home: Path) -> None:
    found = load()
    assert found.embedded
    assert found.broker_url.get_secret_value() == f"sqlite:///{home}/broker.db"
    assert found.store_url.get_secret_value() == f"file://{home}/store"
    assert found.records_url.get_secret_value() == f"sqlite:///{home}/records.db"
    assert not list(home.iterdir())


def test_a_variable_stands_over_the_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "fem.toml").write_text('patience = 5.0\nrelay = "service"\n')
    monkeypatch.setenv("FEM_PATIENCE", "7")
    found = load()
    assert (found.patience, found.relay) == (7.0, "service")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('brokr_url = "x"', ["fem.toml: brokr_url: ", "known keys: home, broker_url"]),
        ('relay = "sometimes"', ["fem.toml: relay: Input should be 'process' or 'service'"]),
        ('patience = "long"', ["fem.toml: patience: Input should be a valid number"]),
        ("patience = = 3", ["fem.toml: Invalid value (at line 1", "mend the TOML there"]),
        ('broker_url = "amqps://user:secret@host"', ["the centre has no signing key", "make one with `fem keys` and set key (FEM_KEY)"]),
    ],
)
def test_what_is_wrong_is_named(home: Path, text: str, said: list[str]) -> None:
    (home / "fem.toml").write_text(text)
    message = wrong()
    assert all(words in message for words in said), message
    assert "secret" not in message


def test_a_file_that_is_not_text_is_named(home: Path) -> None:
    (home / "fem.toml").write_bytes(b"\xff\xfe")
    assert f"settings file {home}/fem.toml" in wrong()


def test_a_named_file_must_be_there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEM_SETTINGS", str(home / "other.toml"))
    assert wrong() == f"settings file {home}/other.toml: No such file or directory (mend FEM_SETTINGS)"
