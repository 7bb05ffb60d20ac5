"""The bundle of a site: its settings are read by the worker as they are, and nothing secret stands in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from fdn_worker.errors import SettingsError
from fdn_worker.initialise import initialise
from fdn_worker.protocol import Signer
from fdn_worker.protocol.envelope import make_key
from fdn_worker.settings import load
from federation import bundle
from federation.settings import CentreSettings


def settings(home: Path, **changes: Any) -> CentreSettings:
    """Of a centre with RabbitMQ and S3, whose addresses hold passwords."""
    make_key(home / "centre.key")
    fields: dict[str, Any] = {
        "home": home, "key": home / "centre.key", "store_url": SecretStr("s3://fem:hush@store.example:9000/fem"),
        "broker_url": SecretStr("amqps://fem:hush@centre.example:5671/?cacertfile=/run/ca.pem&certfile=/run/c.pem&keyfile=/run/c.key"),
    }  # fmt: skip
    return CentreSettings(**fields | changes)


def test_the_settings_are_ready_to_use(tmp_path: Path) -> None:
    centre = settings(tmp_path)
    read = load(bundle.write(centre, "site-a") / "fdn-worker.toml")
    assert read.node == "site-a"
    assert read.broker.url.get_secret_value() == (
        "amqps://centre.example:5671/?cacertfile=/etc/fdn-worker/tls/ca.pem"
        "&certfile=/etc/fdn-worker/tls/client.pem&keyfile=/etc/fdn-worker/tls/client.key"
    )
    assert read.keys.private == Path("/etc/fdn-worker/site-a.key")
    assert read.keys.trusted == {"centre": Signer.load("centre", tmp_path / "centre.key").public_key()}
    assert read.transfer.store == "https://store.example:9000"


def test_nothing_secret_is_in_it(tmp_path: Path) -> None:
    centre = settings(tmp_path)
    for file in bundle.write(centre, "site-a").iterdir():
        text = file.read_text()
        assert "hush" not in text
        assert (tmp_path / "centre.key").read_text().strip() not in text


def test_addresses_may_differ_for_sites(tmp_path: Path) -> None:
    centre = settings(tmp_path, broker_site_url="amqps://public.example/", store_site_url="https://s3.public.example")
    read = load(bundle.write(centre, "site-a") / "fdn-worker.toml")
    assert read.broker.url.get_secret_value() == "amqps://public.example/"
    assert read.transfer.store == "https://s3.public.example"


def test_a_login_for_all_sites_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="which every site would be given"):
        bundle.write(settings(tmp_path, broker_site_url="amqps://all:same@public.example/"), "site-a")


def test_written_again_it_is_the_same(tmp_path: Path) -> None:
    centre = settings(tmp_path)
    folder = bundle.write(centre, "site-a")
    before = {file.name: file.read_text() for file in folder.iterdir()}
    bundle.write(centre, "site-a")
    assert {file.name: file.read_text() for file in folder.iterdir()} == before


def test_at_the_site_init_makes_the_key_that_the_bundle_names(tmp_path: Path) -> None:
    given = (bundle.write(settings(tmp_path), "site-a") / "fdn-worker.toml").read_text()
    file = tmp_path / "etc/fdn-worker.toml"
    file.parent.mkdir()
    file.write_text(given.replace("/etc/fdn-worker", str(file.parent)))
    public = initialise("site-a", file, "not used", tmp_path)
    assert public == Signer.load("site-a", file.parent / "site-a.key").public_key()
    with pytest.raises(SettingsError, match="exists already"):
        initialise("site-a", file, "not used", tmp_path)
    with pytest.raises(SettingsError, match="of node 'site-a'"):
        initialise("site-b", file, "not used", tmp_path)


def test_a_password_at_the_broker_stands_in_the_settings_and_is_kept(tmp_path: Path) -> None:
    """Where no certificates are used; enrolment makes it once, and the bundle may be written often."""
    centre = settings(tmp_path, site_login="password")
    assert "certfile=/etc/fdn-worker/tls/client" not in (bundle.write(centre, "site-a") / "fdn-worker.toml").read_text()
    folder = bundle.write(centre, "site-a", password="sesame")
    assert "keep this folder to yourself" in (folder / "README.md").read_text()
    for _ in range(2):
        read = load(bundle.write(centre, "site-a") / "fdn-worker.toml")
        assert read.broker.url.get_secret_value() == "amqps://site-a:sesame@centre.example:5671/?cacertfile=/etc/fdn-worker/tls/ca.pem"
    assert folder.with_name("site-a.password").stat().st_mode & 0o077 == 0
    assert folder.stat().st_mode & 0o077 == 0
    assert "sesame" not in (bundle.write(centre, "site-b") / "fdn-worker.toml").read_text()


def test_with_a_certificate_the_page_asks_for_one(tmp_path: Path) -> None:
    page = (bundle.write(settings(tmp_path), "site-a") / "README.md").read_text()
    assert "fdn-worker init site-a --tls" in page
    assert "client.pem" in page


def test_an_embedded_federation_needs_no_key(tmp_path: Path) -> None:
    folder = bundle.write(CentreSettings(home=tmp_path), "site-a")
    read = load(folder / "fdn-worker.toml")
    assert (read.embedded, read.keys.private, read.state_dir) == (True, None, tmp_path / "sites/site-a")
    assert "fdn-worker init" not in (folder / "README.md").read_text()
