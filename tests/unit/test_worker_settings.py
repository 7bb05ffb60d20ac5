"""The worker's settings file: what is wrong is named with its file, line and key, and how to mend it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fdn_worker.brokers import connect
from fdn_worker.errors import SettingsError
from fdn_worker.initialise import initialise
from fdn_worker.settings import WorkerSettings, load
from tests.unit.helpers import settings

GOOD = """\
node = "site-a"
state_dir = "/var/lib/fdn"
slots = 3

[broker]
url = "sqlite:////var/lib/fdn/broker.db"

[limits]
timeout = 60.0
memory = "2GiB"

[source]
timeout = 5.0
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "fdn-worker.toml"
    path.write_text(text)
    return path


def wrong(path: Path) -> str:
    """The message of the error that `path` gives: one line."""
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert caught.value.code == "settings"
    return str(caught.value)


def test_a_file_and_the_variables_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, GOOD)
    found = load(path)
    assert (found.node, found.slots, found.limits.memory, found.limits.timeout, found.source.timeout) == (
        "site-a",
        3,
        2 * 1024**3,
        60.0,
        5.0,
    )
    assert found.embedded
    monkeypatch.setenv("FDN_SLOTS", "7")
    monkeypatch.setenv("FDN_LIMITS__TIMEOUT", "9")
    found = load(path)
    assert (found.slots, found.limits.timeout, found.limits.memory) == (7, 9.0, 2 * 1024**3)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("slots = 3", "slosts = 3", ":3: unknown key 'slosts', did you mean 'slots'?"),
        ("timeout = 5.0", "time_out = 5.0", ":13: unknown key 'source.time_out', did you mean 'timeout'?"),
        ("[limits]", "[limit]", ":8: unknown key 'limit', did you mean 'limits'?"),
        ("slots = 3", "zzz = 3", ":3: unknown key 'zzz'"),
        ("slots = 3", 'slots = "many"', ":3: slots: Input should be a valid integer"),
        ("slots = 3", "slots = 0", ":3: slots: Input should be greater than or equal to 1"),
        ("timeout = 5.0", 'timeout = "soon"', ":13: source.timeout: Input should be a valid number"),
        ('memory = "2GiB"', 'memory = "2GBB"', ":10: limits.memory: could not interpret byte unit: GBB"),
        ('node = "site-a"', "", ": key 'node' is required"),
        ('url = "sqlite:////var/lib/fdn/broker.db"', "", ":5: key 'broker.url' is required"),
        ('node = "site-a"', 'node = "Site A"', ":1: node: String should match pattern"),
        ('"/var/lib/fdn"', '"state"', ":2: state_dir: must be an absolute path"),
        ("slots = 3", 'launcher = "process"', ": launcher 'process' is not among allowed_launchers ['docker']"),
        ("sqlite:////var/lib/fdn/broker.db", "amqps://h", ": keys.private is required with this broker"),
        ("[limits]", '[datasets]\n"Census" = "/x"\n[limits]', ":9: datasets.Census"),
        ("[limits]", "[transfer]\npart_size = 1000\n[limits]", ":9: transfer.part_size: "),
        ("slots = 3", 'ports = "20000"', ":3: ports: String should match pattern"),
        ("slots = 3", 'ports = "20000-20009"', ": ports '20000-20009' are of no use without the address at which others reach them"),
        ("slots = 3", 'address = "x"\nports = "20009-20000"', ": ports '20009-20000' must be a first and a last one, of 1 to 65535"),
        ("slots = 3", 'address = "x"\nports = "0-9"', ": ports '0-9' must be a first and a last one"),
        ("slots = 3", 'address = "x"\nports = "65535-65536"', ": ports '65535-65536' must be"),
        ("slots = 3", 'bind = "x.example"', ":3: bind: 'x.example' does not appear to be an IPv4 or IPv6 address"),
        ("slots = 3", 'images = "all"', ":3: images: "),
        ("slots = 3", 'host_paths = ["srv"]', ":3: host_paths: 'srv' must be an absolute path, and not the root"),
        ("slots = 3", 'host_paths = ["/"]', ":3: host_paths: '/' must be"),
        ("[limits]", '[variables]\nDATA_PATH = "/x"\n[limits]', ":8: variables: DATA_PATH is set by the worker itself; name it otherwise"),
        ("[limits]", '[variables]\nPORT_80 = "1"\n[limits]', ":8: variables: PORT_80 is set by the worker itself"),
        ("[limits]", '[variables]\n"A B" = "1"\n[limits]', ":8: variables.A B"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert GOOD.count(old) == 1
    path = write(tmp_path, GOOD.replace(old, new))
    assert f"{path}{said}" in wrong(path)


def test_all_that_is_wrong_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, GOOD.replace("slots", "slosts").replace("60.0", "'x'"))
    said = wrong(path)
    assert f"{path}:3: unknown key 'slosts'" in said
    assert f"{path}:9: limits.timeout: Input should be a valid number" in said


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("FDN_SLOTS", "many", "variable FDN_SLOTS: slots: Input should be a valid integer, unable to parse string as an integer"),
        ("FDN_BROKER__URLL", "x", "variable FDN_BROKER__URLL: unknown key 'broker.urll', did you mean 'url'?"),
        ("FDN_ALLOWED_LAUNCHERS", "docker", 'variable FDN_ALLOWED_LAUNCHERS cannot be read (write lists and tables as JSON: ["docker"])'),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str) -> None:
    monkeypatch.setenv(name, value)
    assert wrong(write(tmp_path, GOOD)) == said


