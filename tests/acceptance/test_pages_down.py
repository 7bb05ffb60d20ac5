"""Pages while the broker or the object store is away: they say which, refuse what needs it in words, and are as before once it is back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import expect

from federation.centre import Centre
from federation.gateway.access import Role
from federation.local import LocalFederation
from tests.acceptance.conftest import BIN
from tests.conftest import Services
from tests.support.browser import chromium
from tests.support.gateway_process import serving
from tests.support.pages import add_users, opened, sign_in
from tests.support.proxy import Proxy
from tests.support.services import virtual_host
from tests.support.shell import shell


@pytest.fixture
def lines(services: Services, prefect_api: dict[str, str], tmp_path: Path) -> Iterator[tuple[str, Proxy, Proxy]]:
    """Of a gateway on RabbitMQ and MinIO: its address, and the lines to both."""
    name = f"pages-{time.time_ns():x}"
    with virtual_host(services, name) as amqp:
        broker, store = urlsplit(amqp), urlsplit(services.s3_url.replace("s3+", ""))
        with Proxy(broker.hostname or "", broker.port or 5672) as to_broker, Proxy(store.hostname or "", store.port or 80) as to_store:
            home = LocalFederation(
                tmp_path, ("site-a",), broker_url=_through(amqp, to_broker), store_url=_through(f"{services.s3_url}/{name}", to_store)
            )  # fmt: skip
            home.prepare()
            centre = Centre.open(home.settings())
            add_users(centre, {"anna": (Role.RESEARCHER, [])})
            centre.close()
            with serving(shell(BIN, prefect_api, home.environment()), tmp_path) as address:
                yield address, to_broker, to_store


def _through(address: str, proxy: Proxy) -> str:
    place = urlsplit(address)
    return place._replace(netloc=f"{place.username}:{place.password}@127.0.0.1:{proxy.port}").geturl()


def test_what_is_down_is_said_until_it_is_back(lines: tuple[str, Proxy, Proxy]) -> None:
    address, to_broker, to_store = lines
    with chromium() as browser, opened(browser, address) as page:
        sign_in(page, then="/ui/nodes/site-a")
        expect(page.get_by_role("button", name="Check now")).to_be_visible()
        banner = page.locator(".fem-banner")
        for line, name in ((to_store, "The object store"), (to_broker, "The broker")):
            line.cut()
            expect(banner).to_contain_text(f"{name} cannot be reached")
            if line is to_broker:
                page.get_by_role("button", name="Check now").click()
                expect(page.get_by_role("alert")).to_contain_text("the broker cannot be reached")
            line.restore()
            expect(banner).to_have_count(0)
        page.get_by_role("button", name="Check now").click()
        expect(page.get_by_text("gone (last heard: never)")).to_be_visible()