@pytest.mark.parametrize("content", [b"slots = = 3\n", b'node = "a\n', b"\xff\xfe\n"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fdn-worker.toml"
    path.write_bytes(content)
    said = wrong(path)
    assert said.startswith(f"settings file {path}: ")
    assert said.endswith("(mend the TOML there)")


def test_broken_toml_is_named_with_its_line(tmp_path: Path) -> None:
    assert "line 2" in wrong(write(tmp_path, 'node = "a"\nslots = = 3\n'))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    said = wrong(tmp_path / "no.toml")
    assert said == f"settings file {tmp_path}/no.toml: No such file or directory (write one with `fdn-worker init`)"
    assert "Is a directory" in wrong(tmp_path)


@pytest.mark.parametrize("url", ["kafka://user:secret@host/x", "", "rabbit"])
def test_an_unknown_broker_scheme_is_named(url: str) -> None:
    with pytest.raises(SettingsError) as caught:
        connect(url)
    assert "has an unknown scheme (use amqp://, amqps:// or sqlite:///PATH)" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("broker", ["sqlite:////tmp/x.db", "amqps://user:hunter2@host"])
def test_what_init_writes_can_be_read(tmp_path: Path, broker: str) -> None:
    path = tmp_path / "etc" / "fdn-worker.toml"
    public = initialise("site-a", path, broker, tmp_path / "state")
    found = load(path)
    assert (found.node, found.state_dir, found.embedded) == ("site-a", tmp_path / "state", broker.startswith("sqlite"))
    assert bool(public) is not found.embedded
    assert path.stat().st_mode & 0o077 == 0
    assert "hunter2" not in repr(found)
    with pytest.raises(SettingsError, match="exists already"):
        initialise("site-a", path, broker, tmp_path / "state")


def test_settings_are_frozen_and_defaults_admit_no_process() -> None:
    found = WorkerSettings(node="a", broker={"url": "sqlite:///x"})
    assert found.allowed_launchers == ("docker",)
    assert not found.allow_network
    with pytest.raises(ValueError, match="frozen"):
        found.slots = 9  # type: ignore[misc]


def test_the_ports_of_a_range(tmp_path: Path) -> None:
    found = load(write(tmp_path, GOOD.replace("slots = 3", 'slots = 3\naddress = "x"\nports = "20000-20002"')))
    assert list(found.published) == [20000, 20001, 20002]
    assert list(load(write(tmp_path, GOOD)).published) == []


@pytest.mark.parametrize(
    ("broker", "trusted", "unsigned"),
    [
        ("sqlite:///{}/broker.db", {}, True),
        ("sqlite:///{}/broker.db", {"centre": "k"}, False),
        ("amqps://h", {}, False),
        ("amqps://h", {"centre": "k"}, False),
    ],
)
def test_unsigned_orders_are_for_an_embedded_federation_without_keys(
    tmp_path: Path, broker: str, trusted: dict[str, str], unsigned: bool
) -> None:
    made = settings(tmp_path, broker={"url": broker.format(tmp_path)}, keys={"private": tmp_path / "key", "trusted": trusted})
    assert made.unsigned is unsigned
